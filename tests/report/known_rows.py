"""Rows of a leaderboard whose numbers are those of their predictions."""

from pathlib import Path
from typing import Any

import numpy as np

from fgbench import leaderboard
from fgbench.leaderboard import audit
from fgbench.predictions import PredictionsWriter
from fgbench.result import Result, digest, write_result

IMAGES = 40


def tree_of(method: str) -> dict[str, Any]:
    return {"selection": "last", "trainer": {"max_epochs": 3}, "method": {"init_args": {"backbone": method}}}


def add(
    board_folder: Path, method: str = "baseline", seed: int = 0, wrong: int = 4, *, shift: int = 0,
    errors: np.ndarray | None = None, hits: np.ndarray | None = None, **changes: Any,
) -> Result:  # fmt: skip
    """A run that gets ``wrong`` images wrong, from number ``shift`` on, with the numbers that its predictions give."""
    target = np.arange(IMAGES) % 4
    predicted = target.copy()
    missed = (np.arange(wrong) + shift) % IMAGES
    predicted[missed] = (target[missed] + 1) % 4
    columns = {
        "image_id": np.arange(IMAGES) * 2 + 1, "target": target, "predicted": predicted, "correct": predicted == target,
    }  # fmt: skip
    columns |= {} if errors is None else {"landmark_errors": errors.astype(np.float32)}
    columns |= {} if hits is None else {"hit": hits.astype(np.float32)}
    numbers = audit.recomputed(columns)
    reasons = {f"{name}_{end}": "none" for name in ("landmark", "pointing") for end in ("error", "floor")}
    for name in ("landmark", "pointing"):
        if numbers[f"{name}_error"] is not None:
            numbers[f"{name}_floor"] = 50.0
            reasons = {key: why for key, why in reasons.items() if not key.startswith(name)}
    tree = tree_of(method) | {"extra": changes.pop("extra", 0)}
    values: dict[str, Any] = {
        "dataset": "toybirds", "classes": 4, "method": method, "backbone": method, "weights": "none", "resolution": 64,
        "track": "paper", "seed": seed, "selection": "last", "epochs": 3, "n_train": 100, "n_eval": IMAGES,
        "landmark_floor": None, "pointing_floor": None, "params_m": 0.5, "gmacs": 0.01, "gflops": 0.02,
        "energy_kwh": 0.1, "train_images_per_s": 100.0, "test_images_per_s": 300.0, "peak_memory_gb": 0.5,
        "train_hours": 0.1, "devices": 1, "device_name": "a CPU", "precision": "32-true", "config": "a.yaml",
        "config_digest": digest(tree), "data_digest": "abcdef", "commit": "0123456789ab", "versions": {"torch": "2"},
        "date": "2026-01-02T03:04:05Z", "command": f"make bench METHOD={method} DATASET=toybirds SEED={seed}",
        "resolved": {**tree, "seed": seed}, "reasons": reasons, "history": {"loss": [1.0, 0.5 + seed / 7 + wrong / 99]},
    }  # fmt: skip
    result = Result(**(values | numbers | changes))
    path = write_result(result, board_folder / "results")
    with PredictionsWriter(path.with_suffix(".parquet")) as writer:
        writer.write(columns)
    return result


def entries(folder: Path) -> list[leaderboard.Entry]:
    return leaderboard.entries(leaderboard.read_results(folder).results)
