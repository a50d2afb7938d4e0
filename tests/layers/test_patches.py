import cv2
import numpy as np
import pytest
import torch

from fgbench.layers.patches import high_activation_boxes, percentile, strongest, strongest_boxes


def bump(size, x, y, sigma):
    axis = torch.arange(size) + 0.5
    return torch.exp(-((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize("percent", [0.0, 50.0, 95.0, 99.9, 100.0])
@pytest.mark.parametrize("pixels", [1, 2, 400, 441])
def test_percentile_is_numpys(percent, pixels):
    rows = torch.rand(3, pixels)
    expected = np.percentile(rows.double().numpy(), percent, axis=1)
    np.testing.assert_allclose(percentile(rows, percent).numpy(), expected, rtol=1e-5)


def test_the_box_of_a_round_bump_is_the_circle_that_holds_a_twentieth_of_the_pixels():
    size = 200
    [[box]] = high_activation_boxes(bump(size, 60, 120, 25)[None, None], size, size).tolist()
    radius = (0.05 * size * size / np.pi) ** 0.5  # 25.2 pixels
    assert box == pytest.approx([60 - radius, 120 - radius, 60 + radius, 120 + radius], abs=1.01)
    assert (box[2] - box[0]) * (box[3] - box[1]) >= 0.05 * size * size


def test_two_equal_bumps_are_spanned_by_one_box():
    size = 200
    [[box]] = high_activation_boxes((bump(size, 40, 50, 12) + bump(size, 160, 150, 12))[None, None], size, size)
    radius = (0.025 * size * size / np.pi) ** 0.5
    assert box.tolist() == pytest.approx([40 - radius, 50 - radius, 160 + radius, 150 + radius], abs=1.01)


def test_boxes_are_those_of_opencv_and_a_loop_over_pixels():
    maps = torch.rand(2, 3, 7, 7)
    found = high_activation_boxes(maps, 56, 84)
    for b in range(2):
        for n in range(3):
            up = cv2.resize(maps[b, n].numpy(), (84, 56), interpolation=cv2.INTER_CUBIC)
            mask = up >= np.percentile(up, 95)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert found[b, n].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_a_flat_map_highlights_the_whole_image_and_no_box_is_smaller_than_a_twentieth():
    assert high_activation_boxes(torch.ones(1, 1, 4, 4), 32, 48).tolist() == [[[0, 0, 48, 32]]]
    boxes = high_activation_boxes(torch.rand(5, 6, 7, 7), 64, 64)
    assert ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) >= np.ceil(0.05 * 64 * 64)).all()


def test_the_strongest_maps_come_first_and_of_equal_ones_the_earlier():
    maps = torch.zeros(1, 4, 3, 3)
    maps[0, [0, 1, 2, 3], 1, 1] = torch.tensor([1.0, 3.0, 1.0, 2.0])
    chosen, order = strongest(maps, 3)
    assert order.tolist() == [[1, 3, 0]]
    assert torch.equal(chosen[0], maps[0, [1, 3, 0]])
    assert torch.equal(strongest_boxes(maps, 3, 30, 30), high_activation_boxes(chosen, 30, 30))
