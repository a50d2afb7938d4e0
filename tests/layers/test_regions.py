"""Regions against loops over them in float64; draws against their bounds."""

import numpy as np
import pytest
import torch

from fgbench.layers.regions import (
    MEMORY,
    Regions,
    cell_masks,
    draw_boxes,
    max_scores,
    paint,
    region_scores,
    regions_of,
    scores_first,
)

SIZE = (7, 5)


def boxes_of(sampling="uniform_corners", count=40, keys=3, seed=0, size=SIZE, **kwargs):
    return draw_boxes(sampling, count, size, seed, torch.arange(keys), **kwargs)


def looped(maps, boxes):
    """Mean of each rectangle, one slice after the other, in float64."""
    found = np.zeros((len(maps), boxes.shape[1], maps.shape[1]))
    for image in range(len(maps)):
        for region, (y0, x0, y1, x1) in enumerate(boxes[image].tolist()):
            found[image, region] = maps[image, :, y0:y1, x0:x1].double().numpy().mean((1, 2))
    return found


def test_means_of_a_thousand_rectangles_are_those_of_slices():
    maps = torch.randn(3, 6, 17, 17)
    boxes = boxes_of(count=333, size=(17, 17))
    boxes[0, :4] = torch.tensor([[0, 0, 17, 17], [16, 16, 17, 17], [0, 0, 1, 1], [3, 0, 4, 17]])
    found = regions_of(maps, boxes).features()
    np.testing.assert_allclose(found.numpy(), looped(maps, boxes), atol=2e-6)
    torch.testing.assert_close(found[0, 0], maps[0].mean((1, 2)))


@pytest.mark.parametrize("sampling", ["uniform_corners", "area_range", "fixed_grid", "all"])
@pytest.mark.parametrize("size", [(7, 5), (1, 1), (17, 17)])
def test_rectangles_lie_on_the_map_and_hold_a_cell(sampling, size):
    boxes = boxes_of(sampling, 60, size=size)
    assert (boxes[..., :2] >= 0).all()
    assert (boxes[..., :2] < boxes[..., 2:]).all()
    assert (boxes[..., 2:] <= torch.tensor(size)).all()


def test_draws_are_a_function_of_seed_and_number_only():
    one, two = draw_boxes("uniform_corners", 50, (17, 17), 0, torch.tensor([9, 4])), boxes_of(count=50, size=(17, 17))
    assert torch.equal(one, draw_boxes("uniform_corners", 50, (17, 17), 0, torch.tensor([4, 9])).flip(0))
    assert torch.equal(one[:, :20], draw_boxes("uniform_corners", 20, (17, 17), 0, torch.tensor([9, 4])))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(two, boxes_of(count=50, size=(17, 17), seed=1))
    assert one[0, 0].tolist() == [2, 1, 10, 14]  # of any machine, any version


def test_corners_are_drawn_evenly():
    boxes = draw_boxes("uniform_corners", 20_000, (17, 17), 0, torch.arange(1))
    lengths = boxes[..., 2:] - boxes[..., :2]
    expected = 1 + (17**2 - 1) / (3 * 17)  # of |i - j| + 1, i and j even over 17
    assert lengths.double().mean((0, 1)).tolist() == pytest.approx([expected] * 2, abs=0.1)
    first = torch.bincount(boxes[0, :, 0], minlength=17).double() / 20_000
    smaller = torch.tensor([(2 * (17 - i) - 1) / 17**2 for i in range(17)], dtype=torch.float64)
    torch.testing.assert_close(first, smaller, atol=0.01, rtol=0)


def test_areas_keep_to_their_range_and_all_is_all():
    boxes = draw_boxes("area_range", 500, (40, 40), 0, torch.arange(1), (0.1, 0.4))
    share = (boxes[..., 2:] - boxes[..., :2]).prod(2) / 1600
    assert 0.08 < share.min() < 0.15
    assert 0.35 < share.max() < 0.45
    every = boxes_of("all", 1, keys=1)
    assert every.shape[1] == (7 * 8 // 2) * (5 * 6 // 2) == len(torch.unique(every[0], dim=0))


def test_the_grid_has_whole_levels_of_even_windows():
    boxes = boxes_of("fixed_grid", 20, keys=2, size=(12, 12))
    assert boxes.shape == (2, 14, 4)  # 1 + 4 + 9 of 20
    assert boxes[0, 0].tolist() == [0, 0, 12, 12]
    assert boxes[1, 1:5].tolist() == [[0, 0, 8, 8], [0, 4, 8, 12], [4, 0, 12, 8], [4, 4, 12, 12]]


@pytest.mark.parametrize("shared", [True, False])
def test_scoring_before_pooling_is_scoring_after(shared):
    maps, parts = torch.randn(3, 6, *SIZE), torch.randn(9, 6)
    regions = regions_of(maps, boxes_of(keys=1 if shared else 3))
    expected = looped(maps, boxes_of(keys=1).expand(3, -1, -1) if shared else boxes_of()) @ parts.double().numpy().T
    for first in (True, False, None):
        np.testing.assert_allclose(region_scores(parts, regions, first).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("cells", "count", "features", "parts", "first"),
    [
        (289, 500, 2048, 4000, True),  # CUB, ResNet-50: 289 columns are scored instead of 500
        (289, 500, 512, 4000, True),  # CUB, VGG-19
        (289, 100, 2048, 10_000, False),  # ImageNet: 100 instead of 289
        (256, 150, 128, 50, True),  # pooling fifty scores reads less than pooling 128 features
        (289, 500, 2048, 1, True),
    ],
)
def test_the_cheaper_route_scores_the_fewer_columns(cells, count, features, parts, first):
    assert scores_first(cells, count, features, parts) == first
    assert scores_first(cells, 10 * cells, features, parts)
    assert not scores_first(20 * count, count, features, 1000 * features)


@pytest.mark.parametrize("memory", [1, MEMORY])
@pytest.mark.parametrize("on_cells", [True, False])
def test_the_largest_score_and_its_gradient_are_those_of_autograd(memory, on_cells, monkeypatch):
    monkeypatch.setattr("fgbench.layers.regions.MEMORY", memory)
    monkeypatch.setattr("fgbench.layers.regions.CACHE", 3 * memory)
    regions = regions_of(torch.randn(4, 6, *SIZE), boxes_of(keys=4))
    regions = regions if on_cells else Regions(regions.features(), None)
    parts, weight = torch.randn(9, 6, requires_grad=True), torch.randn(4, 9)
    best, index = max_scores(parts, regions)
    (best * weight).sum().backward()
    own, parts.grad = parts.grad, None
    dense = regions.features() @ parts.T
    (dense.amax(1) * weight).sum().backward()
    torch.testing.assert_close(own, parts.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(best, dense.amax(1))
    torch.testing.assert_close(dense.gather(1, index[:, None]).squeeze(1), best)


@pytest.mark.parametrize("normalise", [False, True])
def test_cells_that_ask_for_it_get_the_gradient_of_autograd(normalise):
    maps = torch.randn(3, 6, *SIZE, requires_grad=True)
    parts, weight = torch.randn(9, 6), torch.randn(3, 9)
    (max_scores(parts, regions_of(maps, boxes_of(), normalise))[0] * weight).sum().backward()
    own, maps.grad = maps.grad, None
    means = torch.stack([
        torch.stack([maps[i, :, y0:y1, x0:x1].mean((1, 2)) for y0, x0, y1, x1 in boxes])
        for i, boxes in enumerate(boxes_of().tolist())
    ])  # fmt: skip
    means = torch.nn.functional.normalize(means, dim=2) if normalise else means
    ((means @ parts.T).amax(1) * weight).sum().backward()
    torch.testing.assert_close(own, maps.grad, atol=1e-5, rtol=1e-4)


def test_the_largest_score_does_not_depend_on_the_order_and_grows_with_regions():
    regions, parts = regions_of(torch.randn(2, 6, *SIZE), boxes_of(keys=2)), torch.randn(9, 6)
    best, _ = max_scores(parts, regions)
    shuffled = Regions(regions.cells, regions.boxes[:, torch.randperm(40)], regions.size)
    torch.testing.assert_close(max_scores(parts, shuffled)[0], best)
    assert (max_scores(parts, Regions(regions.cells, regions.boxes[:, :20], regions.size))[0] <= best).all()


def test_regions_can_be_brought_to_length_one():
    regions = regions_of(torch.randn(2, 6, *SIZE), boxes_of(keys=2), normalise=True)
    torch.testing.assert_close(regions.features().norm(dim=2), torch.ones(2, 40))


def test_one_region_paints_its_rectangle():
    maps = torch.zeros(1, 2, *SIZE)
    maps[0, 0, 2:4, 1:3] = 1
    boxes = torch.tensor([[[2, 1, 4, 3], [0, 0, 7, 5], [5, 3, 6, 5]]])
    parts = torch.tensor([[[3.0, 0], [-1, 0]]])
    painted = paint(parts, regions_of(maps, boxes), 1).view(1, 2, *SIZE)
    expected = torch.zeros(SIZE)
    expected[2:4, 1:3] = 3
    torch.testing.assert_close(painted[0, 0], expected)
    assert not painted[0, 1].any()  # the best of nothing is no evidence
    two = paint(parts, regions_of(maps, boxes), 2, torch.tensor([[0.5, 1.0]])).view(1, 2, *SIZE)
    torch.testing.assert_close(two[0, 0], 0.5 * (expected + 3 * 4 / 35))
    torch.testing.assert_close(cell_masks(boxes, SIZE)[0, 0].view(SIZE), expected / 3)
