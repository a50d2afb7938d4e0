"""Insertion and deletion against one image and one step at a time; an oracle on toybirds against noise."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d
from torch.nn.functional import interpolate

from fgbench.data.toybirds import ToyBirds
from fgbench.metrics.perturbation import Perturbation, area, blurred, curves, ranks, subset


def classify(image):
    """Class 0 by the left half, class 1 by the right: nothing of a batch but the image itself counts."""
    return torch.stack([image[..., :4].mean((1, 2, 3)), image[..., 4:].mean((1, 2, 3))], 1) * 3


def asked(network):
    """A network as ``curves`` asks it."""
    return lambda shown, row: network(shown.image())


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 9999), st.sampled_from([1, 5, 7]), st.sampled_from([1, 6, 1000]))
def test_curves_are_those_of_one_image_and_one_step_at_a_time(seed, steps, at_once):
    random = torch.Generator().manual_seed(seed)
    image = torch.randn(3, 3, 6, 8, generator=random)
    saliency = torch.rand(3, 2, 3, generator=random)
    index = classify(image).argmax(1)
    passes = []

    def watched(shown, row):
        passes.append(len(shown.counts))
        return classify(shown.image())

    fuzzy = image.flip(-1)  # the blur of so small an image is the image
    with mock.patch("fgbench.metrics.perturbation.blurred", return_value=fuzzy):
        found = curves(watched, image, index, ranks(saliency, 6, 8), steps, at_once)
    assert len(set(passes)) == 1  # what is compiled is compiled once
    assert passes[0] <= at_once
    assert len(passes) == 2 * 3 * -(-(steps + 1) // at_once)
    for one in range(3):
        whole = interpolate(saliency[one, None, None].double(), (6, 8), mode="bilinear", align_corners=False).flatten()
        order = np.argsort(-whole.numpy(), kind="stable")
        for step in range(steps + 1):
            for row, (start, end) in enumerate(((image[one], torch.zeros(3, 6, 8)), (fuzzy[one], image[one]))):
                shown = start.clone().flatten(1)
                for pixel in order[: step * 48 // steps]:
                    shown[:, pixel] = end.flatten(1)[:, pixel]
                chance = classify(shown.view(1, 3, 6, 8)).softmax(1)[0, index[one]]
                torch.testing.assert_close(found[row, one, step], chance, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 9999), st.sampled_from([(-1,), (-2,), (-2, -1)]), st.integers(5, 9), st.integers(5, 9))
def test_mirrored_images_have_the_same_curves_where_the_network_sees_no_difference(seed, axes, height, width):
    random = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 3, height, width, generator=random)
    saliency = torch.rand(2, height, width, generator=random)  # no two pixels are equal, so no tie is read in order
    weights = torch.randn(2, 3, height, width, generator=random)
    for axis in (-1, -2):
        weights = weights + weights.flip(axis)

    def symmetric(shown):
        return torch.einsum("bchw,kchw->bk", shown, weights).tanh()

    index = symmetric(image).argmax(1)
    found = curves(asked(symmetric), image, index, ranks(saliency, height, width), 6)
    mirrored = curves(asked(symmetric), image.flip(axes), index, ranks(saliency.flip(axes), height, width), 6)
    torch.testing.assert_close(mirrored, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "taps", "sigma"), [(224, 226, 11, 5), (80, 64, 3, 10 / 7), (336, 340, 17, 7.5)]
)
def test_the_blur_is_that_of_scipy(height, width, taps, sigma):
    image = np.random.default_rng(0).normal(size=(1, 3, height, width))
    weights = np.exp(-(np.arange(-(taps // 2), taps // 2 + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    expected = correlate1d(correlate1d(image, weights, axis=2, mode="mirror"), weights, axis=3, mode="mirror")
    np.testing.assert_allclose(blurred(torch.from_numpy(image).float()).numpy(), expected, atol=2e-6)


def test_areas_are_trapezoids_and_means_are_over_images():
    curve = torch.tensor([[[1.0, 0.5, 0.0], [1, 1, 0]], [[0, 0, 1], [0, 1, 1]]])
    np.testing.assert_allclose(area(curve), np.trapezoid(curve.numpy(), dx=0.5, axis=2))
    metric = Perturbation()
    metric.update(curve[:, :1])
    metric.update(curve[:, 1:])
    found = metric.compute()
    assert float(found["deletion"]) == pytest.approx(62.5, abs=1e-6)
    assert float(found["insertion"]) == pytest.approx(50, abs=1e-6)
    assert found["perturbed_images"] == 2


@pytest.mark.parametrize(("size", "expected"), [(5794, 966), (1000, 1000), (1001, 501), (3, 3)])
def test_the_subset_is_every_kth_image_and_at_most_a_thousand(size, expected):
    chosen = subset(np.arange(size))
    assert len(chosen) == expected
    assert len(set(np.diff(chosen))) == 1
    assert chosen[0] == 0


def test_what_is_told_where_the_bird_is_beats_noise_and_noise_beats_its_reverse(fake_root):
    """The network's only evidence is a texture on the bird's pixels, of which a blur leaves next to nothing.

    So its probability is a function of the share ``m`` of the bird that is shown, and areas have closed forms: told the
    bird, whose pixels are the share ``s`` of the image, ``m`` changes evenly within the first ``s`` of the steps.
    """
    data = ToyBirds(root=str(fake_root("toybirds")), num_classes=3, num_images=36, image_size=48, eval_batch_size=9)
    data.prepare_data()
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    bird = (batch.mask > 0).float()
    texture = bird * (1 - 2 * (torch.arange(48)[:, None] + torch.arange(48)).remainder(2))  # a chessboard
    image = texture[:, None].expand(-1, 3, -1, -1).contiguous()
    size = bird.sum((1, 2))

    def by_mass(shown, row):
        mass = (shown.image()[:, 0] * texture[row]).sum((1, 2)) / size[row]
        return torch.stack([8 * mass - 4, torch.zeros_like(mass)], 1)

    scores = {}
    noise = torch.rand(bird.shape, generator=torch.Generator().manual_seed(0))
    for name, saliency in (("told", bird), ("noise", noise), ("reverse", 1 - bird)):
        metric = Perturbation()
        metric.update(curves(by_mass, image, torch.zeros(9, dtype=torch.int64), ranks(saliency, 48, 48), 72))
        scores[name] = {key: float(value) for key, value in metric.compute().items()}
    share = float(size.mean()) / 48**2
    sure = 1 / (1 + np.exp(-4))  # of the whole bird; without it the rest, and 1/2 on the mean of an even way
    best, worst = 100 * (share / 2 + (1 - share) * sure), 100 * (share / 2 + (1 - share) * (1 - sure))
    for name, insertion, deletion in (("told", best, worst), ("noise", 50, 50), ("reverse", worst, best)):
        assert scores[name]["insertion"] == pytest.approx(insertion, abs=2), name
        assert scores[name]["deletion"] == pytest.approx(deletion, abs=2), name
    assert best > 50 + 15
    assert worst < 50 - 15


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 9999), st.integers(2, 6), st.integers(2, 6), st.booleans())
def test_the_order_of_pixels_is_that_of_the_whole_in_a_crop_and_that_of_each_ones_copies_in_an_enlarged_map(
    seed, height, width, ties
):
    """Of maps with a cell a pixel: resizing mixes the cells of a coarser one otherwise at a crop's border, or when
    enlarged. Equal pixels are read in rows, as in a crop, but not as their copies. The two numbers themselves are not
    invariant: a crop's margin takes steps of its own, and the blur, of whole pixels, is not enlarged in proportion.
    """
    random = torch.Generator().manual_seed(seed)
    saliency = torch.rand(2, height, width, generator=random) + 0.1
    saliency = (4 * saliency).ceil() if ties else saliency
    whole = ranks(saliency, height, width)
    top, left = seed % height, seed // height % width
    kept = ranks(saliency[:, top:, left:], height - top, width - left).flatten(1)
    before = whole[:, top:, left:].flatten(1)
    for image in range(2):
        assert kept[image].tolist() == [sum(before[image] < place).item() for place in before[image]]
    margin = torch.nn.functional.pad(saliency, (3, 1, 2, 0))  # which says nothing
    assert torch.equal(ranks(margin, height + 2, width + 4)[:, 2:, 3:-1], whole)
    assert torch.equal(ranks(4 * saliency, height, width), whole)
    if not ties:
        doubled = saliency.repeat_interleave(2, 1).repeat_interleave(2, 2)
        copies = ranks(doubled, 2 * height, 2 * width).unflatten(2, (-1, 2)).unflatten(1, (-1, 2)) // 4
        assert torch.equal(copies, whole[:, :, None, :, None].expand_as(copies))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 9999), st.sampled_from([1, 2, 3, 6]))
def test_deletion_of_an_enlarged_image_is_the_same_to_a_network_that_sees_no_difference(seed, steps):
    """Where the steps divide the pixels; else a step takes the copies of a part of a pixel."""
    random = torch.Generator().manual_seed(seed)
    image, saliency = torch.randn(2, 3, 4, 6, generator=random), torch.rand(2, 4, 6, generator=random)
    weights = torch.randn(2, 3, 4, 6, generator=random)

    def shrinking(shown):
        small = torch.nn.functional.adaptive_avg_pool2d(shown, (4, 6))
        return torch.einsum("bchw,kchw->bk", small, weights).tanh()

    index = shrinking(image).argmax(1)
    large, map_of_it = (field.repeat_interleave(2, -2).repeat_interleave(2, -1) for field in (image, saliency))
    found = curves(asked(shrinking), image, index, ranks(saliency, 4, 6), steps)[0]
    there = curves(asked(shrinking), large, index, ranks(map_of_it, 8, 12), steps)[0]
    torch.testing.assert_close(there, found, rtol=1e-4, atol=1e-5)
