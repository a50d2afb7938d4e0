"""Figures of several runs' parts: for the class and the images that are asked for, a row for each run."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import Precision
from matplotlib.figure import Figure
from PIL import Image

from fgbench import part_pictures
from fgbench.cli import main
from fgbench.data import CUB200, ToyBirds
from fgbench.data.view import View
from fgbench.methods import Baseline, DPNet, Optim
from fgbench.options import build_parser
from fgbench.pictures import Trained
from fgbench.report import part_figures

SMALL = {"backbone": "resnet_nano", "weights": None, "parts_per_class": 2, "regions": 20, "shown_parts": 2}


@pytest.fixture
def runs(fake_root, monkeypatch):
    """Runs by name: trained without constraints, with, without a pass, a baseline, other data."""
    data = ToyBirds(root=str(fake_root("toybirds")), num_classes=3, num_images=36, image_size=48, eval_batch_size=6)
    other = ToyBirds(root=str(fake_root("toybirds")), num_classes=3, num_images=36, image_size=48, val_fraction=0.5)
    found = {}
    for name in ("a", "b", "fresh", "global", "baseline", "elsewhere"):
        torch.manual_seed(len(found))
        used = other if name == "elsewhere" else data
        used.prepare_data()
        kind = Baseline if name == "baseline" else DPNet
        arguments = {"backbone": "resnet_nano", "weights": None} if kind is Baseline else SMALL
        arguments = arguments | ({"head": "global1"} if name == "global" else {})
        method = kind(3, "class", Optim(), **arguments).eval()
        if name in ("a", "b", "elsewhere"):
            with torch.no_grad():
                for batch in used.pass_dataloader():
                    method.observe(method.on_after_batch_transfer(batch, 0))
            method.conclude()
        found[name] = Trained(Path(name), name, used, method, method, torch.device("cpu"), Path("none"), Precision())
    monkeypatch.setattr(part_pictures, "load", lambda folder: found[folder.name])
    return found


def picture(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_class_has_a_row_of_parts_for_each_run(runs, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["figure", "parts", "a", "b", "--class", "1", "--output", str(tmp_path / "two.png")])
    assert stop.value.code == 0
    name = runs["a"].data.label_names[1]
    part_pictures.class_parts([Path("a")], name, tmp_path / "one.png")
    one, two = picture(tmp_path / "one.png"), picture(tmp_path / "two.png")
    assert two.shape[0] > 1.6 * one.shape[0]
    assert two.shape[1] == one.shape[1]
    yellow = (abs(one - (255, 212, 0)).sum(2) < 60).sum()
    assert yellow > 9 * 40  # the frames of nine regions
    found = runs["a"].method.class_parts(1)
    assert found["power"].tolist() == sorted(runs["a"].method.power()[1].tolist(), reverse=True)[:3]


def test_any_image_is_shown_for_any_class(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(part_pictures, "write_heatmaps", lambda *given: drawn.append(given))
    data, method = runs["a"].data, runs["a"].method
    own = tmp_path / "mine.png"
    Image.fromarray(np.full((48, 48, 3), 200, np.uint8)).save(own)
    number = int(data.split_ids("train")[4])
    part_pictures.heatmaps([Path("a"), Path("b")], [str(number), str(own)], "2", tmp_path / "x.png")
    _, images, aspects, captions, rows = drawn.pop()
    assert aspects == [1.0, 1.0]
    seen = data.dataset(data.test_view)[int(data.rows_of(np.array([number]))[0])]
    np.testing.assert_array_equal(images[0], seen.image.permute(1, 2, 0).numpy())
    assert (images[1] == 200).all()
    assert captions == [f"image {number}, {data.label_names[int(seen.target)]}", "mine.png"]
    assert [name for name, _, _ in rows] == ["a", "b"]
    batch = method.on_after_batch_transfer(seen._replace(**{k: v[None] for k, v in seen._asdict().items()}), 0)
    with torch.no_grad():
        expected = method.look(batch, torch.tensor([2]))
    np.testing.assert_allclose(rows[0][1][0]["heatmap"], expected["heatmap"][0].numpy(), atol=1e-6)
    np.testing.assert_allclose(rows[0][1][0]["box"], expected["box"][0].numpy())
    assert rows[0][2][0] == f"{data.label_names[2]}: {float(expected['logit']):.2f}"
    part_pictures.heatmaps([Path("a")], [], "2", tmp_path / "x.png")
    assert all(caption.endswith(data.label_names[2]) for caption in drawn.pop()[3])
    part_pictures.heatmaps([Path("a")], [], None, tmp_path / "x.png")
    assert len(drawn.pop()[1]) == part_pictures.EXAMPLES


def test_sheets_of_heatmaps_and_histograms_have_a_row_for_each_run(runs, tmp_path):
    sizes = []
    for names in (["a"], ["a", "b"]):
        folders = [Path(name) for name in names]
        part_pictures.heatmaps(folders, [], None, tmp_path / "h.png")
        part_pictures.histograms(folders, 5, tmp_path / "s.png")
        sizes.append([picture(tmp_path / name).shape[0] for name in ("h.png", "s.png")])
    assert sizes[1][0] > sizes[0][0]
    assert sizes[1][1] > 1.6 * sizes[0][1]


def test_histograms_are_of_regions_of_training_images(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(part_pictures, "write_histograms", lambda path, rows: drawn.extend(rows))
    part_pictures.histograms([Path("a")], 5, tmp_path / "s.png")
    [(name, found)] = drawn
    assert name == "a"
    assert found["regions"].sum() == 5 * 20
    assert found["cosines"].sum() == 6 * 5 / 2
    assert found["classes"].sum() == 3 * 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["parts", "a", "--class", "9"], "there is no class '9' among 3"),
        (["parts", "a", "--class", "Toybird"], "did you mean"),
        (["parts", "fresh", "--class", "0"], "not shown to the parts yet"),
        (["parts", "baseline", "--class", "0"], "baseline: not a run of DP-Net with parts"),
        (["histograms", "global"], "global: not a run of DP-Net with parts"),
        (["heatmaps", "a", "elsewhere"], "a and elsewhere are not of the same data"),
        (["heatmaps", "a", "--image", "4711"], "toybirds has no image number 4711"),
        (["heatmaps", "a", "--image", "none.jpg"], "none.jpg"),
    ],
)
def test_what_cannot_be_drawn_is_refused(runs, tmp_path, capsys, given, message):
    with pytest.raises(SystemExit) as stop:
        main(["figure", *given, "--output", str(tmp_path / "x.png")])
    assert stop.value.code != 0
    assert message in capsys.readouterr().err + str(stop.value.code)
    assert not (tmp_path / "x.png").exists()


def test_every_kind_of_figure_has_its_options():
    options = build_parser().parse_args(["figure", "heatmaps", "r", "--image", "3", "a.jpg", "--output", "o.png"])
    assert (options.runs, options.image, options.label) == ([Path("r")], ["3", "a.jpg"], None)


def test_squashed_images_are_drawn_in_their_own_proportions(tmp_path):
    image = np.full((40, 40, 3), 120, np.uint8)  # of a file that is twice as wide as high
    found = {"heatmap": np.zeros((4, 4), np.float32), "box": np.array([0.0, 0.0, 0.1, 0.1])}
    part_pictures.write_heatmaps(tmp_path / "h.png", [image], [0.5], [""], [("", [found], [""])])
    grey = (abs(picture(tmp_path / "h.png") - 120).max(2) < 3).nonzero()
    height, width = (axis.max() - axis.min() + 1 for axis in grey)
    assert width / height == pytest.approx(2, rel=0.04)


def test_pictures_know_the_proportions_of_their_files(fake_root):
    data = CUB200(
        root=str(fake_root("cub200")), classes=3, test_view=View(resize="squash", size=32, crop="none", crop_size=0)
    )
    data.prepare_data()
    number = int(data.split_ids("test")[0])
    images, aspects = data.pictures(np.array([[number]]))
    with Image.open(data.listing.path(int(data.rows_of(np.array([number]))[0]))) as file:
        assert aspects[0, 0] == pytest.approx(file.height / file.width)
    assert images.shape == (1, 1, 32, 32, 3)


def test_a_square_training_picture_keeps_its_own_proportions():
    axes = Figure().subplots(1, 3).tolist()
    picture = np.zeros((8, 8, 3), np.uint8)
    found = {"part": np.array([0]), "scores": np.ones((1, 2)), "boxes": np.zeros((1, 2, 4))}
    found |= {"shown": np.stack([picture, picture])[None], "aspects": np.array([[1.0, 0.7]]), "class": np.array([0])}
    part_figures.draw_class_parts(axes, picture, found)
    part_figures.unsquash(axes, 0.5)
    assert [axis.get_aspect() for axis in axes] == [0.5, 1.0, 0.7]


def test_a_part_with_fewer_images_than_places_shows_those_it_has(runs):
    method = runs["a"].method
    method.best_image[:, -1] = -1
    assert (
        method.class_parts(0)["image_id"].shape
        == method.class_parts(0)["scores"].shape
        == (3, method.best_image.shape[1] - 1)
    )


def test_runs_that_see_images_otherwise_are_not_compared(runs, tmp_path):
    runs["b"] = replace(runs["b"], data=copy.copy(runs["b"].data))
    runs["b"].data.test_view = View(resize="squash", size=40)
    with pytest.raises(ValueError, match="a and b see their images in other views"):
        part_pictures.heatmaps([Path("a"), Path("b")], [], None, tmp_path / "x.png")
