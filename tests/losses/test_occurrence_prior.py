import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import nn

from fgbench.losses.occurrence_prior import OccurrencePrior, beta_quantiles, blur_kernel, occurrence

ALWAYS = (1.0, 1e-3)  # CelebA and CUB: every part in every image
TWO_THIRDS = (2e-3, 1e-3)  # iNaturalist


def random_maps(n=6, parts=3, size=9, seed=0):
    return torch.rand(n, parts, size, size, generator=torch.Generator().manual_seed(seed))


def test_kernel_is_scipys_truncated_gaussian():
    delta = np.zeros((5, 5))
    delta[2, 2] = 1
    expected = ndimage.gaussian_filter(delta, 0.4, radius=2, mode="constant")
    np.testing.assert_allclose(blur_kernel().numpy(), expected / expected.sum(), atol=1e-7)
    assert blur_kernel()[2, 2] == pytest.approx(0.8449616, abs=1e-6)
    assert float(blur_kernel().sum()) == pytest.approx(1)


@pytest.mark.parametrize("pad", [False, True])
def test_occurrence_is_the_maximum_of_scipys_correlation(pad):
    maps = random_maps()
    found = occurrence(maps, blur_kernel(), pad)
    kernel = blur_kernel().double().numpy()
    for image in range(len(maps)):
        for part in range(maps.shape[1]):
            blurred = ndimage.correlate(maps[image, part].double().numpy(), kernel, mode="constant")
            inner = blurred if pad else blurred[2:-2, 2:-2]
            assert float(found[image, part]) == pytest.approx(inner.max(), abs=1e-6)


def test_a_part_in_the_corner_occurs_only_with_padding():
    corner = torch.zeros(1, 1, 14, 14)
    corner[0, 0, 0, 0] = 1
    assert float(occurrence(corner, blur_kernel(), pad=False)) < 1e-9
    assert float(occurrence(corner, blur_kernel(), pad=True)) == pytest.approx(0.84496, abs=1e-4)


def test_a_map_smaller_than_the_blur_is_refused_with_advice():
    with pytest.raises(ValueError, match="prior_pad"):
        occurrence(torch.rand(1, 2, 4, 7), blur_kernel())


@pytest.mark.parametrize("prior", [ALWAYS, TWO_THIRDS, (0.6, 0.4)])
def test_distance_is_scipys_wasserstein_distance_of_logarithms(prior):
    tau = torch.rand(32, 4)
    quantiles = np.log(beta_quantiles(32, *prior) + 1e-5)
    logs = np.log(tau.double().numpy() + 1e-5)
    expected = np.mean([stats.wasserstein_distance(logs[:, k], quantiles) for k in range(4)])
    assert float(OccurrencePrior(*prior).distance(tau)) == pytest.approx(expected, rel=1e-5)


def test_order_of_the_batch_does_not_matter():
    prior, maps = OccurrencePrior(*TWO_THIRDS), random_maps()
    torch.testing.assert_close(prior(maps), prior(maps[torch.randperm(len(maps))]))


def test_distance_is_zero_where_occurrences_are_the_quantiles():
    tau = torch.tensor(beta_quantiles(16, 0.6, 0.4), dtype=torch.float32)[:, None].expand(16, 3)
    assert float(OccurrencePrior(0.6, 0.4).distance(tau[torch.randperm(16)])) == pytest.approx(0, abs=1e-6)


def test_quantiles_with_alpha_one_have_a_closed_form():
    levels = (2 * np.arange(1, 33) - 1) / 64
    np.testing.assert_allclose(beta_quantiles(32, *ALWAYS), 1 - (1 - levels) ** 1000, atol=1e-9)
    tau = torch.rand(32, 5)
    expected = -torch.log(tau.double() + 1e-5).mean()
    assert float(OccurrencePrior(*ALWAYS).distance(tau)) == pytest.approx(float(expected), abs=1e-4)


def test_quantiles_are_those_of_a_million_draws():
    draws = np.random.default_rng(0).beta(0.6, 0.4, 1_000_000)
    levels = (2 * np.arange(1, 21) - 1) / 40
    np.testing.assert_allclose(beta_quantiles(20, 0.6, 0.4), np.quantile(draws, levels), atol=3e-3)


@pytest.mark.parametrize("n", [1, 2, 16, 128, 1024])
def test_prior_of_inaturalist_wants_two_thirds_of_the_images(n):
    quantiles = beta_quantiles(n, *TWO_THIRDS)
    assert np.isfinite(quantiles).all()
    assert abs((quantiles > 0.5).mean() - 2 / 3) <= 1 / n


def test_impossible_priors_are_refused_before_training():
    with pytest.raises(ValueError, match="Beta"):
        OccurrencePrior(alpha=-1.0)


def test_distance_tends_to_the_continuous_one():
    exact = 0.25  # W1 between U(0, 1) = Beta(1, 1) and a point mass at 1/2
    for n in (10, 100, 1000):
        quantiles = beta_quantiles(n, 1.0, 1.0)
        assert np.abs(quantiles - 0.5).mean() == pytest.approx(exact, abs=1 / n)


def test_a_dead_part_gets_a_large_gradient_and_only_around_its_maximum():
    maps = torch.full((1, 1, 9, 9), 1e-6)
    maps[0, 0, 4, 4] = 1e-4
    maps.requires_grad_()
    OccurrencePrior(*ALWAYS)(maps).backward()
    expected = -blur_kernel() / (float(occurrence(maps.detach(), blur_kernel())) + 1e-5)
    torch.testing.assert_close(maps.grad[0, 0, 2:7, 2:7], expected)
    assert int((maps.grad != 0).sum()) <= 25
    without_logarithm = 1.0  # slope of |tau - 1|
    assert float(maps.grad.abs().max()) > 1e3 * without_logarithm


def test_the_same_value_at_every_call_and_batch_size():
    prior, small, large = OccurrencePrior(*TWO_THIRDS), random_maps(4), random_maps(8)
    first, other = float(prior(small)), float(prior(large))
    for _ in range(3):
        assert float(prior(small)) == first
        assert float(prior(large)) == other
    assert math.isfinite(first)


def test_quantiles_made_in_inference_can_be_trained_with():
    prior = OccurrencePrior(0.37, 0.21)  # not cached by another test
    with torch.inference_mode():
        prior(random_maps())
    maps = random_maps().requires_grad_()
    prior(maps).backward()
    assert maps.grad is not None


def test_autocast_changes_nothing():
    prior, maps = OccurrencePrior(), random_maps()
    exact = prior(maps)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(prior(maps)) == float(exact)


def test_the_prior_has_neither_parameters_nor_state():
    prior: nn.Module = OccurrencePrior()
    assert not list(prior.parameters())
    assert not prior.state_dict()


@pytest.mark.parametrize("pad", [False, True])
def test_the_blur_does_not_depend_on_how_the_device_multiplies_float32(pad):
    def flags():
        return [(b.allow_tf32, b.fp32_precision) for b in (torch.backends.cudnn, torch.backends.cuda.matmul)]

    before = flags()
    maps, kernel = random_maps(32, 5, 14).requires_grad_(), blur_kernel()
    found = occurrence(maps, kernel, pad)
    single = nn.functional.conv2d(maps.flatten(0, 1)[:, None], kernel[None, None], padding=2 if pad else 0)
    single = single.amax((1, 2, 3)).view(32, 5)
    torch.testing.assert_close(found, single, rtol=0, atol=1e-6)
    for value, expected in zip(*(torch.autograd.grad(x.sum(), maps)[0] for x in (found, single)), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    whole = ndimage.correlate(maps.detach().double(), kernel.double()[None, None], mode="constant")
    exact = (whole if pad else whole[:, :, 2:-2, 2:-2]).max((2, 3))
    assert found.tolist() == exact.astype(np.float32).tolist()  # rounded once; a sum in float32 is not
    assert flags() == before
