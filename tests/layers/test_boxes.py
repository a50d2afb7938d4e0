"""Boxes: what is cut is where the box says, what is pasted lies there again; boxes follow an image into any view."""

import numpy as np
import pytest
import torch

from fgbench.data.augment import boxes_to_input
from fgbench.layers.boxes import (
    AREAS,
    cut,
    grid_fractions,
    in_pixels,
    paste,
    random_fractions,
    to_input,
    to_original,
    within,
)


def coordinates(height, width):
    """Channel 0 holds x, channel 1 holds y, channel 2 is empty."""
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)])


def test_corners_of_a_patch_are_the_corner_pixels_of_its_box():
    image = torch.stack([coordinates(60, 90), coordinates(60, 90) + 100])
    boxes = torch.tensor([[[10, 20, 40, 35], [0, 0, 90, 60]], [[50, 2, 60, 52], [89, 59, 90, 60]]]).float()
    patches = cut(image, boxes, 24).unflatten(0, (2, 2))
    for b in range(2):
        for n in range(2):
            x0, y0, x1, y1 = boxes[b, n].tolist()
            for row, y in ((0, y0), (-1, y1 - 1)):  # end-exclusive
                for column, x in ((0, x0), (-1, x1 - 1)):
                    expected = torch.tensor([x, y]) + 100 * b
                    torch.testing.assert_close(patches[b, n, :2, row, column], expected, atol=2e-4, rtol=0)


def test_a_patch_of_its_own_size_is_the_slice_and_between_pixels_it_is_numpys_interpolation():
    image = torch.randn(1, 3, 40, 50)
    torch.testing.assert_close(
        cut(image, torch.tensor([[[5.0, 7, 21, 23]]]), 16)[0], image[0, :, 7:23, 5:21], atol=1e-4, rtol=0
    )
    found = cut(image, torch.tensor([[[3.0, 8, 14, 9]]]), 30)[0, 1, 0]
    expected = np.interp(np.linspace(3, 13, 30), np.arange(50), image[0, 1, 8].numpy())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_a_map_is_pasted_where_its_patch_was_and_nowhere_else():
    maps = torch.ones(1, 1, 2, 4, 4)
    maps[:, :, 1] = torch.arange(4.0)  # rises to the right
    placed = paste(maps, torch.tensor([[[16.0, 8, 48, 40]]]), (64, 96), (8, 12))[0, 0]
    inside = torch.zeros(8, 12, dtype=torch.bool)
    inside[1:5, 2:6] = True  # cells of 8 pixels whose centres are in the box
    assert torch.equal(placed[0] > 0, inside)
    assert placed[0][inside].eq(1).all()
    torch.testing.assert_close(placed[1, 2, 2:6], torch.arange(4.0))  # cell centres of the map are those of the image
    assert not placed[:, ~inside].any()


def test_the_grid_begins_in_the_middle_and_stays_inside():
    boxes = grid_fractions(10, 0.4)
    assert boxes.shape == (10, 4)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (centres - 0.5).norm(dim=1)
    assert torch.equal(distance, distance.sort().values)
    assert ((boxes >= -1e-6) & (boxes <= 1 + 1e-6)).all()
    torch.testing.assert_close(
        in_pixels(boxes[None], 100, 200)[0, :, 2] - in_pixels(boxes[None], 100, 200)[0, :, 0], torch.full((10,), 80.0)
    )


def test_random_boxes_depend_on_the_image_only_and_have_the_areas_they_should():
    ids = torch.arange(2000)
    boxes = random_fractions(ids, 4)
    assert torch.equal(boxes[torch.tensor([5, 3])], random_fractions(torch.tensor([5, 3]), 4))
    assert len(torch.unique(boxes.flatten(0, 1), dim=0)) == 8000
    assert ((boxes >= 0) & (boxes <= 1 + 1e-6)).all()
    areas = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).flatten().log().double()
    low, high = np.log(AREAS)
    assert low - 1e-4 <= areas.min() < low + 0.01
    assert high - 0.01 < areas.max() <= high + 1e-4
    assert abs(float(areas.mean()) - (low + high) / 2) < 0.02  # uniform in the logarithm


@pytest.mark.parametrize("frame", [[1.5, 0, 3, 0, 0.75, -2], [-0.5, 0, 200, 0, 2.0, 7]])
def test_boxes_go_to_the_original_and_back_as_annotations_do(frame):
    frames = torch.tensor([frame, [1, 0, 0, 0, 1, 0.0]], dtype=torch.float64)
    boxes = torch.tensor([[[2.0, 3, 30, 20], [10, 0, 11, 64]]] * 2)
    original = to_original(boxes, frames)
    assert torch.equal(original[1], boxes[1])
    expected = boxes_to_input(np.array(frame), original[0].double().numpy())
    np.testing.assert_allclose(to_input(original, frames)[0].numpy(), expected, atol=1e-4)
    torch.testing.assert_close(to_input(original, frames), boxes, atol=1e-4, rtol=0)


def test_a_box_that_the_view_cut_away_becomes_the_whole_input():
    boxes = torch.tensor([[[-10.0, 5, 30, 200], [90, 0, 190, 50], [-40, -40, -1, -1], [3, 4, 6, 9]]])
    expected = [[0, 5, 30, 100], [0, 0, 96, 100], [0, 0, 96, 100], [3, 4, 6, 9]]
    assert within(boxes, 100, 96, 0.25)[0].tolist() == expected
