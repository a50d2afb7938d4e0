"""The seeds of one setting together, and what can be asked of many settings: filters, order, the front."""

import math
import operator
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fgbench.result import Result, ResultError, columns
from fgbench.statistics import Summary, summary

FULL_CLASSES = {
    "cub200": 200,
    "celeba": 40,
    "celeba_wild": 40,
    "inat2017": 5089,
    "stanford_cars": 196,
    "stanford_dogs": 120,
    "fgvc_aircraft": 100,
    "flowers102": 102,
    "mit67": 67,
    "imagenet": 1000,
}
"""Classes, or attributes, of the datasets as the papers of ``published.csv`` use them: what a run must have to stand
beside a paper. The track would not tell: changing a learning rate makes a row ``custom`` as a part of the classes does.
"""

PAPERS_LIST = "landmarks"  # option test_list of celeba_wild: that of the papers' landmarks, and the default

SETTING = (
    "dataset",
    "track",
    "classes",
    "method",
    "variant",
    "explainer",
    "backbone",
    "weights",
    "resolution",
    "selection",
    "epochs",
    "config_digest",
    "data_digest",
)
"""Columns in which the seeds of one setting agree; rows are in the order of these, then of the seed."""

TABLE = ("dataset", "track", "classes")
"""Columns in which the rows of one table agree: only these rows are ranked and tested against each other."""

AXES = ("accuracy", "landmark_error", "pointing_error", "gmacs")
"""What the front is of: accuracy, interpretability (two), cost."""

KINDS = {column.name: column.metadata["kind"] for column in columns()}
BETTER = {column.name: column.metadata["better"] for column in columns()}
NUMBERS = ("count", "percent", "error", "number")  # kinds
POSSIBLE = {"percent": (0.0, 100.0), **dict.fromkeys(("count", "error", "number"), (0.0, float("inf")))}
"""By kind of number, between what it lies."""

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Entry:
    """One setting and all its seeds: a row of a table."""

    runs: tuple[Result, ...]

    @property
    def run(self) -> Result:
        """Any of the seeds, to ask for what they agree in."""
        return self.runs[0]

    @property
    def label(self) -> str:
        """``method[.variant][ + explainer]``: as people call it."""
        return self.run.label

    @property
    def name(self) -> str:
        """``dataset/method[.variant].digest8[.explainer]``: names the setting, as its files do but for the seed."""
        explained = "" if self.run.explainer == "own" else f".{self.run.explainer}"
        return f"{self.run.dataset}/{self.run.method_name}.{self.run.config_digest[:8]}{explained}"

    @property
    def table(self) -> tuple[Any, ...]:
        """Which table it stands in: its values of ``TABLE``."""
        return tuple(getattr(self.run, name) for name in TABLE)

    @property
    def honest(self) -> bool:
        """Whether its checkpoint was chosen without the test split."""
        return self.run.selection != "legacy_best_on_test"

    @property
    def selection(self) -> str:
        """How the checkpoint was chosen; what was chosen on the test set says so, and what its last epoch has there."""
        last = self.cell("last_epoch_accuracy")
        beside = f" (last epoch {last})" if last else ""
        return self.run.selection if self.honest else f"**chosen on the test set**{beside}"

    def summary(self, name: str) -> Summary | None:
        """A column over the seeds that have it; None if none has.

        An interval ends where a mean can be: two seeds far apart would else reach below 0 and above 100 %.
        """
        values = [float(value) for run in self.runs if (value := getattr(run, name)) is not None]
        if not values:
            return None
        found = summary(values)
        if found.low is None or found.high is None:
            return found
        least, most = POSSIBLE[KINDS[name]]
        return replace(found, low=max(found.low, least), high=min(found.high, most))

    def mean(self, name: str) -> float | None:
        """Of a column."""
        return _plain_mean(self, name)

    def cell(self, name: str, digits: int = 2) -> str:
        """Mean over the seeds, with the standard deviation where they differ; empty if it does not apply.

        A value that only some of the seeds have is the mean of those.
        """
        values = [value for run in self.runs if (value := getattr(run, name)) is not None]
        if not values:
            return ""
        mean = statistics.fmean(values)
        if len(set(values)) == 1:
            return f"{mean:.{digits}f}"
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
        return f"{mean:.{digits}f} ± {deviation:.{digits}f}"

    def against(self, name: str, floor: str, digits: int = 2) -> str:
        """A cell and its floor."""
        value, reference = self.cell(name, digits), self.cell(floor, digits)
        return f"{value or '-'} / {reference or '-'}" if value or reference else ""


def part(result: Result) -> str:
    """What of its published dataset a run was on, in words; empty: the whole, as papers use it."""
    if result.classes != FULL_CLASSES.get(result.dataset):
        return f"{result.classes} classes"
    given = result.resolved.get("data", {}).get("init_args", {})
    if (images := given.get("images")) is not None:
        return f"{images} images of each split"
    tested = given.get("test_list", PAPERS_LIST)
    return "" if tested == PAPERS_LIST else f"test list {tested}"


def is_whole(result: Result) -> bool:
    """Whether a run was on the whole of its published dataset: every test image, beside which papers' numbers stand."""
    return not part(result)


def order(result: Result) -> tuple[Any, ...]:
    """The leaderboard's order of results."""
    return (*(getattr(result, name) for name in SETTING), result.seed)


def entries(results: Iterable[Result]) -> list[Entry]:
    """The results with the seeds of each setting together; the best first, by accuracy, then by landmark error."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in sorted(results, key=order):
        groups.setdefault(order(result)[:-1], []).append(result)
    return sorted((Entry(tuple(runs)) for runs in groups.values()), key=_rank)


def _rank(entry: Entry) -> tuple[float, float]:
    accuracy, error = (_plain_mean(entry, name) for name in ("accuracy", "landmark_error"))
    return 1.0 if accuracy is None else -accuracy, float("inf") if error is None else error


def _plain_mean(entry: Entry, name: str) -> float | None:
    values = [value for run in entry.runs if (value := getattr(run, name)) is not None]
    return statistics.fmean(values) if values else None


def by_table(chosen: Iterable[Entry]) -> dict[tuple[Any, ...], list[Entry]]:
    """The entries by table: of a dataset first the papers' recipes, last what a command line changed; then by name.

    Within a table they are in the order in which they come.
    """
    found: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in sorted(chosen, key=_table_order):
        found.setdefault(entry.table, []).append(entry)
    return found


def _table_order(entry: Entry) -> tuple[Any, ...]:
    track = entry.run.track
    return entry.run.dataset, {"paper": 0, "custom": 2}.get(track, 1), track, -entry.run.classes


def front(chosen: Sequence[Entry], axes: Sequence[str] = AXES) -> list[bool]:
    """Which entries are on the Pareto front of accuracy, interpretability and cost.

    An entry is on it unless another one of its table is at least as good on every axis and better on one, by the means
    over the seeds. A number that an entry does not have is worse than any: without parts it does not come onto the
    front by its parts. Entries whose checkpoint was chosen on the test split are not on it, and push nobody off it.

    Args:
        chosen: entries of any tables.
        axes: columns with a direction.
    """
    marks = {}
    for rows in by_table(chosen).values():
        points = np.array([[_worst_last(entry, axis) for axis in axes] for entry in rows])
        rivals = points[[entry.honest for entry in rows]]
        for entry, point in zip(rows, points, strict=True):
            better = (rivals <= point).all(1) & (rivals < point).any(1)
            marks[id(entry)] = entry.honest and not bool(better.any())
    return [marks[id(entry)] for entry in chosen]


def _worst_last(entry: Entry, axis: str) -> float:
    """Smaller is better; infinite where there is none."""
    value = _plain_mean(entry, axis)
    if value is None:
        return float("inf")
    return -value if BETTER[axis] == "higher" else value


def check_column(name: str) -> str:
    """The name, if it is one of the leaderboard's columns.

    Raises:
        ResultError: it is none; says which there are.
    """
    if name not in KINDS:
        raise ResultError(f"there is no column {name!r}; known: {', '.join(KINDS)}")
    return name


def keep(chosen: Iterable[Entry], conditions: Sequence[str]) -> list[Entry]:
    """The entries that meet every condition: ``dataset=toybirds``, ``method=baseline,tasn``, ``accuracy>=90``.

    Numbers are means over the seeds; texts are compared as they are, with = and != only; a list is any of it.

    Raises:
        ResultError: a condition is not one, or names no column.
    """
    tests = [_condition(condition) for condition in conditions]
    return [entry for entry in chosen if all(test(entry) for test in tests)]


def _condition(text: str) -> Callable[[Entry], bool]:
    found = re.fullmatch(r"\s*(\w+)\s*(!=|>=|<=|=|>|<)\s*(.*?)\s*", text)
    if not found:
        raise ResultError(f"{text!r} is no condition; write column=value, column!=value, column>=number and so on")
    name, sign, value = check_column(found[1]), found[2], found[3]
    if KINDS[name] not in NUMBERS:
        if sign not in ("=", "!="):
            raise ResultError(f"{text!r}: {name} is a text; use = or !=")
        values = value.split(",")
        return lambda entry: (str(getattr(entry.run, name)) in values) == (sign == "=")
    try:
        number = float(value)
    except ValueError:
        raise ResultError(f"{text!r}: {value!r} is not a number") from None

    def test(entry: Entry) -> bool:
        mean = entry.mean(name)
        return mean is not None and COMPARISONS[sign](mean, number)

    return test


def ordered(chosen: Iterable[Entry], by: str) -> list[Entry]:
    """The entries by a column: the best first; texts from A to Z; ``-column`` the other way; empty ones last.

    Raises:
        ResultError: there is no such column.
    """
    reverse, name = by.startswith("-"), check_column(by.removeprefix("-"))
    numeric = KINDS[name] in NUMBERS
    have = [entry for entry in chosen if (entry.mean(name) is not None if numeric else str(getattr(entry.run, name)))]
    lack = [entry for entry in chosen if entry not in have]
    if numeric:
        have.sort(key=lambda entry: entry.mean(name) or 0.0, reverse=(BETTER[name] == "higher") != reverse)
    else:
        have.sort(key=lambda entry: str(getattr(entry.run, name)), reverse=reverse)
    return have + lack


def find(chosen: Sequence[Entry], name: str) -> Entry:
    """The one entry of a name; with a seed, of that run alone.

    A name is ``[dataset/]method[.variant]``, with ``.digest8[.s<seed>][.explainer]`` or `` + explainer`` behind it;
    one without an explainer is of the method's own evidence.

    Raises:
        ResultError: none or several have it; says which there are.
    """
    found = [entry for entry in chosen if name in _names(entry)]
    found += [
        Entry((run,)) for entry in chosen for run in entry.runs if name in (run.name, f"{run.dataset}/{run.name}")
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ResultError(f"there is no {name!r}; known: {', '.join(entry.name for entry in chosen) or 'nothing'}")
    names = ", ".join(entry.name for entry in found)
    raise ResultError(f"{name!r} is {len(found)} settings: {names}; add --filter, or name one in full")


def _names(entry: Entry) -> set[str]:
    names = {entry.label, entry.name.split("/", 1)[1]}
    return names | {f"{entry.run.dataset}/{name}" for name in names}
