"""Figures of methods are drawn from arrays, for every name that a method offers."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fgbench.methods import METHODS
from fgbench.report.figures import part_colours
from fgbench.report.method_figures import DRAWN, RIGHT, WRONG, draw_steps, write_method_figure

OWN = ("sampling", "channels", "patches", "steps", "attention")  # others are tested with their methods
RNG = np.random.default_rng(0)


def arrays(name, densities=True):
    if name == "channels":
        return {"features": RNG.random((9, 4, 5)), "attention": RNG.random((9, 4, 5)), "index": np.arange(9)}
    if name == "patches":
        boxes = np.array([[2.0, 3.0, 20.0, 30.0], [10.0, 5.0, 50.0, 35.0]])
        return {"boxes": boxes, "shown": boxes[0], "patch": RNG.integers(0, 256, (3, 24, 24), np.uint8)}
    if name in ("steps", "attention"):
        patch, pooled = RNG.integers(0, 256, (3, 24, 24), np.uint8), RNG.random((5, 5))
        found = {"patch": patch, "pooled": pooled}
        maps = {"maps": RNG.random((3, 5, 5)), "weights": RNG.random(3), "predicted": np.array([1, 2, 1])}
        return found | (maps | {"target": np.array(1)} if densities else {})
    grid = np.stack(np.meshgrid(np.linspace(1, 59, 32), np.linspace(1, 39, 24)), -1)
    found = {"attention": RNG.random((4, 5)), "points": grid, "sampled": RNG.integers(0, 256, (3, 24, 32), np.uint8)}
    return found | ({"rows": RNG.random(40), "columns": RNG.random(60)} if densities else {})


def draw(path, name, densities=True, count=1):
    images = [RNG.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(count)]
    write_method_figure(path, name, images, [arrays(name, densities) for _ in images], "title")
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(
    ("name", "densities"), [(name, True) for name in OWN] + [("sampling", False), ("steps", False)]
)
def test_a_sheet_shows_the_noise_that_it_was_given(tmp_path, name, densities):
    assert len(np.unique(draw(tmp_path / "a.png", name, densities).reshape(-1, 3), axis=0)) > 200


def test_a_sheet_has_a_row_for_each_image(tmp_path):
    one, two = (draw(tmp_path / "a.png", "sampling", count=count).shape[0] for count in (1, 2))
    assert two > 1.6 * one


def test_the_sampled_image_is_on_the_sheet(tmp_path):
    found = arrays("sampling")
    found["sampled"] = np.zeros((3, 24, 32), np.uint8)
    found["sampled"][0] = 255
    write_method_figure(tmp_path / "a.png", "sampling", [np.full((40, 60, 3), 128, np.uint8)], [found])
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    red = (picture[..., 0] > 250) & (picture[..., 1:].max(axis=2) < 5)
    assert red.sum() > 5000
    assert np.nonzero(red)[1].min() > 0.8 * picture.shape[1]  # the last picture of the row


def test_every_figure_that_a_method_offers_can_be_drawn():
    assert {name for method in METHODS.values() for name in method.figures} == set(DRAWN)


def test_unknown_names_and_no_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="sampling, channels"):
        write_method_figure(tmp_path / "a.png", "sample", [np.zeros((4, 4, 3), np.uint8)], [{}])
    with pytest.raises(ValueError, match="no image"):
        write_method_figure(tmp_path / "a.png", "sampling", [], [])


def pixels_near(picture, colour):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(picture.astype(int) - wanted).max(axis=2) < 12).sum())


def test_right_and_wrong_steps_are_stamped_in_their_colours(tmp_path):
    found = arrays("steps")
    image = np.full((40, 60, 3), 128, np.uint8)
    found["patch"][:] = 128
    counts = []
    for predicted in ([1, 1, 1], [2, 2, 2]):
        found["predicted"] = np.array(predicted)
        write_method_figure(tmp_path / "a.png", "steps", [image], [found])
        picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
        counts.append((pixels_near(picture, RIGHT), pixels_near(picture, WRONG)))
    assert counts[0][0] > counts[1][0]
    assert counts[1][1] > counts[0][1]
    axes = Figure().subplots(1, 5).tolist()
    draw_steps(axes, image, found | {"predicted": np.array([1, 2, 2])})
    told = [(axis.get_title(), axis.title.get_color()) for axis in axes[2:]]
    assert told == [("t = 1 right", RIGHT), ("t = 2 wrong", WRONG), ("t = 3 wrong", WRONG)]


def test_boxes_are_outlined_where_they_are(tmp_path):
    found = arrays("patches")
    found["boxes"] = found["boxes"][:1]
    black = np.zeros((40, 60, 3), np.uint8)
    found["patch"][:] = 0
    write_method_figure(tmp_path / "a.png", "patches", [black], [found])
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    first = part_colours(np.arange(1))[0]
    rows, columns = np.nonzero((np.abs(picture - first).max(axis=2) < 30)[:, : picture.shape[1] // 3])
    outlined = (np.ptp(columns) / np.ptp(rows), 18 / 27)
    assert abs(outlined[0] - outlined[1]) < 0.08
