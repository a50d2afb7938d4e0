"""Ensembles of finished runs: exact, and only of runs on the same images."""

import json

import numpy as np
import pytest
from scipy.special import expit, softmax

from fgbench import cli
from fgbench.ensemble import ensemble, probabilities, table, write_ensemble
from fgbench.predictions import PredictionsWriter
from fgbench.result import Result, ResultError, columns, to_json

RNG = np.random.default_rng(0)


def result(seed, **changes):
    known = {
        "dataset": "cub200", "classes": 5, "method": "tasn", "backbone": "resnet50", "weights": "none",
        "resolution": 512, "track": "paper", "seed": seed, "selection": "last", "epochs": 1, "n_train": 10,
        "n_eval": 300, "devices": 1, "device_name": "CPU", "precision": "32-true", "config": "a.yaml",
        "config_digest": "0123456789ab", "data_digest": "d", "commit": "c", "versions": {}, "command": "make bench",
        "date": "2026-01-31T23:59:59Z",
    } | changes  # fmt: skip
    empty = [entry.name for entry in columns() if entry.metadata["kind"] in ("percent", "number", "error")]
    return Result(**known, **dict.fromkeys(empty), reasons=dict.fromkeys(empty, "not measured"))


def run(folder, seed, logits, target, image_id=None, **changes):
    path = folder / f"run{seed}"
    path.mkdir()
    (path / "result.json").write_text(to_json(result(seed, n_eval=len(target), **changes)))
    ids = np.arange(len(target)) if image_id is None else image_id
    with PredictionsWriter(path / "logits.parquet") as writer:
        writer.write({"image_id": ids, "target": target, "logits": logits})
    return path


def test_an_ensemble_is_the_argmax_of_the_mean_probability(tmp_path):
    target = RNG.integers(0, 5, 300)
    logits = [(3 * RNG.normal(size=(300, 5)) + 2 * np.eye(5)[target]).astype(np.float32) for _ in range(3)]
    folders = [run(tmp_path, seed, z, target) for seed, z in enumerate(logits)]
    found = ensemble(folders)
    mean = np.mean([softmax(z.astype(np.float64), axis=1) for z in logits], axis=0)
    right = mean.argmax(1) == target
    assert found.accuracy == pytest.approx(100 * right.mean())
    assert found.accuracies == pytest.approx([100 * (z.argmax(1) == target).mean() for z in logits])
    assert found.class_accuracy == pytest.approx(100 * np.mean([right[target == k].mean() for k in range(5)]))
    assert found.n_eval == 300
    assert found.accuracy > max(found.accuracies)


def test_a_confident_run_outvotes_two_that_waver(tmp_path):
    target = np.array([0])
    sure, unsure = np.array([[9.0, 0, 0]], np.float32), np.array([[0.0, 0.1, 0]], np.float32)
    folders = [run(tmp_path, seed, z, target, classes=3) for seed, z in enumerate([sure, unsure, unsure])]
    found = ensemble(folders)
    assert (found.accuracies, found.accuracy) == ((100.0, 0.0, 0.0), 100.0)


def test_attributes_are_averaged_one_by_one(tmp_path):
    target = RNG.integers(0, 2, (50, 4)).astype(np.float32)
    logits = [RNG.normal(size=(50, 4)).astype(np.float32) for _ in range(2)]
    folders = [run(tmp_path, seed, z, target, dataset="celeba") for seed, z in enumerate(logits)]
    mean = (expit(logits[0].astype(float)) + expit(logits[1].astype(float))) / 2
    found = ensemble(folders)
    assert found.accuracy == pytest.approx(100 * ((mean > 0.5) == (target > 0.5)).mean())
    assert found.class_accuracy is None


def test_half_precision_logits_do(tmp_path):
    target = RNG.integers(0, 5, 40)
    z = (3 * RNG.normal(size=(40, 5))).astype(np.float16)
    folders = [run(tmp_path, seed, z, target) for seed in range(2)]
    assert ensemble(folders).accuracy == pytest.approx(100 * (z.argmax(1) == target).mean())


def test_large_logits_do_not_overflow():
    found = probabilities(np.array([[1e4, -1e4]], np.float32), attributes=False)
    np.testing.assert_allclose(found, [[1, 0]])
    np.testing.assert_allclose(probabilities(np.array([[1e4, -1e4]], np.float32), attributes=True), [[1, 0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_digest": "other"}, "data_digest is other, but d"),
        ({"dataset": "toybirds"}, "dataset is toybirds, but cub200"),
        ({"classes": 20}, "classes is 20, but 5"),
        ({"images": 3}, "n_eval is 3, but 4"),
        ({"target": np.ones(4, int)}, "another target"),
    ],
)
def test_runs_on_other_images_or_classes_are_refused(tmp_path, change, message):
    change = {**change}
    first = run(tmp_path, 0, np.zeros((4, 5), np.float32), np.zeros(4, int))
    target = change.pop("target", np.zeros(change.pop("images", 4), int))
    second = run(tmp_path, 1, np.zeros((len(target), change.get("classes", 5)), np.float32), target, **change)
    with pytest.raises(ResultError, match=rf"run1: .*{message}"):
        ensemble([first, second])


def test_other_image_ids_missing_files_and_repeated_runs_are_refused(tmp_path):
    target, z = np.zeros(4, int), np.zeros((4, 5), np.float32)
    first = run(tmp_path, 0, z, target)
    second = run(tmp_path, 1, z, target, image_id=np.arange(4) + 1)
    with pytest.raises(ResultError, match="another image_id"):
        ensemble([first, second])
    with pytest.raises(ResultError, match="at least two"):
        ensemble([first])
    with pytest.raises(ResultError, match="twice"):
        ensemble([first, first])
    (second / "logits.parquet").unlink()
    with pytest.raises(ResultError, match="before logits were kept"):
        ensemble([first, second])
    (second / "result.json").unlink()
    with pytest.raises(ResultError, match="finished runs"):
        ensemble([first, second])


def test_the_verb_prints_and_writes(tmp_path, capsys):
    target = RNG.integers(0, 5, 30)
    folders = [run(tmp_path, seed, RNG.normal(size=(30, 5)).astype(np.float32), target) for seed in range(2)]
    with pytest.raises(SystemExit) as end:
        cli.main(["ensemble", *map(str, folders), "--output", str(tmp_path / "both.json")])
    assert end.value.code == 0
    found = ensemble(folders)
    assert capsys.readouterr().out.strip() == table(found)
    written = json.loads((tmp_path / "both.json").read_text())
    assert written["accuracy"] == found.accuracy
    write_ensemble(found, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "both.json").read_bytes()
