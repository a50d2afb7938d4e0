"""Rank correlation against scipy, structural similarity against plain loops, and what must be 100 or 0."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from fgbench.metrics.sanity import SIDE, SanityCheck, rank_correlation, structure


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 9999), st.sampled_from([3, 10, 10**6]))
def test_rank_correlation_is_that_of_scipy_ties_included(seed, values):
    random = torch.Generator().manual_seed(seed)
    maps = torch.randint(0, values, (2, 3, 4, 5), generator=random).float()
    found = rank_correlation(*maps)
    for image in range(3):
        expected = spearmanr(maps[0, image].flatten(), maps[1, image].flatten()).statistic
        assert float(found[image]) == pytest.approx(expected, abs=1e-12)


def test_structure_is_that_of_the_paper_inside_of_the_border():
    random = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 2, SIDE, SIDE, generator=random).double()
    maps[1] = 0.6 * maps[0] + 0.4 * maps[1]
    found = structure(maps[0].float(), maps[1].float())
    for image in range(2):
        x, y = ((m - m.min()) / (m.max() - m.min()) for m in maps[:, image].numpy())

        def mean(values):
            return gaussian_filter(values, 1.5, truncate=3.34, mode="reflect")  # 11 x 11

        mx, my = mean(x), mean(y)
        sx, sy, sxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        index = (2 * mx * my + 1e-4) * (2 * sxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (sx + sy + 9e-4))
        assert float(found[image]) == pytest.approx(float(np.mean(index)), abs=0.01)


def test_equal_maps_are_100_independent_ones_near_0_and_constant_ones_are_counted():
    random = torch.Generator().manual_seed(0)
    maps = torch.rand(20, 14, 14, generator=random)
    others = torch.rand(20, 14, 14, generator=random)
    others[3] = 1
    metric = SanityCheck(("head", "all"))
    metric.update(maps[:10], [maps[:10], others[:10]])
    metric.update(maps[10:], [maps[10:], others[10:]])
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found["sanity_rank/head"] == pytest.approx(100, abs=1e-6)
    assert found["sanity_ssim/head"] == pytest.approx(100, abs=1e-4)
    assert abs(found["sanity_rank"]) < 5
    assert abs(found["sanity_ssim"]) < 10
    assert found["sanity_constant"] == 1
    assert not math.isnan(found["sanity_ssim"])


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 9999))
def test_monotone_changes_of_a_map_leave_its_ranks(seed):
    maps = torch.rand(2, 2, 6, 6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(rank_correlation(maps[0].exp() * 7, maps[1]), rank_correlation(*maps))
    torch.testing.assert_close(rank_correlation(maps[0].flip(2), maps[1].flip(2)), rank_correlation(*maps))
