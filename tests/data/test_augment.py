import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from fgbench.data.augment import (
    Augment,
    boxes_to_input,
    inside,
    is_mirrored,
    mirror_order,
    points_to_input,
    points_to_original,
)
from fgbench.data.view import View

VIEWS = {
    "short 448, random crop": View("short", 448, "random", 448, flip=0.5, brightness=0.1),
    "short 512, random crop 448": View("short", 512, "random", 448, flip=0.5),
    "short 448, centre crop": View("short", 448, "centre", 448),
    "squash 224": View("squash", 224, flip=0.5),
    "short 448, multiple of 16": View("short", 448, multiple=16),
    "as it is, flipped": View(flip=1.0),
    "as it is, cut": View(multiple=32, flip=1.0),
    "squash 224, padded": View("squash", 224, "random", 224, flip=0.5, pad=4),
    "padded only": View(pad=7),
}
SHAPES = [(375, 500), (500, 333), (448, 448), (120, 291)]


def _dot(height, width, row, column):
    """A soft dot, wide enough to survive resampling; its continuous centre is ``column + 0.5, row + 0.5``."""
    y, x = np.mgrid[:height, :width]
    soft = 255 * np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * 4.0**2))
    return np.repeat(soft[..., None], 3, axis=2).round().astype(np.uint8)


def _centroid(image):
    """Centre of mass in continuous coordinates, by explicit sums over pixel centres."""
    weight = image[..., 0].astype(np.float64)
    rows, columns = np.arange(weight.shape[0]) + 0.5, np.arange(weight.shape[1]) + 0.5
    return np.array([(weight * columns).sum(), (weight * rows[:, None]).sum()]) / weight.sum()


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_dot_lands_where_the_frame_says(view, shape):
    augment, found = Augment(view), 0
    for key in range(6):
        row, column = shape[0] // 2 - 10 + 4 * key, shape[1] // 2 - 20 + 7 * key
        image, frame = augment(_dot(*shape, row, column), (key,))
        where = points_to_input(frame, np.array([[column + 0.5, row + 0.5]]))[0]
        margin = 20 / min(1, abs(frame[0]), frame[4])
        if (where < margin).any() or (where > np.array(image.shape[1::-1]) - margin).any():
            continue  # cropped away, or cut
        found += 1
        assert _centroid(image) == pytest.approx(where, abs=0.04)  # half a pixel misplaced would be 0.08 or more
    assert found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_gradient_keeps_its_values_at_original_coordinates(shape):
    """Pixel values are their own original x: nothing that is said about an image is half a pixel off."""
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width) // 2  # 0 ... 250
    for key in range(4):
        pixels, frame = Augment(View("short", 448, "random", 448, flip=0.5))(image, (key,))
        rows, columns = np.mgrid[20:420:50, 20:420:47]
        original = points_to_original(frame, np.stack([columns + 0.5, rows + 0.5], axis=-1).astype(np.float64))
        expected = (original[..., 0] - 0.5) / 2
        error = pixels[rows, columns, 0] - expected
        assert np.abs(error).max() < 1.1  # values are cut to integers twice
        assert abs(error.mean() + 0.25) < 0.2  # x // 2 is 0.25 below x / 2 on average


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(60, 200), st.integers(60, 200)),
    name=st.sampled_from(["a", "b", "c", "d"]),
    key=st.integers(0, 9),
    points=st.lists(st.tuples(st.floats(-20, 220), st.floats(-20, 220)), min_size=1, max_size=4),
)
def test_points_and_boxes_come_back_exactly(shape, name, key, points):
    view = {
        "a": View("short", 64, "random", 56, multiple=8, flip=0.5),
        "b": View("squash", 50, flip=0.5),
        "c": View("short", 96, multiple=16, flip=0.5),
        "d": View("none", crop="random", crop_size=50),
    }[name]
    image, frame = Augment(view)(np.zeros((*shape, 3), np.uint8), (key,))
    assert image.shape[:2] == view.shape(*shape)
    there = points_to_input(frame, np.array(points))
    np.testing.assert_allclose(points_to_original(frame, there), points, rtol=0, atol=1e-9)
    x, y = points[0]
    box = boxes_to_input(frame, np.array([[x, y, x + 30.0, y + 17.5]]))
    assert (box[0, 2:] > box[0, :2]).all()
    corners = points_to_original(frame, box.reshape(2, 2))
    np.testing.assert_allclose(sorted(corners[:, 0]), [x, x + 30.0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(sorted(corners[:, 1]), [y, y + 17.5], rtol=0, atol=1e-9)


def test_frames_by_hand():
    """375 x 500 to 448 x 597; the centre crop starts at x = 74; cut to 16 leaves 592 from x = 2."""
    image = np.zeros((375, 500, 3), np.uint8)
    crop = Augment(View("short", 448, "centre", 448))(image)[1]
    np.testing.assert_allclose(crop, [500 / 597, 0, 74 * 500 / 597, 0, 375 / 448, 0], rtol=1e-15)
    cut = Augment(View("short", 448, multiple=16))(image)[1]
    np.testing.assert_allclose(cut, [500 / 597, 0, 2 * 500 / 597, 0, 375 / 448, 0], rtol=1e-15)
    flip = Augment(View(flip=1.0))(image)[1]
    np.testing.assert_allclose(flip, [-1, 0, 500, 0, 1, 0], rtol=1e-15)


def test_flip_maps_x_to_width_minus_x_and_is_seen_in_the_frame():
    image = np.zeros((20, 30, 3), np.uint8)
    image[4, 7] = 255
    pixels, frame = Augment(View(flip=1.0))(image)
    assert pixels[4, 30 - 1 - 7, 0] == 255
    assert points_to_input(frame, np.array([[7.5, 4.5]])).tolist() == [[22.5, 4.5]]
    assert is_mirrored(frame)
    assert not is_mirrored(Augment(View())(image)[1])


@pytest.mark.parametrize("size", range(100, 600, 7))
def test_short_side_is_exactly_the_size(size):
    """Cutting height * (size / height) to an integer, as albumentations does, is one short for some of these."""
    for side in range(200, 500, 13):
        assert min(View("short", size).resized(side, side + 41)) == size


def test_probabilities_and_ranges_are_kept():
    augment = Augment(View("none", crop="random", crop_size=20, flip=0.3, brightness=0.1))
    image = np.full((24, 29, 3), 100, np.uint8)
    shown = [augment(image, (0, i)) for i in range(1500)]
    assert np.mean([is_mirrored(frame) for _, frame in shown]) == pytest.approx(0.3, abs=0.04)
    values = np.array([pixels[0, 0, 0] for pixels, _ in shown])
    assert values.min() == 90
    assert values.max() in (109, 110)  # cut to integers
    starts = {(frame[2] - (20 if is_mirrored(frame) else 0), frame[5]) for _, frame in shown}
    assert starts == {(x, y) for x in range(10) for y in range(5)}


def test_random_choices_depend_on_the_key_alone():
    view = View("short", 64, "random", 48, flip=0.5, brightness=0.2)
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    first, second = Augment(view), Augment(view)
    forward = [first(image, (1, 2, i)) for i in range(20)]
    backward = [second(image, (1, 2, i)) for i in reversed(range(20))][::-1]
    for (a, f), (b, g) in zip(forward, backward, strict=True):
        assert (a == b).all()
        assert (f == g).all()
    assert len({tuple(frame) for _, frame in forward}) > 15
    assert any(
        (a != b).any() for (a, _), b in zip(forward, [first(image, (2, 2, i))[0] for i in range(20)], strict=True)
    )


def test_pixels_of_the_file_are_not_touched():
    """Decoded images may be kept in memory between epochs."""
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    before = image.copy()
    for key in range(8):
        pixels = Augment(View(crop="random", crop_size=50, flip=0.5, brightness=0.3))(image, (key,))[0]
        pixels += 1
    assert (image == before).all()


def test_mirror_exchanges_left_and_right_and_nothing_else():
    names = ("back", "left eye", "left leg", "nape", "right eye", "right leg", "left over")
    assert mirror_order(names) == (0, 4, 5, 3, 1, 2, 6)


def test_inside_includes_the_border():
    points = np.array([[0.0, 0.0], [30.0, 20.0], [30.01, 5.0], [5.0, -0.01]])
    assert inside(points, 20, 30).tolist() == [True, True, False, False]


def test_crop_larger_than_the_image_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"100 x 300.*crop of 128.*resize: short"):
        Augment(View(crop="centre", crop_size=128))(np.zeros((100, 300, 3), np.uint8))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"resize": "short"}, "needs size"),
        ({"crop": "random"}, "needs crop_size"),
        ({"resize": "short", "size": 224, "crop": "centre", "crop_size": 448}, "does not fit"),
        ({"flip": 1.5}, "probability"),
        ({"brightness": 1.0}, "brightness"),
        ({"multiple": 0}, "multiple"),
        ({"saturation": -0.1}, "saturation"),
        ({"rotate": 200.0}, "degrees"),
    ],
)
def test_impossible_view_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        View(**wrong)


def test_a_padded_crop_is_a_slice_of_the_image_in_a_black_frame():
    image = np.random.default_rng(0).integers(1, 256, (40, 40, 3), dtype=np.uint8)
    wide = np.zeros((48, 48, 3), np.uint8)
    wide[4:44, 4:44] = image
    augment, seen = Augment(View("squash", 40, "random", 40, flip=0.5, pad=4)), set()
    for key in range(300):
        pixels, frame = augment(image, (key,))
        x, y = (round(frame[2]), round(frame[5]))
        flipped = is_mirrored(frame)
        left = x - 40 if flipped else x
        expected = wide[y + 4 : y + 44, left + 4 : left + 44]
        assert np.array_equal(pixels, expected[:, ::-1] if flipped else expected)
        seen.add((left, y, flipped))
    assert {corner[0] for corner in seen} == {corner[1] for corner in seen} == set(range(-4, 5))
    assert {corner[2] for corner in seen} == {False, True}


def test_a_view_says_its_shape_with_the_padding():
    assert View(pad=3).shape(10, 20) == (16, 26)
    assert Augment(View(pad=3))(np.zeros((10, 20, 3), np.uint8))[0].shape == (16, 26, 3)
    assert View("squash", 224, "random", 224, pad=4).is_random


@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize("crop", ["none", "centre"])
@pytest.mark.parametrize("resize", ["short", "squash", "none"])
@pytest.mark.parametrize("multiple", [1, 16])
def test_shapes_of_many_images_are_the_shape_of_each(resize, crop, pad, multiple):
    view = View(resize, 50, crop, 40, multiple=multiple, pad=pad)
    sizes = np.random.default_rng(0).integers(40, 200, (30, 2))
    before = sizes.copy()
    assert view.shapes(sizes).tolist() == [list(view.shape(*size)) for size in sizes.tolist()]
    assert np.array_equal(sizes, before)


TURNED = {
    "turned": View(rotate=30.0),
    "all of it": View("short", 300, "random", 280, multiple=16, flip=0.5, pad=6, rotate=180.0),
}


@pytest.mark.parametrize("view", TURNED.values(), ids=TURNED)
@pytest.mark.parametrize("shape", [(240, 330), (301, 300)], ids=str)
def test_a_dark_dot_lands_where_the_frame_of_a_turned_image_says(view, shape):
    augment, found = Augment(view), 0
    for key in range(8):
        row, column = shape[0] // 2 - 30 + 9 * key, shape[1] // 2 - 40 + 11 * key
        image, frame = augment(255 - _dot(*shape, row, column), (key,))
        where = points_to_input(frame, np.array([[column + 0.5, row + 0.5]]))[0]
        if (where < 30).any() or (where > np.array(image.shape[1::-1]) - 30).any():
            continue
        x, y = where.astype(int)
        left, top = x - 25, y - 25
        dark = 255 - image[top : top + 50, left : left + 50]  # without the padding's black border
        found += 1
        assert _centroid(dark) == pytest.approx(where - (left, top), abs=0.06)
    assert found >= 3


def test_angles_are_uniform_up_to_the_largest_and_the_size_stays():
    augment, image = Augment(View(rotate=30.0)), np.zeros((10, 16, 3), np.uint8)
    shown = [augment(image, (0, i)) for i in range(800)]
    angles = np.array([math.degrees(math.atan2(frame[3], frame[0])) for _, frame in shown])
    assert {pixels.shape for pixels, _ in shown} == {(10, 16, 3)}
    np.testing.assert_allclose(np.quantile(angles, [0, 0.25, 0.5, 0.75, 1]), [-30, -15, 0, 15, 30], atol=2.5)
    assert not any(is_mirrored(frame) for _, frame in shown)


def test_what_a_turn_uncovers_is_white():
    augment, image = Augment(View(rotate=30.0)), np.zeros((40, 60, 3), np.uint8)
    pixels, frame = augment(image, (3,))
    points = points_to_original(frame, np.stack(np.meshgrid(np.arange(60), np.arange(40)), -1) + 0.5)
    outside = ((points < -1) | (points > (61, 41))).any(-1)
    assert outside.sum() > 50
    assert (pixels[outside] == 255).all()
    assert (pixels[((points > 1) & (points < (59, 39))).all(-1)] == 0).all()


def test_a_box_of_a_turned_image_is_the_least_upright_one_around_all_of_it():
    frame = Augment(View(rotate=30.0))(np.zeros((90, 120, 3), np.uint8), (5,))[1]
    rim = np.concatenate([np.stack([np.linspace(20, 70, 200), np.full(200, y)], -1) for y in (10.0, 40.0)])
    there = points_to_input(frame, rim)
    found = boxes_to_input(frame, np.array([[20.0, 10.0, 70.0, 40.0]]))[0]
    np.testing.assert_allclose(found, [*there.min(0), *there.max(0)], rtol=0, atol=1e-9)


def test_jitter_is_torchvisions_in_the_drawn_order():
    view = View(brightness=0.4, contrast=0.4, saturation=0.4)
    augment, orders = Augment(view), set()
    image = np.random.default_rng(0).integers(40, 170, (12, 14, 3), dtype=np.uint8)
    by_name = {0: tv.adjust_brightness, 1: tv.adjust_contrast, 2: tv.adjust_saturation}
    for key in range(60):
        colours = augment.choose(image.shape[:2], (key,)).colours
        expected = torch.from_numpy(image).permute(2, 0, 1)
        for number, factor in colours.factors:
            assert 0.6 <= factor <= 1.4
            expected = by_name[number](expected, factor)
        orders.add(tuple(number for number, _ in colours.factors))
        found = augment(image, (key,))[0].astype(int)
        # bytes are cut here and rounded there, up to three times, and a contrast multiplies that
        assert np.abs(found - expected.permute(1, 2, 0).numpy().astype(int)).max() <= 4
    assert len(orders) == 6


def test_lighting_adds_one_colour_with_the_published_covariance():
    augment = Augment(View(lighting=0.1))
    image = np.full((4, 5, 3), 120, np.uint8)
    image[0, 0] = (0, 255, 128)
    shifts = []
    for key in range(1500):
        shift = augment.choose((4, 5), (key,)).colours.shift
        found = augment(image, (key,))[0]
        assert np.abs(found[2, 2] - (120 + shift)).max() <= 0.5 + 1e-9
        assert (found[0, 0] == np.clip(np.round(image[0, 0] + shift), 0, 255)).all()
        shifts.append(shift)
    # sum over the three components of (0.1 deviation)^2 direction direction^T, worked out for red and for red with blue
    parts = ((5.546, -0.5675, -0.5836), (0.4794, 0.7192, -0.6948), (0.1148, 0.4009, 0.4203))
    red = sum((deviation * r) ** 2 for deviation, r, _ in parts)
    both = sum(deviation**2 * r * b for deviation, r, b in parts)
    covariance = np.cov(np.array(shifts).T)
    assert covariance[0, 0] == pytest.approx(red, rel=0.15)
    assert covariance[0, 2] == pytest.approx(both, rel=0.15)


def test_a_turn_and_colours_depend_on_the_key_alone_and_leave_the_image_as_it_is():
    view = View(rotate=20.0, contrast=0.3, saturation=0.2, lighting=0.1)
    image = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    before = image.copy()
    first, second = Augment(view), Augment(view)
    forward = [first(image, (i,)) for i in range(6)]
    backward = [second(image, (i,)) for i in reversed(range(6))][::-1]
    assert all((a == b).all() and (f == g).all() for (a, f), (b, g) in zip(forward, backward, strict=True))
    assert not (forward[0][0] == forward[1][0]).all()
    np.testing.assert_array_equal(image, before)
