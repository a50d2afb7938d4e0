"""A result is whole and sensible, or it is refused by name."""

import dataclasses
import hashlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgbench.predictions import PredictionsWriter, merge_predictions, read_predictions
from fgbench.result import (
    Result,
    ResultError,
    columns,
    digest,
    from_json,
    read_result,
    to_json,
    write_atomically,
    write_result,
)


def make_result(**changes: object) -> Result:
    """A run of the suite, as a test wants it."""
    values: dict[str, object] = {
        "dataset": "toybirds", "classes": 10, "method": "region_grouping", "backbone": "tiny", "weights": "none",
        "resolution": 64, "track": "default", "seed": 0, "selection": "last", "epochs": 3, "n_train": 100, "n_eval": 41,
        "accuracy": 91.5, "class_accuracy": 90.25, "landmark_error": 12.0, "landmark_floor": 30.0,
        "pointing_error": 2.0, "pointing_floor": 9.5, "params_m": 0.5, "gmacs": 0.01, "train_images_per_s": 100.0,
        "test_images_per_s": 300.0, "peak_memory_gb": 0.5, "train_hours": 0.1, "gflops": 0.021,
        "devices": 1, "device_name": "a CPU",
        "precision": "32-true", "energy_kwh": 0.25,
        "config": "methods/region_grouping.yaml", "config_digest": "0123456789ab",
        "data_digest": "abcdef", "commit": "deadbeef", "versions": {"torch": "2.11.0"}, "date": "2026-01-02T03:04:05Z",
        "command": "fgbench bench", "resolved": {"optim": {"lr": 0.1, "milestones": [0.5, 0.75]}, "root": None},
        "details": {"landmark_error": {"beak": 10.5}}, "floors": {"pointing_error": {"box centre": 0.0}},
        "history": {"train/loss": [2.0, 1.0]}, "scores": {"pointing_error_15px": 1.0},
    }  # fmt: skip
    return Result(**(values | changes))


def test_a_result_survives_the_round_trip() -> None:
    result = make_result(accuracy=None, reasons={"accuracy": "a test"})
    assert from_json(to_json(result)) == result


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 100), st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False)))
def test_every_digit_survives_the_round_trip(accuracy: float, scores: dict[str, float]) -> None:
    result = from_json(to_json(make_result(accuracy=accuracy, scores=scores)))
    assert (result.accuracy, result.scores) == (accuracy, scores)


def test_columns_are_those_of_the_design_in_its_order() -> None:
    expected = """dataset, classes, method, variant, explainer, backbone, weights, resolution, track, seed, selection,
    epochs, n_train, n_eval, accuracy, class_accuracy, landmark_error, landmark_floor, pointing_error, pointing_floor,
    params_m, gmacs, train_images_per_s, test_images_per_s, peak_memory_gb, train_hours, devices, device_name,
    precision, config, config_digest, data_digest, commit, versions, date, command, wandb_url, gflops, energy_kwh"""
    assert [field.name for field in columns()] == [name.strip() for name in expected.split(",")]
    assert all(field.metadata["doc"] for field in dataclasses.fields(Result))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": math.nan}, "accuracy: nan is not finite"),
        ({"accuracy": 100.01}, "accuracy: 100.01 is not within 0 ... 100"),
        ({"accuracy": -0.5}, "accuracy"),
        ({"accuracy": None}, r"accuracy: empty, and reasons.accuracy"),
        ({"reasons": {"accuracy": "none"}}, r"reasons.accuracy: there is a reason"),
        ({"reasons": {"acuracy": "typing"}}, r"reasons.acuracy"),
        ({"landmark_error": math.inf}, "landmark_error: inf is not finite"),
        ({"n_eval": -1}, "n_eval"),
        ({"dataset": "../etc"}, "dataset"),
        ({"variant": "a.b"}, "variant"),
        ({"selection": "best"}, "selection"),
        ({"date": "2026-02-31T00:00:00Z"}, "date"),
        ({"date": "yesterday"}, "date"),
        ({"config_digest": "0123"}, "config_digest"),
        ({"details": {"landmark_error": {"beak": math.nan}}}, r"details.landmark_error.beak: nan"),
        ({"history": {"train/loss": [1.0, math.nan]}}, r"history.train/loss\[1\]: nan"),
        ({"resolved": {"lr": math.nan}}, r"resolved.lr: nan"),
        ({"resolved": {"path": Path()}}, r"resolved.path"),
    ],
)
def test_nonsense_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(ResultError, match=message):
        make_result(**change)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data | {"schema": 3}, "schema: 3 was written by another version"),
        (lambda data: {name: value for name, value in data.items() if name != "schema"}, "schema: None"),
        (lambda data: data | {"acuracy": 1.0}, "acuracy: unknown key"),
        (lambda data: {name: value for name, value in data.items() if name != "gmacs"}, "gmacs: missing"),
        (lambda data: data | {"seed": "0"}, "seed: '0' is not a whole number"),
        (lambda data: data | {"n_eval": 1.5}, "n_eval: 1.5 is not a whole number"),
        (lambda data: data | {"n_eval": True}, "n_eval: True is not a whole number"),
        (lambda data: data | {"accuracy": True}, "accuracy: True is not a number"),
        (lambda data: data | {"accuracy": "91"}, "accuracy: '91' is not a number"),
        (lambda data: data | {"history": {"loss": 1.0}}, "history.loss: 1.0 is not a list"),
        (lambda data: data | {"versions": {"torch": 2}}, "versions.torch: 2 is not a text"),
        (lambda data: [data], "result: .* is not a table"),
    ],
)
def test_an_edited_file_is_refused_with_its_name(edit: object, message: str) -> None:
    data = json.loads(to_json(make_result()))
    with pytest.raises(ResultError, match=f"^some.json: {message}"):
        from_json(json.dumps(edit(data)), "some.json")


def old_file(result: Result) -> dict[str, object]:
    """As the first schema wrote it."""
    data = json.loads(to_json(result))
    return {name: value for name, value in data.items() if name not in ("gflops", "energy_kwh")} | {"schema": 1}


def test_a_file_of_the_first_schema_lacks_what_nobody_measured_then() -> None:
    result = from_json(json.dumps(old_file(make_result())))
    assert (result.gflops, result.energy_kwh) == (None, None)
    assert "schema 1" in result.reasons["gflops"]
    assert dataclasses.replace(result, gflops=0.021, energy_kwh=0.25, reasons={}) == make_result()
    assert from_json(to_json(result)) == result


def test_a_file_of_the_first_schema_is_held_to_its_own_columns() -> None:
    data = old_file(make_result())
    with pytest.raises(ResultError, match="gmacs: missing"):
        from_json(json.dumps({name: value for name, value in data.items() if name != "gmacs"}))


def test_the_same_result_in_an_older_schema_is_the_same_result(tmp_path: Path) -> None:
    result = from_json(json.dumps(old_file(make_result())))
    path = write_result(result, tmp_path)
    path.write_text(json.dumps(old_file(make_result())))
    assert write_result(result, tmp_path) == path
    with pytest.raises(ResultError, match="already has a result"):
        write_result(make_result(accuracy=1.0), tmp_path)


def test_a_whole_number_is_a_percentage_too() -> None:
    data = json.loads(to_json(make_result())) | {"accuracy": 91}
    assert to_json(from_json(json.dumps(data))) == to_json(make_result(accuracy=91.0))


def test_nan_in_a_file_is_refused() -> None:
    with pytest.raises(ResultError, match="NaN"):
        from_json(to_json(make_result()).replace("91.5", "NaN"))


def test_no_torn_file_is_read_as_a_result() -> None:
    text = to_json(make_result())
    for length in range(0, len(text) - 2, 97):
        with pytest.raises(ResultError):
            from_json(text[:length])


def test_the_file_lies_where_the_run_says_and_reads_back(tmp_path: Path) -> None:
    result = make_result(variant="no_prior", seed=7)
    path = write_result(result, tmp_path)
    assert path == tmp_path / "toybirds" / "region_grouping.no_prior.01234567.s7.json"
    assert read_result(path) == result


def test_a_result_is_written_once(tmp_path: Path) -> None:
    path = write_result(make_result(), tmp_path)
    before = path.read_bytes()
    write_result(make_result(), tmp_path)
    with pytest.raises(ResultError, match="already has a result"):
        write_result(make_result(accuracy=99.0), tmp_path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_renamed_file_is_refused(tmp_path: Path) -> None:
    path = write_result(make_result(), tmp_path)
    other = path.with_name("baseline.01234567.s0.json")
    path.rename(other)
    with pytest.raises(ResultError, match="copied or renamed"):
        read_result(other)


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))  # the kernel refuses to let a file grow beyond
    try:
        with pytest.raises(ResultError, match="could not be written"):
            write_result(make_result(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "toybirds").iterdir()) == []


WRITER = """
import sys, pathlib
from fgbench.result import write_atomically
for i in range(10**9):
    write_atomically(pathlib.Path(sys.argv[1]), (b"%d" % (i % 10)) * 200_000)
"""


def test_a_killed_writer_never_leaves_a_torn_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for attempt in range(8):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        try:
            while not path.exists():
                time.sleep(0.01)
            time.sleep(0.003 * attempt)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        content = path.read_bytes()
        assert len(content) == 200_000
        assert len(set(content)) == 1
        path.unlink()


def test_of_many_writers_of_one_run_exactly_one_wins(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\nfrom fgbench.result import write_atomically\n"
        "sys.stdin.read()\n"  # all start together
        "try: write_atomically(pathlib.Path(sys.argv[1]), sys.argv[2].encode(), replace=False); print('won')\n"
        "except FileExistsError: print('lost')\n"
    )
    path = tmp_path / "file"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path), f"writer {i}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for i in range(6)
    ]  # fmt: skip
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    said = [process.stdout.read().strip() for process in processes if process.stdout is not None]
    assert [process.wait() for process in processes] == [0] * 6
    assert sorted(said) == ["lost"] * 5 + ["won"]
    assert path.read_text() == f"writer {said.index('won')}"


def test_writing_in_place_replaces(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b", b"one")
    write_atomically(tmp_path / "a" / "b", b"two")
    assert (tmp_path / "a" / "b").read_bytes() == b"two"
    assert os.listdir(tmp_path / "a") == ["b"]


def test_digest_is_sha256_of_canonical_json() -> None:
    text = '{"a":[1,2.5,null],"b":{"x":true,"y":"\\u00e9"}}'
    assert digest({"b": {"y": "é", "x": True}, "a": (1, 2.5, None)}) == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_digest_tells_configurations_apart() -> None:
    configs = [{"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": True}, {"a": None}, {"b": 1}, {"a": [1]}, {"a": {"a": 1}}]
    assert len({digest(config) for config in configs}) == len(configs)


def predictions(ids: list[int]) -> dict[str, np.ndarray]:
    image_id = np.array(ids, dtype=np.int64)
    return {
        "image_id": image_id,
        "hit": image_id % 2 == 0,
        "top5": np.stack([image_id + 0.25 * column for column in range(5)], 1).astype(np.float32),
        "landmark_error": np.where(image_id % 3 == 0, np.nan, image_id / 7),
    }


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(actual) == list(expected)
    for name in expected:
        assert actual[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(actual[name], expected[name])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_predictions_are_the_same_file_for_any_number_of_processes(tmp_path: Path, world: int, monkeypatch) -> None:
    monkeypatch.setattr("fgbench.predictions.ROWS_PER_GROUP", 4)
    parts = []
    for rank in range(world):
        ids = list(range(rank, 23, world))
        with PredictionsWriter(tmp_path / f"part{rank}") as writer:
            for start in range(0, len(ids), 3):
                writer.write(predictions(ids[start : start + 3]))
        parts.append(tmp_path / f"part{rank}")
    assert merge_predictions(parts, tmp_path / "all", expected=23) == 23
    assert_same(read_predictions(tmp_path / "all"), predictions(list(range(23))))
    with PredictionsWriter(tmp_path / "whole") as writer:
        writer.write(predictions(list(range(23))))
    merge_predictions([tmp_path / "whole"], tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "all").read_bytes()


def test_an_image_seen_twice_or_not_at_all_is_refused(tmp_path: Path) -> None:
    for name, ids in (("a", [0, 1, 2]), ("b", [3, 1])):
        with PredictionsWriter(tmp_path / name) as writer:
            writer.write(predictions(ids))
    with pytest.raises(ResultError, match="twice: image_id 1 "):
        merge_predictions([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    with pytest.raises(ResultError, match="3 images were evaluated, but the split has 4"):
        merge_predictions([tmp_path / "a"], tmp_path / "all", expected=4)
    assert not (tmp_path / "all").exists()


def test_predictions_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    def evaluate() -> None:
        with PredictionsWriter(tmp_path / "part") as writer:
            writer.write(predictions([0]))
            raise RuntimeError("evaluation failed")

    with pytest.raises(RuntimeError, match="evaluation failed"):
        evaluate()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"target": np.zeros(2)}, "need a column image_id"),
        ({"image_id": np.arange(2), "x": np.zeros(3)}, "column x has shape"),
        ({"image_id": np.arange(2), "x": np.zeros((2, 2, 2))}, "column x has shape"),
        ({"image_id": np.arange(2)}, "columns changed"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path: Path, columns: dict[str, np.ndarray], message: str) -> None:
    writer = PredictionsWriter(tmp_path / "part")
    if message == "columns changed":
        writer.write(predictions([5]))
    with pytest.raises(ResultError, match=message):
        writer.write(columns)


def test_a_damaged_predictions_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"PAR1 not at all")
    with pytest.raises(ResultError, match="cannot be read"):
        read_predictions(tmp_path / "part")
    with pytest.raises(ResultError, match="do not make one file"):
        merge_predictions([tmp_path / "part"], tmp_path / "all")
