"""Several finished runs as one classifier: the mean of their probabilities, image by image.

Needs every logit of every run, which the run folder keeps (``logits.parquet``); the leaderboard's predictions hold
only the largest five. No torch: runs of any method can be averaged anywhere.

May import: numpy, ``fgbench.result``, ``fgbench.predictions``. Reads: run folders. Writes: the file that it is told to.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64

from fgbench.predictions import read_predictions
from fgbench.result import Result, ResultError, from_json, write_atomically

ROWS = 4096  # images at a time


@dataclass(frozen=True)
class Ensemble:
    """What runs say alone and together.

    Attributes:
        names: of the runs.
        accuracies: of each, percent.
        accuracy: of the mean of their probabilities, percent.
        class_accuracy: the mean over classes of the same; None for attributes.
        n_eval: images.
    """

    names: tuple[str, ...]
    accuracies: tuple[float, ...]
    accuracy: float
    class_accuracy: float | None
    n_eval: int


def probabilities(logits: Float[np.ndarray, "n k"], attributes: bool) -> Float64[np.ndarray, "n k"]:
    """Softmax over classes, or the logistic function of each attribute, in float64."""
    z = logits.astype(np.float64)
    if attributes:
        logistic: np.ndarray = np.exp(-np.logaddexp(0, -z))
        return logistic
    z = np.exp(z - z.max(axis=1, keepdims=True))
    softmax: np.ndarray = z / z.sum(axis=1, keepdims=True)
    return softmax


def ensemble(folders: Sequence[Path]) -> Ensemble:
    """Average the predictions of finished runs of one dataset.

    Raises:
        ResultError: a run is not finished, has no logits, or is not of the same images as the first; says which.
    """
    if len(folders) < 2:
        raise ResultError("an ensemble needs the folders of at least two runs, runs/<dataset>/<name>")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ResultError("a run is named twice: an ensemble is of different runs")
    results = [_result(folder) for folder in folders]
    files = [_logits(folder) for folder in folders]
    for folder, result, columns in zip(folders, results, files, strict=True):
        _compare(folder, result, results[0], columns, files[0])
    target = files[0]["target"]
    attributes = target.ndim == 2
    right = [np.zeros(target.shape, bool) for _ in range(len(files) + 1)]  # of each run, and of all together
    for start in range(0, len(target), ROWS):
        rows = slice(start, start + ROWS)
        each = [probabilities(columns["logits"][rows], attributes) for columns in files]
        for found, said in zip(right, [*each, np.mean(each, axis=0)], strict=True):
            found[rows] = (said > 0.5) == (target[rows] > 0.5) if attributes else said.argmax(1) == target[rows]
    recall = None
    if not attributes:
        seen = np.bincount(target)
        recall = float(100 * np.mean((np.bincount(target, right[-1]) / np.maximum(seen, 1))[seen > 0]))
    return Ensemble(
        tuple(result.name for result in results),
        tuple(float(100 * found.mean()) for found in right[:-1]),
        float(100 * right[-1].mean()),
        recall,
        len(target),
    )


def write_ensemble(found: Ensemble, path: Path) -> None:
    """The ensemble as JSON."""
    write_atomically(path, (json.dumps(vars(found), indent=1) + "\n").encode())


def table(found: Ensemble) -> str:
    """A line per run and one for all together."""
    width = max(map(len, (*found.names, "ensemble")))
    lines = [f"{name:<{width}}  {value:6.2f}" for name, value in zip(found.names, found.accuracies, strict=True)]
    share = "" if found.class_accuracy is None else f"  (mean over classes {found.class_accuracy:.2f})"
    lines.append(f"{'ensemble':<{width}}  {found.accuracy:6.2f}{share}")
    return "\n".join([f"accuracy, percent of {found.n_eval:,} images", *lines])


def _result(folder: Path) -> Result:
    path = folder / "result.json"
    if not path.is_file():
        raise ResultError(f"{path}: no such file; name run folders of finished runs, runs/<dataset>/<name>")
    return from_json(path.read_text(encoding="utf-8"), str(path))


def _logits(folder: Path) -> dict[str, np.ndarray]:
    path = folder / "logits.parquet"
    if not path.is_file():
        raise ResultError(
            f"{path}: no such file; the run was tested before logits were kept. Delete {folder / 'result.json'} and "
            "the run's row in the leaderboard's results, and give its command again: it is tested anew, not trained"
        )
    return read_predictions(path)


def _compare(
    folder: Path, result: Result, first: Result, columns: dict[str, np.ndarray], others: dict[str, np.ndarray]
) -> None:
    for name in ("dataset", "data_digest", "classes", "n_eval"):
        if getattr(result, name) != getattr(first, name):
            raise ResultError(
                f"{folder}: {name} is {getattr(result, name)}, but {getattr(first, name)} in {first.name}: an ensemble "
                "is of runs on the same images"
            )
    for name in ("image_id", "target"):
        if not np.array_equal(columns[name], others[name]):
            raise ResultError(f"{folder}: logits.parquet has another {name} than that of {first.name}; test again")
