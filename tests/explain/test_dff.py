"""Factors against scikit-learn and scipy."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.decomposition import NMF

from fgbench.explain import dff


def planted(n=600, d=40, parts=4, noise=0.05, seed=0):
    random = np.random.default_rng(seed)
    weights = random.gamma(0.5, size=(n, parts))
    return torch.from_numpy(weights @ random.gamma(0.7, size=(parts, d)) + noise * random.random((n, d))).float()


@pytest.mark.parametrize(("rows", "parts"), [(planted(), 4), (planted(seed=1), 3), (planted(noise=2.0), 6)])
def test_the_error_is_that_of_scikit_learn(rows, parts):
    weights, directions = dff.factorise(rows, parts)
    assert (weights >= 0).all()
    assert (directions >= 0).all()
    error = float((rows - weights @ directions).norm())
    reference = NMF(parts, init="nndsvda", max_iter=1000, tol=1e-5).fit(rows.double().numpy())
    assert error == pytest.approx(reference.reconstruction_err_, rel=0.01)


def test_the_start_is_that_of_scikit_learn():
    from sklearn.decomposition._nmf import _initialize_nmf

    rows = planted(n=80, d=12)
    expected = _initialize_nmf(rows.double().numpy(), 3, init="nndsvda", random_state=0)
    for found, wanted in zip(dff.nndsvda(rows.double(), 3), expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0.02, atol=1e-3)


def test_weights_of_new_rows_are_those_of_scipy():
    rows, directions = planted(n=50, seed=2), dff.factorise(planted(), 4)[1]
    found = dff.solve(rows, directions)
    for row, weights in zip(rows.double().numpy(), found.double().numpy(), strict=True):
        wanted, least = nnls(directions.double().numpy().T, row)
        np.testing.assert_allclose(weights, wanted, atol=2e-3 * wanted.max())
        assert np.linalg.norm(row - weights @ directions.double().numpy()) <= least * 1.001


def test_part_maps_show_planted_parts_where_they_are():
    directions = torch.eye(3, 10) + 0.1 * torch.rand(3, 10)
    place = torch.zeros(2, 3, 4, 5)
    place[0, 0, 1, 2] = place[0, 2, 3, 4] = place[1, 1, 0, 0] = 2.0
    maps = dff.part_maps(
        torch.einsum("bpuv,pd->bduv", place, directions * torch.tensor([[1.0], [9.0], [0.1]])), directions
    )
    assert maps.shape == (2, 3, 4, 5)
    assert ((maps > 1e-4) == (place > 0)).all()
    one = dff.part_maps(torch.rand(3, 10, 4, 5)[1:2], directions)
    torch.testing.assert_close(one, dff.part_maps(torch.rand(3, 10, 4, 5)[1:2] * 0 + 0.0, directions) + one)


def test_a_part_that_is_nowhere_breaks_nothing():
    weights, directions = dff.factorise(torch.zeros(20, 6), 3)
    assert weights.isfinite().all()
    assert directions.isfinite().all()
    assert dff.part_maps(torch.zeros(1, 6, 2, 2), torch.zeros(3, 6)).isfinite().all()


def test_nothing_is_made_in_half_precision_where_the_network_is():
    rows = planted()
    with torch.autocast("cpu", torch.bfloat16):
        assert (rows @ rows.T).dtype == torch.bfloat16  # what factors must not be made of
        inside = dff.factorise(rows, 4)
        start, weights = dff.nndsvda(rows, 4), dff.solve(rows, inside[1])
        maps = dff.part_maps(rows[:6].T.reshape(1, 40, 2, 3), inside[1])
    outside = dff.factorise(rows, 4)
    expected = [*outside, *dff.nndsvda(rows, 4), dff.solve(rows, outside[1])]
    for found, wanted in zip([*inside, *start, weights], expected, strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(maps, dff.part_maps(rows[:6].T.reshape(1, 40, 2, 3), outside[1]))
