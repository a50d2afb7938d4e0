"""Pictures show what the arrays say, where they say it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch.nn.functional import interpolate

from fgbench.report import figures
from fgbench.report.figures import Example

RNG = np.random.default_rng(0)


def image(height: int = 40, width: int = 60) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(("cells", "size"), [((5, 7), (40, 61)), ((1, 1), (3, 4)), ((9, 8), (4, 5)), ((4, 4), (4, 4))])
def test_resizing_is_bilinear_with_half_pixels(cells: tuple[int, int], size: tuple[int, int]) -> None:
    maps = RNG.random((3, *cells)).astype(np.float32)
    expected = interpolate(torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(figures.resize(maps, *size), expected.numpy(), atol=1e-5)


def test_centroids_are_in_pixels_of_the_image() -> None:
    parts = np.zeros((3, 4, 6), np.float32)
    parts[0, 1, 4] = 2.0  # its centre is (4.5, 1.5) cells of 10 pixels
    parts[1] = 1.0
    np.testing.assert_allclose(figures.centroids(parts, 40, 60), [[45, 15], [30, 20], [30, 20]])


def test_a_part_colours_its_own_place_with_its_own_colour() -> None:
    parts = np.zeros((2, 4, 6), np.float32)
    parts[0, :, :3] = 1.0
    parts[1, :, 3:] = 1.0
    grey = np.full((40, 60, 3), 100, np.uint8)
    drawn = figures.part_overlay(grey, parts).astype(int)
    for part, place in ((0, (20, 5)), (1, (20, 55))):
        expected = 0.3 * 100 + 0.7 * figures.part_colours(np.array([part]))[0].astype(int)
        np.testing.assert_allclose(drawn[place], expected, atol=1)


def test_the_same_part_has_the_same_colour_in_every_picture() -> None:
    parts = np.zeros((20, 2, 2), np.float32)
    parts[17] = 1.0
    few = figures.part_overlay(np.zeros((8, 8, 3), np.uint8), parts)[0, 0]
    np.testing.assert_allclose(few, 0.7 * figures.part_colours(np.array([17]))[0].astype(int), atol=1)
    assert len({tuple(colour) for colour in figures.PALETTE}) == len(figures.PALETTE) == 21


def test_saliency_is_bright_at_its_peak() -> None:
    saliency = np.zeros((4, 6), np.float32)
    saliency[3, 0] = 5.0
    drawn = figures.saliency_overlay(np.full((40, 60, 3), 30, np.uint8), saliency).sum(axis=2)
    row, column = np.unravel_index(drawn.argmax(), drawn.shape)
    assert row >= 30
    assert column < 10
    assert drawn[0, -1] < drawn.max() / 3


def test_a_map_that_varies_little_above_a_floor_is_seen_as_one_that_varies_much() -> None:
    saliency = RNG.random((4, 6)).astype(np.float32)
    saliency -= saliency.min()
    under = image()
    drawn = [figures.saliency_overlay(under, values).astype(int) for values in (saliency, 0.01 * saliency + 0.9)]
    np.testing.assert_allclose(*drawn, atol=3)  # a colour map has 256 steps


@pytest.mark.parametrize("value", [0.3, 1 / 49, 0.7123, 0.0])
def test_a_flat_map_is_dark_everywhere(value: float) -> None:
    drawn = figures.saliency_overlay(np.full((50, 70, 3), 100, np.uint8), np.full((7, 7), value, np.float32))
    assert drawn.max() <= 61


def test_a_picture_says_when_it_leaves_parts_out() -> None:
    assert figures.left_out(np.zeros((12, 2, 2))) == ""
    assert figures.left_out(np.zeros((13, 2, 2))) == "12 of 13, highest peaks"


def test_constant_zero_and_many_parts_draw_without_warnings() -> None:
    with np.errstate(all="raise"):
        figures.saliency_overlay(image(), np.zeros((3, 3), np.float32))
        figures.part_overlay(image(), np.zeros((2, 3, 3), np.float32))
        figures.part_overlay(image(), RNG.random((400, 3, 3)).astype(np.float32))


def example(index: int, **changes: object) -> Example:
    values: dict[str, object] = {
        "image_id": index, "image": image(), "target": "a bird", "predicted": "a bird" if index % 2 else "a plane",
        "saliency": RNG.random((5, 7)).astype(np.float32), "parts": RNG.random((4, 5, 7)).astype(np.float32),
        "boxes": np.array([[5.0, 5.0, 50.0, 35.0]]), "landmarks": np.array([[10.0, 10.0], [1000.0, -50.0]]),
    }  # fmt: skip
    return Example(**(values | changes))


@pytest.mark.parametrize("count", [1, 6, 7])
def test_a_sheet_is_a_picture_and_the_same_bytes_again(tmp_path: Path, count: int) -> None:
    examples = [example(index) for index in range(count)]
    for name in ("a.png", "b.png"):
        figures.write_sheet(tmp_path / "figures" / name, examples, "a method")
    assert (tmp_path / "figures" / "a.png").read_bytes() == (tmp_path / "figures" / "b.png").read_bytes()
    sheet = Image.open(tmp_path / "figures" / "a.png")
    assert sheet.width == (600 if count <= 6 else 1200)
    assert np.asarray(sheet.convert("L")).std() > 20


def test_what_a_method_does_not_have_takes_no_room(tmp_path: Path) -> None:
    figures.write_sheet(tmp_path / "a.png", [example(0, saliency=None, parts=None, boxes=None, landmarks=None)])
    figures.write_sheet(tmp_path / "b.png", [example(0, saliency=None), example(1, parts=None)])
    assert Image.open(tmp_path / "a.png").width == 200
    assert Image.open(tmp_path / "b.png").width == 600
    with pytest.raises(ValueError, match="no example"):
        figures.write_sheet(tmp_path / "c.png", [])


def test_a_long_name_is_cut_and_what_is_said_of_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    own = Axes.set_title
    monkeypatch.setattr(Axes, "set_title", lambda axis, text, **more: (titles.append(text), own(axis, text, **more))[1])
    figures.write_sheet(tmp_path / "a.png", [example(0, target="", name="a_long_name_of_a_picture" * 4 + ".png")])
    first, second = titles[0].split("\n")
    assert second == "says a plane"
    assert first.startswith("a_long_name")
    assert len(first) < 40
