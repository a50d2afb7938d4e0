"""Pictures of runs are of the network that was tested."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from fgbench import config, pictures, run, run_pairs
from fgbench.data import ToyBirds, View
from fgbench.methods import Baseline, Optim


class Data(ToyBirds):
    """Data that nobody looks at."""

    def __init__(self):
        pass

    def prepare_data(self):
        pass

    def setup(self, stage):
        pass


def make(tree=None):
    return Data(), Baseline(2, "class", Optim(), backbone="resnet_nano", weights=None)


def write_run(folder, selection, finished=True):
    """A run whose last checkpoint has biases of 1, and its best one of 2."""
    (folder / "checkpoints").mkdir(parents=True)
    content = {"name": folder.name, "command": "make bench METHOD=x", "tree": {"selection": selection, "data": "d"}}
    content |= {"cell": {}, "digest": "", "sources": []}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    for name, value in (("last", 1.0), ("best", 2.0)):
        state = make()[1].state_dict() | {"classifier.bias": torch.full((2,), value)}
        torch.save({"state_dict": state}, folder / "checkpoints" / f"{name}.ckpt")
    if finished:
        (folder / "fit.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(config, "instantiate", make)
    monkeypatch.setattr(config, "portable", lambda tree: tree)


@pytest.mark.parametrize(("selection", "value"), [("last", 1.0), ("validation", 2.0), ("legacy_best_on_test", 2.0)])
def test_two_runs_are_compared_as_they_were_tested(selection, value, tmp_path):
    first, second = write_run(tmp_path / "a", selection), write_run(tmp_path / "b", "last")
    names, _, (before, after) = run_pairs.read_pair(first, second, torch.device("cpu"))
    assert names == ["a", "b"]
    assert [one.classifier.bias.tolist() for one in (before, after)] == [[value] * 2, [1.0] * 2]
    assert run.selected_checkpoint(first, {"selection": selection}).exists()


def test_a_training_that_was_not_finished_is_not_compared(tmp_path):
    first, second = write_run(tmp_path / "a", "last"), write_run(tmp_path / "b", "last", finished=False)
    with pytest.raises(RuntimeError, match=r"b: not trained to its end .* make bench METHOD=x"):
        run_pairs.read_pair(first, second, torch.device("cpu"))


def test_own_pictures_have_no_number_of_an_image():
    data = SimpleNamespace(seen_view=View(resize="squash", size=32), target="class")
    images = [np.zeros((40, 50, 3), np.uint8)] * 2
    trained = object.__new__(pictures.Trained)
    trained.data = data
    items = pictures.own_items(trained, [Path("a.png"), Path("b.png")], images)
    assert [(int(item.image_id), name) for item, name in items] == [(-1, "a.png"), (-1, "b.png")]
