import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgbench.data.raster import SINE, SUB, TURN, Dice, cosine, ellipse, polygon_mask, rotate, stroke


def test_sine_table_is_the_sine_rounded_to_sixteen_bits():
    expected = [round(65536 * math.sin(2 * math.pi * k / TURN)) for k in range(TURN)]
    assert SINE.tolist() == expected
    assert cosine(0) == 65536


def test_quarter_turn_takes_x_to_y():
    assert rotate(np.array([[100, 0], [0, 100]]), TURN // 4).tolist() == [[0, 100], [-100, 0]]


def _inside_by_loop(points, x, y):
    """Even-odd rule for one point, in exact fractions of floats small enough to be exact."""
    count = False
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if (y0 <= y) != (y1 <= y):
            count ^= (x0 + math.floor((y - y0) * (x1 - x0) / (y1 - y0))) <= x
    return count


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(-100, 300), st.integers(-100, 300)), min_size=3, max_size=9))
def test_polygon_covers_the_pixel_centres_that_a_point_in_polygon_loop_finds(corners):
    points, size = np.array(corners, np.int64), 12
    canvas = np.zeros((size, size), bool)
    rows, columns, inside = polygon_mask(points, size, size)
    canvas[rows, columns] = inside
    for row in range(size):
        for column in range(size):
            x, y = column * SUB + SUB // 2, row * SUB + SUB // 2
            assert canvas[row, column] == _inside_by_loop(points, x, y), (row, column)


def test_area_of_an_ellipse_is_pi_times_its_radii():
    inside = polygon_mask(ellipse(50 * SUB, 50 * SUB, 40 * SUB, 20 * SUB, 100, corners=64), 100, 100)[2]
    assert inside.sum() == pytest.approx(math.pi * 40 * 20, rel=0.01)


def test_polygon_outside_of_the_canvas_covers_nothing():
    assert polygon_mask(stroke((-900, 0), (-100, 50), 30, 30), 20, 20)[2].size == 0


def test_dice_are_those_of_the_published_stream():
    """PCG64 seeded by SeedSequence((1, 2, 3)): NumPy promises this stream for ever."""
    raw = np.random.PCG64(np.random.SeedSequence((1, 2, 3))).random_raw(4)
    dice = Dice(1, 2, 3)
    assert [dice.between(0, 2**64 - 1) for _ in range(4)] == [int(value) for value in raw]


def test_dice_reach_both_ends_equally_often():
    dice = Dice(5)
    counts = np.bincount([dice.between(-1, 1) + 1 for _ in range(3000)], minlength=3)
    assert counts.min() > 900


def test_noise_is_bounded_and_centred():
    noise = Dice(1).noise((50, 41, 3), 6)
    assert (noise.min(), noise.max()) == (-6, 6)
    assert abs(noise.mean()) < 0.2
