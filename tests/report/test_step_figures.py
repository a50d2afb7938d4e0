"""Curves over steps, and two runs' steps below each other: drawn from numbers that are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fgbench import run_pairs
from fgbench.methods import FocusLonger, Optim
from fgbench.report.step_figures import write_step_curves
from fgbench.result import read_result
from fgbench.types import Batch


@pytest.fixture(scope="module")
def result():
    found = sorted((run_pairs.config.ROOT / "leaderboard/results").rglob("baseline*.json"))
    return read_result(found[0])


def blue(path):
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    rows, columns = np.nonzero(np.abs(picture - np.array([0, 114, 178])).max(2) < 40)
    return rows, columns, picture.shape


def test_a_better_later_step_is_drawn_higher(tmp_path, result):
    scores = {"accuracy_global": 50.0}
    for step in range(1, 11):
        scores |= {f"accuracy_{name}_{step}": 5.0 * step for name in ("step", "local_step", "sum", "mean")}
    weights = {str(step): 10.0 for step in range(1, 11)}
    write_step_curves(tmp_path / "a.png", {"one": replace(result, scores=scores, details={"step_weight": weights})})
    rows, columns, (_, width, _) = blue(tmp_path / "a.png")
    left, right = columns < width / 9, (columns > width / 4) & (columns < width / 3.3)
    assert np.median(rows[left]) > np.median(rows[right])


def test_seeds_of_a_setting_are_one_curve_with_a_band(tmp_path, result):
    def run(level):
        scores = {"accuracy_global": 50.0}
        for step in range(1, 11):
            scores |= {f"accuracy_{name}_{step}": level for name in ("step", "sum")}
            scores |= {f"accuracy_{name}_{step}": level - 40 for name in ("local_step", "mean")}
        return replace(result, scores=scores, details={"step_weight": {str(step): 10.0 for step in range(1, 11)}})

    def vermilion(path):  # of a second setting
        picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
        return int((np.abs(picture - np.array([213, 94, 0])).max(2) < 40).sum())

    write_step_curves(tmp_path / "seeds.png", {"a.1.s0": run(60.0), "a.1.s1": run(80.0)})
    write_step_curves(tmp_path / "settings.png", {"a.1": run(60.0), "b.1": run(80.0)})
    assert vermilion(tmp_path / "seeds.png") == 0
    assert vermilion(tmp_path / "settings.png") > 500
    pale = np.abs(np.asarray(Image.open(tmp_path / "seeds.png").convert("RGB")).astype(int) - [217, 234, 243]).max(2)
    # in the first panel, around 70 and around 30: one standard deviation of 60 and 80, 14.1 points, to each side
    rows = np.nonzero(pale[:, pale.shape[1] // 6] < 12)[0]
    lower = np.diff(rows).argmax() + 1
    heights = np.array([np.ptp(rows[:lower]), np.ptp(rows[lower:])]) / np.ptp(rows)
    np.testing.assert_allclose(heights, 2 * 14.14 / (40 + 2 * 14.14), atol=0.02)


def test_runs_without_steps_are_refused(tmp_path, result):
    with pytest.raises(ValueError, match="no run has an accuracy for each step"):
        write_step_curves(tmp_path / "a.png", {"one": replace(result, scores={"accuracy_global": 1.0})})


def test_more_settings_than_colours_differ_in_their_markers(tmp_path, result):
    scores, weights = {"accuracy_step_1": 10.0, "accuracy_step_2": 20.0}, {"step_weight": {"1": 50.0, "2": 50.0}}
    runs = {f"setting{index}.x": replace(result, scores=scores, details=weights) for index in range(8)}
    write_step_curves(tmp_path / "seven.png", dict(list(runs.items())[:7]))
    write_step_curves(tmp_path / "eight.png", runs)
    # all lines lie on each other: the eighth has the first one's colour
    assert len(blue(tmp_path / "eight.png")[0]) > len(blue(tmp_path / "seven.png")[0]) + 50


def make(local):
    return FocusLonger(2, "class", Optim(), backbone="resnet_nano", weights=None, hidden=8, steps=2, patch_size=32,
                       patches="grid", patch_count=1, local=local).eval()  # fmt: skip


def test_two_runs_have_a_row_each_and_self_attention_one_more(tmp_path, monkeypatch):
    class Data:
        label_names = ("a", "b")

    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    none, no = torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool)
    item = Batch(torch.from_numpy(image).permute(2, 0, 1), torch.tensor(0), torch.tensor(0), none, no,
                 torch.zeros(0, 2), no, torch.tensor([1, 0, 0, 0, 2, 0]).double())  # fmt: skip
    monkeypatch.setattr(run_pairs, "choose_items", lambda *_: [item])
    monkeypatch.setattr(run_pairs, "attach_rows", lambda *_: None)
    write, aspects = run_pairs.method_figures.write_method_figure, []
    monkeypatch.setattr(
        run_pairs.method_figures, "write_method_figure", lambda *given: aspects.append(given[5]) or write(*given)
    )
    heights = {}
    for local in ("lstm", "self_attention", "cnn"):
        runs = (["x", "y"], (Data, Data), (make("lstm"), make(local)))
        monkeypatch.setattr(run_pairs, "read_pair", lambda *_, runs=runs: runs)
        file = tmp_path / f"{local}.png"
        if local == "cnn":
            with pytest.raises(ValueError, match=r"second: .*it has no steps"):
                run_pairs.compare_steps(tmp_path / "first", tmp_path / "second", file, torch.device("cpu"))
        else:
            run_pairs.compare_steps(tmp_path / "first", tmp_path / "second", file, torch.device("cpu"))
            heights[local] = Image.open(file).size[1]
    assert heights["self_attention"] > 1.3 * heights["lstm"]
    assert aspects == [[2.0, 2.0], [2.0, 2.0, 2.0]]  # of each row: images that a view squashed are drawn in shape
