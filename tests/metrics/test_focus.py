"""Whether attention gets finer, on maps whose area, entropy and overlap are known."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from fgbench.metrics.focus import Focus, entropy, half_area, neighbours
from fgbench.types import Batch, Output

NO_BATCH = Batch(*[torch.empty(0)] * 8)


def test_area_of_a_constant_map_is_all_and_of_one_cell_what_a_tent_leaves_above_half():
    assert half_area(torch.ones(1, 1, 5, 5)).item() == 1
    single = torch.zeros(1, 1, 9, 9)
    single[0, 0, 4, 4] = 1
    # the largest of the points read is (15 / 16) ** 2; (1 - |x|) (1 - |y|) > c on 4 (1 - c + c ln c) cells
    c = 0.5 * (15 / 16) ** 2
    assert half_area(single).item() * 81 == pytest.approx(4 * (1 - c + c * math.log(c)), rel=0.1)


def test_entropy_is_scipys_in_units_of_the_constant_map():
    maps = torch.rand(2, 3, 4, 5)
    expected = scipy_entropy(maps.flatten(2).numpy().astype(float), axis=2) / math.log(20)
    torch.testing.assert_close(entropy(maps), torch.from_numpy(expected))
    assert entropy(torch.ones(1, 1, 3, 3)).item() == pytest.approx(1)


def test_overlap_is_the_cosine_with_the_step_before():
    maps = torch.zeros(1, 4, 1, 2)
    maps[0, :, 0] = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(neighbours(maps)[0], torch.tensor([1.0, 0.0, 0.5**0.5], dtype=torch.float64))


def test_maps_of_zeros_are_left_out_and_sums_do_not_depend_on_the_batches():
    maps = torch.rand(4, 3, 4, 4)
    maps[1, 2], maps[3, 0] = 0, 0
    whole, parts, weights = Focus(3), Focus(3), torch.rand(4, 3)
    whole.update(whole.columns(Output(torch.zeros(4, 2), steps=maps, step_weights=weights), NO_BATCH), NO_BATCH)
    for rows in ([3], [0, 1, 2]):
        some = Output(torch.zeros(len(rows), 2), steps=maps[rows], step_weights=weights[rows])
        parts.update(parts.columns(some, NO_BATCH), NO_BATCH)
    first, second = whole.compute(), parts.compute()
    assert all(torch.equal(first[name], second[name]) for name in first)
    areas = half_area(maps)
    assert float(first["step_area_each"][2]) == pytest.approx(100 * float(areas[[0, 2, 3], 2].mean()), abs=1e-5)
    change = (areas[:, 2] - areas[:, 0])[[0, 2]].mean()
    assert float(first["step_area_change"]) == pytest.approx(100 * float(change), abs=1e-5)
    np.testing.assert_allclose(first["step_weight_each"], 100 * weights.numpy().mean(0), rtol=1e-5)
    assert float(first["step_overlap"]) == pytest.approx(100 * float(neighbours(maps).nanmean()), abs=1e-5)


def test_a_step_that_narrows_is_finer():
    wide, narrow = torch.ones(1, 1, 6, 6), torch.zeros(1, 1, 6, 6)
    narrow[..., 2, 3] = 1
    metric = Focus(2)
    output = Output(torch.zeros(1, 2), steps=torch.cat([wide, narrow], 1), step_weights=torch.ones(1, 2))
    metric.update(metric.columns(output, NO_BATCH), NO_BATCH)
    found = metric.compute()
    assert found["step_area_change"] < -90
    assert float(found["step_entropy_change"]) == pytest.approx(-100)


def test_a_method_without_the_weights_of_its_steps_is_refused():
    with pytest.raises(ValueError, match="maps and weights of its 2 steps"):
        Focus(2).columns(Output(torch.zeros(1, 2), steps=torch.ones(1, 2, 3, 3)), NO_BATCH)
