"""The paper's comparison: its own digits, marked as published, and rows of the leaderboard beside them."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from fgbench import leaderboard
from fgbench.report import region_grouping_tables as tables
from fgbench.result import Result, ResultError, write_result

BOARD = Path(__file__).resolve().parents[2] / "leaderboard"


def result(**changes):
    values = {
        "dataset": "cub200", "classes": 200, "method": "baseline", "backbone": "resnet101", "weights": "none",
        "resolution": 448, "track": "paper", "seed": 0, "selection": "last", "epochs": 3, "n_train": 100, "n_eval": 41,
        "accuracy": 91.5, "class_accuracy": 90.25, "landmark_error": 12.0, "landmark_floor": 30.0,
        "pointing_error": 2.0, "pointing_floor": 9.5, "params_m": 0.5, "gmacs": 0.01, "gflops": 0.02,
        "energy_kwh": 0.001,
        "train_images_per_s": 100.0,
        "test_images_per_s": 300.0, "peak_memory_gb": 0.5, "train_hours": 0.1, "devices": 1, "device_name": "a CPU",
        "precision": "32-true", "config": "x", "config_digest": "0123456789ab", "data_digest": "abcdef",
        "commit": "deadbeef", "versions": {}, "date": "2026-01-02T03:04:05Z", "command": "make bench",
    }  # fmt: skip
    return Result(**(values | changes))


@pytest.fixture
def board(tmp_path):
    shutil.copy(BOARD / leaderboard.PUBLISHED, tmp_path)
    class_1 = {"landmark_error_class_0": 21.0}
    for seed, error in ((0, 20.0), (1, 24.0)):
        write_result(result(explainer="dff", seed=seed, landmark_error=error, scores=class_1), tmp_path / "results")
    inat = {"dataset": "inat2017", "classes": 5089, "resolution": 320}
    none = {"landmark_error": None, "landmark_floor": None}
    reasons = {"reasons": dict.fromkeys(none, "no landmarks")}
    write_result(result(explainer="gradcam", pointing_error=10.25, **inat, **none, **reasons), tmp_path / "results")
    write_result(result(pointing_error=10.5, **inat, **none, **reasons), tmp_path / "results")
    return tmp_path


def printed(board, dataset=None):
    console = Console(file=io.StringIO(), width=110, no_color=True)
    tables.show(board, dataset, console)
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_each_published_number_stands_in_a_row_marked_as_published(board):
    lines = printed(board)
    assert ["published", "SCOPS", "18.50", "18.82", "21.07"] in lines
    assert ["published", "Region", "Grouping", "resnet101", "448", "px", "15.61", "15.94", "13.80", "11.51"] in lines
    assert ["published", "DFF", "vgg", "31.3"] in lines
    assert ["published", "Guided", "Grad-CAM", "resnet101", "8.2"] in lines
    assert sum(line[:1] == ["published"] for line in lines) == 9


def test_measured_rows_are_means_over_seeds_with_the_explainer_named(board):
    lines = printed(board)
    rows = [line for line in lines if line[:1] == ["measured"]]
    dff = [row for row in rows if "dff" in row]
    assert dff == [
        ["measured", "baseline", "+", "dff", "(paper,", "2", "seeds)", "resnet101", "448", "px", "21.00", "22.00"]
    ]
    assert [row[-1] for row in rows if row is not dff[0]] == ["10.50", "10.25"]  # own first, then its explainers
    assert [line for line in lines if line[:1] == ["floors"]] == [
        ["floors", "mean", "landmark,", "of", "the", "measured", "rows", "30.00"],
        ["floors", "image's", "centre,", "of", "the", "measured", "rows", "9.50"],
    ]
    assert [line[1] for line in lines if line[:1] == ["Table"]] == ["2", "4", "6"]


def test_where_nothing_was_measured_the_error_says_what_there_is(board):
    with pytest.raises(ResultError, match=r"no result of dataset 'cub'; there are: cub200, inat2017"):
        printed(board, "cub")
    with pytest.raises(ResultError, match=r"nowhere: no result in .* is it a leaderboard"):
        printed(board / "nowhere")


def test_a_measured_row_of_a_part_of_the_images_says_so(board):
    resolved = {"data": {"init_args": {"images": 500, "test_list": "landmarks"}}}
    faces = {"dataset": "celeba_wild", "classes": 40, "resolution": 256}
    write_result(result(**faces, landmark_error=9.25, resolved=resolved), board / "results")
    write_result(result(**faces, landmark_error=8.5, config_digest="1" * 12), board / "results")
    rows = [" ".join(line) for line in printed(board) if line[:2] == ["measured", "baseline"] and "256" in line]
    assert rows == [
        "measured baseline (paper) resnet101 256 px 8.50",
        "measured baseline (paper, 500 images of each split) resnet101 256 px 9.25",
    ]


def test_a_dataset_of_ones_choice_has_a_table_of_each_track(board):
    lines = printed(board, "inat2017")
    assert not any(line[:1] == ["published"] for line in lines)
    assert ["inat2017,", "track", "paper,", "5089", "classes,", "resnet101"] in lines
    assert [line for line in lines if line[:1] == ["baseline"]] == [
        ["baseline", "1", "91.50", "10.50", "of", "9.50"],
        ["baseline", "+", "gradcam", "1", "91.50", "10.25", "of", "9.50"],
    ]
