"""The Gaussian-kernel sampler against a loop over cells, and where closed forms are known."""

import numpy as np
import pytest
import torch
from torch.nn.functional import affine_grid, interpolate

from fgbench.layers.ssn_sampler import ssn_grid


def test_constant_and_empty_saliency_are_the_identity():
    identity = affine_grid(torch.eye(2, 3)[None], [1, 3, 40, 56], align_corners=False)
    for saliency in (torch.ones(1, 9, 9), torch.zeros(1, 9, 9), torch.full((1, 9, 9), 1e30)):
        torch.testing.assert_close(ssn_grid(saliency, (40, 56)), identity, rtol=0, atol=1e-5)


def test_positions_are_weighted_means_of_the_places_around():
    cells, sigma = 9, 0.2
    saliency = torch.rand(1, cells, cells)
    found = ssn_grid(saliency, (cells, cells), sigma, cells)[0]
    values = saliency[0].double().numpy()
    values = values / values.max() + 1e-6
    for y in range(cells):
        for x in range(cells):
            total, place = 0.0, np.zeros(2)
            for dy in range(-(cells - 1), cells):
                for dx in range(-(cells - 1), cells):
                    inside = values[np.clip(y + dy, 0, cells - 1), np.clip(x + dx, 0, cells - 1)]
                    weight = inside * np.exp(-0.5 * (dx**2 + dy**2) / (sigma * cells) ** 2)
                    total += weight
                    place += weight * np.array([x + dx + 0.5, y + dy + 0.5]) * 2 / cells
            np.testing.assert_allclose(found[y, x], np.clip(place / total - 1, -1, 1), atol=1e-4)


def test_salient_places_are_enlarged():
    saliency = torch.full((1, 31, 31), 0.05)
    saliency[0, 20:24, 6:10] = 1.0
    grid = ssn_grid(saliency, (64, 64))
    centre = torch.tensor([8 / 31 * 2 - 1, 22 / 31 * 2 - 1])
    near = ((grid[0] - centre).abs().amax(2) < 0.2).sum()
    assert int(near) > 1.5 * (0.2 * 64) ** 2


def test_flips_commute_and_gradients_reach_the_saliency():
    saliency = torch.rand(2, 12, 12, requires_grad=True)
    grid = ssn_grid(saliency, (24, 24))
    mirrored = ssn_grid(saliency.flip(2), (24, 24)).flip(2)
    torch.testing.assert_close(mirrored * torch.tensor([-1.0, 1.0]), grid, rtol=0, atol=1e-5)
    grid[..., 0].square().sum().backward()
    assert bool(saliency.grad.isfinite().all())
    assert float(saliency.grad.abs().max()) > 0


def test_autocast_does_not_move_the_grid():
    saliency = torch.rand(1, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ssn_grid(saliency, (32, 32)), ssn_grid(saliency.clone(), (32, 32)))


def test_finer_maps_are_read_on_the_coarse_square():
    saliency = torch.rand(1, 1, 31, 31)
    fine = interpolate(saliency, (62, 62), mode="nearest")[:, 0]
    assert ssn_grid(fine, (16, 16)).sub(ssn_grid(saliency[:, 0], (16, 16))).abs().max() == pytest.approx(0, abs=1e-5)
