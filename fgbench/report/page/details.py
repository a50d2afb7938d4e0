"""What a row says once it is opened, as JSON in the page: seeds, commands, provenance, curves, results by class.

Long texts that many runs share (versions, configuration files) stand once, in a list to which the runs refer.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from fgbench.leaderboard import Entry
from fgbench.result import Result, columns

POINTS = 150  # of a curve; longer ones lose epochs in between, never the last
NUMBERS = (
    "accuracy", "class_accuracy", "landmark_error", "pointing_error", "train_images_per_s", "test_images_per_s",
    "peak_memory_gb", "train_hours", "energy_kwh",
)  # fmt: skip
DIGITS = {column.name: column.metadata["digits"] for column in columns()}  # as in leaderboard.csv
SHARED = (
    "backbone", "weights", "resolution", "selection", "epochs", "n_train", "n_eval", "precision", "params_m", "gmacs",
    "gflops", "config", "config_digest", "data_digest",
)  # fmt: skip
PER_RUN = ("device_name", "devices", "commit", "versions", "date", "wandb_url")
WEIGHTS = "loss_weights"  # of the terms of the loss: no results
TITLES = {
    "recall": "accuracy by class, %",
    "group_accuracy": "accuracy by super-category, %",
    "accuracy": "accuracy by attribute, %",
    "landmark_error": "landmark error by landmark, %",
}


class Texts:
    """Texts that are said once."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}

    def __call__(self, text: object) -> int:
        """The text's place in the list."""
        return self.index.setdefault(str(text), len(self.index))


def table_details(rows: Sequence[Entry], texts: Texts) -> dict[str, Any]:
    """The rows of one table, and the names of classes and landmarks that they have results of."""
    names: dict[str, list[str]] = {}
    for entry in rows:
        for metric, values in entry.run.details.items():
            if metric != WEIGHTS and not metric.endswith("_count"):
                names.setdefault(metric, list(values))
    order = [*(metric for metric in TITLES if metric in names), *(metric for metric in names if metric not in TITLES)]
    by = {metric: {"title": TITLES.get(metric, metric.replace("_", " ")), "names": names[metric]} for metric in order}
    return {"by": by, "entries": [_entry(entry, names, texts) for entry in rows]}


def _entry(entry: Entry, names: dict[str, list[str]], texts: Texts) -> dict[str, Any]:
    run = entry.run
    return {
        "name": entry.name,
        "label": entry.label,
        "facts": {name: texts(_text(value)) for name, value in _shared(run).items() if value not in (None, "")},
        "reasons": {name: texts(why) for name, why in run.reasons.items()},
        "floors": {metric: {name: round(value, 2) for name, value in found.items()}
                   for metric, found in run.floors.items()},
        "by": {metric: _means(entry, metric, found) for metric, found in names.items() if metric in run.details},
        "runs": [_run(one, texts) for one in entry.runs],
    }  # fmt: skip


def _means(entry: Entry, metric: str, names: Sequence[str]) -> list[float | None]:
    """Over the seeds that have a number of the name."""
    found: list[float | None] = []
    tables = [run.details.get(metric, {}) for run in entry.runs]
    for name in names:
        values = [table[name] for table in tables if name in table]
        found.append(round(statistics.fmean(values), 2) if values else None)
    return found


def _shared(run: Result) -> dict[str, Any]:
    weights = {WEIGHTS: run.details[WEIGHTS]} if WEIGHTS in run.details else {}
    return {name: getattr(run, name) for name in SHARED} | weights


def _run(run: Result, texts: Texts) -> dict[str, Any]:
    epochs, curves = _curves(run)
    return {
        "seed": run.seed,
        "command": run.command,
        "numbers": {name: round(value, DIGITS[name]) for name in NUMBERS if (value := getattr(run, name)) is not None},
        "facts": {name: texts(_text(value)) for name in PER_RUN if (value := getattr(run, name)) != ""},
        "epochs": epochs,
        "curves": curves,
    }


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in sorted(value.items()))
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _curves(run: Result) -> tuple[list[int], dict[str, list[float]]]:
    """The epochs that are kept, and of each history its values there."""
    length = max(map(len, run.history.values()), default=0)
    step = -(-length // POINTS) or 1
    kept = list(range((length - 1) % step, length, step)) if length else []
    curves = {
        name: [float(f"{values[index]:.4g}") for index in kept]
        for name, values in run.history.items()
        if len(values) == length
    }
    return [index + 1 for index in kept], curves
