"""Channel sheets show what they say, in the right frames."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from fgbench.report.channel_figures import map_overlay, write_before_after, write_channels
from fgbench.report.figures import Example

RNG = np.random.default_rng(0)


def example(number=0, finer=True, parts=3):
    return Example(
        number,
        np.full((32, 32, 3), 128, np.uint8),
        "sparrow",
        "finch",
        parts=RNG.random((parts, 4, 4)).astype(np.float32),
        finer=RNG.random((parts, 2, 8, 8)).astype(np.float32) if finer else None,
    )


def count_frames(path):
    """How many areas have a frame of each colour, found by flood filling what is not the frame's."""
    image = cv2.imread(str(path))[..., ::-1].astype(int)

    def of(colour):
        mask = (np.abs(image - np.array(colour)).sum(2) < 40).astype(np.uint8)
        contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        outer = [] if tree is None else [c for c, h in zip(contours, tree[0], strict=True) if h[3] < 0]
        return sum(cv2.contourArea(contour) > 1000 for contour in outer)

    return of((213, 94, 0)), of((0, 114, 178))


def test_an_overlay_mixes_the_image_with_the_ends_of_cividis_at_the_largest_and_the_least_value():
    values = np.zeros((4, 4), np.float32)
    values[1, 2], values[3, 0] = 2.0, -1.0
    drawn = map_overlay(np.full((40, 40, 3), 128, np.uint8), values)
    assert drawn[15, 25].tolist() == [191, 180, 92]  # grey with yellow
    assert drawn[35, 4].tolist() == [64, 81, 103]  # grey with dark blue


def test_a_constant_map_can_be_drawn():
    assert map_overlay(np.full((8, 8, 3), 9, np.uint8), np.ones((2, 2), np.float32)).shape == (8, 8, 3)


def test_a_sheet_frames_every_channel_in_vermilion_and_every_finer_map_in_blue(tmp_path):
    write_channels(tmp_path / "a.png", [example(0), example(1)])
    assert count_frames(tmp_path / "a.png") == (6, 12)
    write_channels(tmp_path / "b.png", [example(0, finer=False)])
    assert count_frames(tmp_path / "b.png") == (3, 0)
    five = replace(example(0), finer=RNG.random((3, 5, 8, 8)).astype(np.float32))  # the paper's largest xi
    write_channels(tmp_path / "c.png", [five])
    assert count_frames(tmp_path / "c.png") == (3, 15)


def test_pictures_have_the_proportions_of_the_original_file(tmp_path):
    squashed = replace(example(0, finer=False, parts=1), aspect=0.5)  # twice as wide as it is shown to the network
    write_channels(tmp_path / "a.png", [squashed])
    write_before_after(tmp_path / "b.png", [squashed], [squashed])
    for name in ("a.png", "b.png"):
        frame = np.abs(cv2.imread(str(tmp_path / name))[..., ::-1].astype(int) - (213, 94, 0)).sum(2) < 40
        rows, columns = frame.nonzero()
        assert np.ptp(columns) == pytest.approx(2 * np.ptp(rows), abs=8)
        grey = np.abs(cv2.imread(str(tmp_path / name)).astype(int) - 128).sum(2) < 2
        high, wide = ((grey.sum(axis) > 30).nonzero()[0] for axis in (1, 0))  # pixels of letters are fewer
        assert np.ptp(wide) == pytest.approx(2 * np.ptp(high), abs=8)


def test_long_names_are_whole_lines_that_leave_the_sheet_nowhere(tmp_path):
    named = replace(example(finer=False), target="087.A_rather_long_name_" * 3, predicted="087.A_rather_long_name_" * 3)
    write_channels(tmp_path / "a.png", [named])
    write_before_after(tmp_path / "b.png", [named], [named])
    for name in ("a.png", "b.png"):
        drawn = cv2.imread(str(tmp_path / name))
        assert (np.concatenate([drawn[:, :1], drawn[:, -1:]], 1) == 255).all()


def test_a_finer_map_that_is_missing_is_not_drawn(tmp_path):
    shown = example()
    shown.finer[1, 1] = 0
    write_channels(tmp_path / "a.png", [shown])
    assert count_frames(tmp_path / "a.png") == (3, 5)


def test_a_sheet_of_many_channels_shows_some(tmp_path):
    write_channels(tmp_path / "a.png", [example(parts=11, finer=False)])
    assert count_frames(tmp_path / "a.png") == (4, 0)


def test_before_and_after_must_be_of_the_same_images(tmp_path):
    write_before_after(tmp_path / "a.png", [example(0), example(3)], [example(0), example(3)])
    assert count_frames(tmp_path / "a.png")[0] == 6
    with pytest.raises(ValueError, match="same images"):
        write_before_after(tmp_path / "b.png", [example(0)], [example(1)])


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ValueError, match="no example"):
        write_channels(tmp_path / "a.png", [])
