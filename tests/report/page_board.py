"""A leaderboard with everything that the page shows, and texts that try to become markup."""

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from fgbench.predictions import PredictionsWriter
from fgbench.result import Result, digest, write_result

NASTY = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>\"'&"
FIRST = Result(
    dataset="toybirds", classes=4, method="good", backbone="resnet50", weights="none", resolution=224, track="paper",
    seed=0, selection="last", epochs=3, n_train=100, n_eval=40, accuracy=90.0, class_accuracy=90.0,
    landmark_error=12.34567, landmark_floor=30.0, pointing_error=5.0, pointing_floor=50.0, params_m=0.5, gmacs=1.5,
    gflops=3.0, energy_kwh=None, train_images_per_s=100.0, test_images_per_s=300.0, peak_memory_gb=0.5, train_hours=0.1,
    devices=1, device_name="a CPU", precision="32-true", config="a.yaml", config_digest="0123456789ab",
    data_digest="abcdef", commit="0123456789ab", versions={"torch": "2"}, date="2026-01-02T03:04:05Z", command="make",
    reasons={"energy_kwh": "not reported"}, history={"loss": [1.0, 0.5, 0.25], "val_accuracy": [50.0, 70.0, 90.0]},
    details={"recall": {"a": 80.0, "b": 100.0}, "group_accuracy": {"birds": 90.0}},
)  # fmt: skip
PAPER = {
    "paper": "Somebody, 2020", "table": "2", "page": "5", "method": "Good", "variant": "", "backbone": "resnet101",
    "resolution": "224", "dataset": "cub200", "subset": "", "metric": "accuracy", "value": "87.3", "unit": "%",
    "note": NASTY, "method_file": "good",
}  # fmt: skip


def run(number: int = 0, seed: int = 0, **changes: object) -> Result:
    """A run; those of one number differ in their seed only."""
    values = {
        "config_digest": digest({"number": number}),
        "seed": seed,
        "command": f"make bench SEED={seed} N={number}",
    }
    return dataclasses.replace(FIRST, **(values | changes))


def runs() -> Iterator[Result]:
    """Good in three seeds, others once, a table of one dataset's whole, and one full of markup."""
    none = {"landmark_error": None, "landmark_floor": None}
    without = {"energy_kwh": "not reported", "landmark_error": "no parts", "landmark_floor": "no parts"}
    for seed, accuracy in enumerate((90.0, 92.5, 95.0)):
        yield run(0, seed, accuracy=accuracy, details={"recall": {"a": 80.0 + seed, "b": 99.0}, "group_accuracy": {}})
    yield run(1, method="plain", accuracy=50.0, gmacs=1.0, **none, reasons=without)
    yield run(2, method="other", variant="half", accuracy=93.0, landmark_error=9.5, gmacs=20.0)
    yield run(3, method="other", variant="test", accuracy=99.0, selection="legacy_best_on_test")
    yield run(4, dataset="cub200", classes=200, accuracy=88.0)
    yield run(
        5, dataset="nasty", backbone=NASTY, track=NASTY, weights=NASTY, device_name=NASTY,
        command=NASTY, precision=NASTY, config=NASTY, versions={NASTY: NASTY}, history={NASTY: [1.0, 2.0]},
        details={NASTY: {NASTY: 5.0}}, wandb_url="javascript:window.hit=1",
        reasons={"energy_kwh": NASTY}, floors={NASTY: {NASTY: 1.0}},
    )  # fmt: skip


def write_board(folder: Path) -> Path:
    """``leaderboard`` and ``runs`` in a folder: results, predictions of toybirds, papers' numbers, one picture."""
    board = folder / "leaderboard"
    for result in runs():
        path = write_result(result, board / "results")
        if result.dataset == "toybirds":
            wrong = round((100 - (result.accuracy or 0)) * 0.4)
            correct = np.arange(40) >= wrong
            with PredictionsWriter(path.with_suffix(".parquet")) as writer:
                writer.write({"image_id": np.arange(40), "correct": correct})
    with (board / "published.csv").open("w", newline="") as file:
        writer_of_papers = csv.DictWriter(file, PAPER)
        writer_of_papers.writeheader()
        writer_of_papers.writerows([PAPER, PAPER | {"subset": "class 001", "value": "1.0"}])
    figures = folder / "runs/toybirds" / run(0).name / "figures"
    figures.mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 256, (300, 1500, 3)).astype(np.uint8)
    cv2.imwrite(str(figures / "examples.png"), cv2.blur(picture, (25, 25)))
    return board
