"""What is wrong with a leaderboard, rule by rule; nothing is repaired, nothing is guessed.

A row is what a run measured: every number of it that predictions know is computed again from them, its digest again
from its configuration, and the tables again from the rows. So no number gets in by hand, and none from a paper.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fgbench.leaderboard.comparison import predictions_path
from fgbench.leaderboard.files import RESULTS, derived, read_results
from fgbench.leaderboard.settings import SETTING, TABLE, entries, is_whole
from fgbench.leaderboard.tables import PUBLISHED, published
from fgbench.predictions import read_predictions
from fgbench.result import Result, ResultError, digest, read_result

TEST_IMAGES = {
    "cub200": 5794,
    "celeba": 19962,
    "celeba_wild": 283,
    "inat2017": 95986,
    "stanford_cars": 8041,
    "stanford_dogs": 8580,
    "fgvc_aircraft": 3333,
    "flowers102": 6149,
    "mit67": 1340,
    "imagenet": 50000,
}
"""Test images of the whole published datasets: a row of the whole has seen each of them once."""

NEEDED = ("backbone", "weights", "track", "device_name", "precision", "config", "data_digest", "command")
TOLERANCE = 2e-4  # of a percentage with four decimals, from errors that predictions hold in float32
SHOWN = 6  # differences of a configuration in one message


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        row: the result's ``dataset/name``, or the file.
        rule: ``file``, ``complete``, ``digest``, ``stale``, ``protocol``, ``seeds``, ``predictions``, ``published`` or
            ``derived``.
        message: what, and what to do about it.
    """

    row: str
    rule: str
    message: str


Resolve = Callable[[Result], Mapping[str, Any]]
"""The configuration of a result as it resolves now, without the machine; ResultError if it does not."""


def verify(folder: Path, resolve: Resolve | None = None) -> list[Problem]:
    """Everything that is wrong with a leaderboard.

    Args:
        folder: the leaderboard's.
        resolve: gives the configuration as of now; without it no row is called stale.

    Returns:
        Nothing, if all is well.
    """
    read = read_results(folder)
    found = [Problem(str(path), "file", message) for path, message in read.damaged.items()]
    found += _orphans(folder, read.results, read.damaged)
    for result in read.results:
        for rule, message in [
            *incomplete(result),
            *_digest(result),
            *check_predictions(predictions_path(folder, result), result),
        ]:
            found.append(Problem(f"{result.dataset}/{result.name}", rule, message))
    found += protocol(read.results)
    found += _seeds(folder, read.results)
    found += _stale(read.results, resolve) if resolve else []
    found += _published(folder)
    try:
        tables = derived(folder, read.results)
    except ResultError as error:
        return [*found, Problem(str(folder), "derived", f"the tables cannot be made: {error}")]
    for name, text in tables.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            found.append(
                Problem(str(path), "derived", "is not what the results make; run: fgbench leaderboard rebuild")
            )
    return found


Findings = list[tuple[str, str]]
"""Rules and messages on one row."""


def incomplete(result: Result) -> Findings:
    """What a row lacks to be traced."""
    found = [f"{name} is empty" for name in NEEDED if not getattr(result, name)]
    found += [] if result.versions else ["versions is empty"]
    found += [] if result.resolved else ["resolved, the configuration, is empty"]
    trained_at = result.environment.get("trained_at_commit", result.commit)
    for name, commit in (("commit", result.commit), ("environment.trained_at_commit", trained_at)):
        if commit in ("", "unknown") or commit.endswith("+dirty"):
            found.append(f"{name} is {commit!r}: no commit has the code that made the row; commit, and run it again")
    found += [] if result.n_eval else ["n_eval is 0: no image was tested"]
    return [("complete", message) for message in found]


def _digest(result: Result) -> Findings:
    """Whether the columns are those of the configuration that the row itself holds."""
    tree = result.resolved
    own = digest({key: value for key, value in tree.items() if key != "seed"})
    found = [] if own == result.config_digest else [f"config_digest is {result.config_digest}, of resolved it is {own}"]
    said = {"seed": tree.get("seed"), "selection": tree.get("selection")}
    said["backbone"] = tree.get("method", {}).get("init_args", {}).get("backbone")
    said["epochs"] = tree.get("trainer", {}).get("max_epochs")
    found += [
        f"{name} is {getattr(result, name)}, in resolved {value}"
        for name, value in said.items()
        if tree and value is not None and value != getattr(result, name)
    ]
    return [("digest", message) for message in found]


def check_predictions(path: Path, result: Result) -> Findings:
    """Whether the row's numbers are those of its predictions, each image of the split once."""
    if not path.is_file():
        return [("predictions", f"{path.name} is missing: without it no number of the row can be checked")]
    try:
        columns = read_predictions(path)
    except ResultError as error:
        return [("predictions", str(error))]
    found = []
    ids = columns["image_id"]
    if len(ids) != result.n_eval or len(np.unique(ids)) != len(ids):
        found.append(f"n_eval is {result.n_eval}; {path.name} has {len(ids)} rows, {len(np.unique(ids))} images")
    if is_whole(result) and result.n_eval != TEST_IMAGES[result.dataset]:
        found.append(f"n_eval is {result.n_eval}; the test split has {TEST_IMAGES[result.dataset]}")
    for name, value in recomputed(columns).items():
        said = getattr(result, name)
        if (said is None) != (value is None):
            found.append(f"{name} is {'empty' if said is None else said}; by the predictions {_text(value)}")
        elif said is not None and value is not None and abs(said - value) > TOLERANCE:
            found.append(f"{name} is {said}; by the predictions {_text(value)}")
    return [("predictions", message) for message in found]


def _text(value: float | None) -> str:
    return "there is none" if value is None else f"{value:.4f}"


def recomputed(columns: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """The leaderboard's numbers from predictions: percent; None where no image has what it takes."""
    target, correct = columns["target"], columns["correct"]
    numbers: dict[str, float | None] = {"class_accuracy": None}
    if target.ndim == 1:
        right = (columns["predicted"] == target) & correct  # a NaN among the logits is wrong, whatever is predicted
        seen = np.bincount(target)
        numbers["class_accuracy"] = float(100 * (np.bincount(target, right)[seen > 0] / seen[seen > 0]).mean())
        numbers["accuracy"] = float(100 * right.mean())
    else:
        numbers["accuracy"] = float(100 * correct.mean())
    for name, column, sign in (("landmark_error", "landmark_errors", 1.0), ("pointing_error", "hit", -1.0)):
        values = columns.get(column, np.array([])).astype(np.float64)
        values = values[~np.isnan(values)]
        numbers[name] = float(100 * (values.mean() if sign > 0 else 1 - values.mean())) if values.size else None
    return numbers


class Protocol:
    """Rows of one table must be of one test split, seeds of one configuration of one setting.

    Rows with changed options (track ``custom``) stand beside each other without being ranked by a recipe, so their data
    may differ; they are never tested against each other unless the images are the same.
    """

    def __init__(self, results: Iterable[Result] = ()) -> None:
        self.tables: dict[tuple[Any, ...], Result] = {}
        self.digests: dict[tuple[str, ...], Result] = {}
        for result in results:
            self.add(result)

    def add(self, result: Result) -> None:
        """Take a row in, with which later ones must agree."""
        if result.track != "custom":
            self.tables.setdefault(_table(result), result)
        self.digests.setdefault(_configuration(result), result)

    def broken_by(self, result: Result) -> list[str]:
        """In what a row does not go with those that are there."""
        found = []
        if result.track != "custom":
            first = self.tables.get(_table(result), result)
            for name in ("data_digest", "n_eval"):
                if getattr(first, name) != getattr(result, name):
                    mine, other = getattr(result, name), getattr(first, name)
                    found.append(f"{name} is {mine}, but {other} in {first.name}: two splits")
            if result.selection == "legacy_best_on_test":
                found.append("its checkpoint was chosen on the test split, in a track of rows that were not")
        twin = self.digests.get(_configuration(result), result)
        for name in (*SETTING, "n_train", "n_eval", "config"):
            if getattr(twin, name) != getattr(result, name):
                mine, other = getattr(result, name), getattr(twin, name)
                found.append(f"{name} is {mine!r}, but {other!r} in {twin.name}, of the same configuration")
        return found


def _table(result: Result) -> tuple[Any, ...]:
    return tuple(getattr(result, name) for name in TABLE)


def _configuration(result: Result) -> tuple[str, ...]:
    return result.dataset, result.config_digest, result.explainer


def protocol(results: Iterable[Result]) -> list[Problem]:
    """Each row against those before it."""
    found, rows = [], Protocol()
    for result in results:
        row = f"{result.dataset}/{result.name}"
        found += [Problem(row, "protocol", message) for message in rows.broken_by(result)]
        rows.add(result)
    return found


def _seeds(folder: Path, results: Iterable[Result]) -> list[Problem]:
    """Two seeds that agree in every logit or loss are one run under two names."""
    found = []
    for entry in entries(results):
        known: dict[tuple[str, bytes], Result] = {}
        for run in entry.runs:
            path = predictions_path(folder, run)
            signs = [("predictions", path.read_bytes())] if path.is_file() else []
            signs += [("loss of every epoch", repr(loss).encode())] if (loss := run.history.get("loss")) else []
            for sign in signs:
                first = known.setdefault(sign, run)
                if first is not run:
                    message = f"has the same {sign[0]} as seed {first.seed}: a copy is no second seed"
                    found.append(Problem(f"{run.dataset}/{run.name}", "seeds", message))
    return found


def _stale(results: Iterable[Result], resolve: Resolve) -> list[Problem]:
    found = []
    for result in results:
        row = f"{result.dataset}/{result.name}"
        try:
            now = resolve(result)
        except ResultError as error:
            found.append(Problem(row, "stale", f"cannot be configured any more: {error}"))
            continue
        if changed := differences(result.resolved, now):
            more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            what = "; ".join(changed[:SHOWN]) + more
            found.append(Problem(row, "stale", f"the configuration has changed since: {what}; run it again"))
    return found


def differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two trees, by key.

    >>> differences({"a": 1, "b": {"c": 2}}, {"b": {"c": 3}, "d": None})
    ['a was 1, is gone', 'b.c was 2, is 3', 'd is new: None']
    """
    found = []
    for key in [*then, *(key for key in now if key not in then)]:
        name = f"{prefix}{key}"
        if key not in now:
            found.append(f"{name} was {then[key]!r}, is gone")
        elif key not in then:
            found.append(f"{name} is new: {now[key]!r}")
        elif isinstance(then[key], Mapping) and isinstance(now[key], Mapping):
            found += differences(then[key], now[key], f"{name}.")
        elif then[key] != now[key]:
            found.append(f"{name} was {then[key]!r}, is {now[key]!r}")
    return found


def _orphans(folder: Path, results: Iterable[Result], damaged: Mapping[Path, str]) -> list[Problem]:
    """Files in the results' folders that belong to no row."""
    known = {predictions_path(folder, result) for result in results}
    known |= {path.with_suffix(".json") for path in known}
    known |= {other for path in damaged for other in (path, path.with_suffix(".parquet"))}
    return [
        Problem(str(path), "file", "belongs to no result; move it away")
        for path in sorted((folder / RESULTS).glob("*/*"))
        if path not in known and not path.name.startswith(".")
    ]


def _published(folder: Path) -> list[Problem]:
    """The papers' numbers say where they are printed, and are in no way rows."""
    try:
        papers = published(folder)
    except (ValueError, KeyError) as error:
        return [Problem(str(folder / PUBLISHED), "published", f"cannot be read: {error}")]
    found = []
    for line, paper in enumerate(papers.to_dict("records"), 2):
        lacking = [name for name in ("paper", "table", "metric") if not paper.get(name)]
        if lacking:
            message = f"line {line}: no {', '.join(lacking)}: a printed number says where it is printed"
            found.append(Problem(str(folder / PUBLISHED), "published", message))
    return found


def read_checked(path: Path) -> Result:
    """A result of somebody else's folder, refused unless it is whole and its predictions agree with it.

    Raises:
        ResultError: says what is wrong with it.
    """
    result = read_result(path)
    wrong = [
        message
        for _, message in [
            *incomplete(result),
            *_digest(result),
            *check_predictions(path.with_suffix(".parquet"), result),
        ]
    ]
    if wrong:
        raise ResultError(f"{path}: {'; '.join(wrong)}")
    return result
