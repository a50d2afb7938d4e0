"""Insertion and deletion against one image and one step at a time; an oracle on toybirds against noise."""

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


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 9999), st.sampled_from([1, 5, 7]), st.sampled_from([1, 6, 1000]))
def test_curves_are_those_of_one_image_and_one_step_at_a_time(seed, steps, at_once):
    random = torch.Generator().manual_seed(seed)
    image = torch.randn(3, 3, 6, 8, generator=random)
    saliency = torch.rand(3, 2, 3, generator=random)
    index = classify(image).argmax(1)
    asked = []

    def watched(shown, row):
        asked.append(len(shown))
        return classify(shown)

    found = curves(watched, image, index, ranks(saliency, 6, 8), steps, at_once)
    assert set(asked) == {at_once}
    fuzzy = blurred(image)
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

    def symmetric(shown, row):
        return torch.einsum("bchw,kchw->bk", shown, weights).tanh()

    index = symmetric(image, None).argmax(1)
    found = curves(symmetric, image, index, ranks(saliency, height, width), 6)
    mirrored = curves(symmetric, image.flip(axes), index, ranks(saliency.flip(axes), height, width), 6)
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


def test_what_is_told_where_the_bird_is_beats_noise_and_its_own_reverse(fake_root):
    """The network's only evidence is the bird's pixels, so their masks are the best saliency."""
    data = ToyBirds(root=str(fake_root("toybirds")), num_classes=3, num_images=36, image_size=48, eval_batch_size=9)
    data.prepare_data()
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    bird = (batch.mask > 0).float()
    image = bird[:, None].expand(-1, 3, -1, -1).contiguous()  # white birds on what counts as nothing
    size = bird.sum((1, 2))

    def by_mass(shown, row):
        mass = shown[:, 0].sum((1, 2)) / size[row]
        return torch.stack([8 * mass - 4, torch.zeros_like(mass)], 1)

    scores = {}
    noise = torch.rand(bird.shape, generator=torch.Generator().manual_seed(0))
    for name, saliency in (("told", bird), ("noise", noise), ("reverse", 1 - bird)):
        found = curves(by_mass, image, torch.zeros(9, dtype=torch.int64), ranks(saliency, 48, 48), 24)
        metric = Perturbation()
        metric.update(found)
        scores[name] = {key: float(value) for key, value in metric.compute().items()}
    assert scores["told"]["deletion"] < scores["noise"]["deletion"] - 15
    assert scores["noise"]["deletion"] < scores["reverse"]["deletion"] - 15
    assert scores["told"]["insertion"] > scores["reverse"]["insertion"] + 1  # the blur alone shows most of the bird
    # noise takes the bird away evenly: the area under 1 / (1 + exp(4 - 8 (1 - t))) is 1/2
    assert scores["noise"]["deletion"] == pytest.approx(50, abs=2)
