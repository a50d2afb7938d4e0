"""From the result files to ``leaderboard.csv`` and ``README.md``: what is derived can always be made again.

Any number of processes may add results and rebuild at the same time: each looks again after it has written, so that the
last one to write has seen every file.

May import: the standard library, pandas, jinja2, ``fgbench.result``. Must not import: torch, anything that trains.
Reads: ``leaderboard/results/*/*.json``, ``leaderboard/published.csv``. Writes: ``leaderboard/leaderboard.csv``,
``leaderboard/README.md``.
"""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from fgbench.result import Result, ResultError, columns, read_result, write_atomically

CSV, README, RESULTS, PUBLISHED = "leaderboard.csv", "README.md", "results", "published.csv"
TEMPLATE = Path(__file__).with_suffix(".md.j2")

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


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild found: the results, and by file what is wrong with the damaged ones."""

    results: tuple[Result, ...]
    damaged: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One setting and all its seeds: a row of the README."""

    runs: tuple[Result, ...]

    @property
    def run(self) -> Result:
        """Any of the seeds, to ask for what they agree in."""
        return self.runs[0]

    def cell(self, name: str, digits: int = 2) -> str:
        """Mean over the seeds, with the standard deviation if there are several; empty if it does not apply.

        A value that only some of the seeds have is the mean of those.
        """
        values = [value for run in self.runs if (value := getattr(run, name)) is not None]
        if not values:
            return ""
        mean = f"{statistics.fmean(values):.{digits}f}"
        return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean

    def against(self, name: str, floor: str, digits: int = 2) -> str:
        """A cell and its floor."""
        value, reference = self.cell(name, digits), self.cell(floor, digits)
        return f"{value or '-'} / {reference or '-'}" if value or reference else ""


def read_results(folder: Path) -> Rebuilt:
    """Every result below ``folder/results``, in the leaderboard's order, and the files that hold none."""
    return _read(_snapshot(folder))


def _snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    """The result files, with what changes when somebody replaces one."""
    files = {}
    for path in sorted((folder / RESULTS).glob("*/*.json")):
        if path.name.startswith("."):
            continue
        try:
            status = path.stat()
        except FileNotFoundError:  # taken away in between
            continue
        files[path] = (status.st_size, status.st_mtime_ns)
    return files


def _read(files: Iterable[Path]) -> Rebuilt:
    results, damaged = [], {}
    for path in files:
        try:
            results.append(read_result(path))
        except ResultError as error:
            damaged[path] = str(error)
    return Rebuilt(tuple(sorted(results, key=_order)), damaged)


def _order(result: Result) -> tuple[Any, ...]:
    return (*(getattr(result, name) for name in SETTING), result.seed)


def rebuild(folder: Path) -> Rebuilt:
    """Make ``leaderboard.csv`` and ``README.md`` from all result files.

    Args:
        folder: the leaderboard's folder.

    Returns:
        What went in; a verb should end with a failure if ``damaged`` is not empty.
    """
    files = _snapshot(folder)
    while True:
        rebuilt = _read(files)
        write_atomically(folder / CSV, to_csv(rebuilt.results).encode())
        write_atomically(folder / README, to_markdown(rebuilt.results, published(folder)).encode())
        before, files = files, _snapshot(folder)
        if files == before:  # else somebody has added a result, and perhaps written a newer file than ours before ours
            return rebuilt


def to_csv(results: Sequence[Result]) -> str:
    """The leaderboard as text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in columns()])
    for result in results:
        writer.writerow([_cell(getattr(result, column.name), column.metadata["digits"]) for column in columns()])
    return text.getvalue()


def _cell(value: object, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    if isinstance(value, dict):
        return "; ".join(f"{name} {version}" for name, version in sorted(value.items()))
    return str(value)


def load(folder: Path) -> pd.DataFrame:
    """The leaderboard as a table: numbers as numbers (NaN where empty), texts as texts ('' where empty)."""
    kinds = {column.name: column.metadata["kind"] for column in columns()}
    numbers = {name for name, kind in kinds.items() if kind in ("count", "percent", "error", "number")}
    frame = pd.read_csv(folder / CSV, dtype=str, keep_default_na=False)
    if missing := [name for name in kinds if name not in frame.columns]:
        raise ResultError(f"{folder / CSV}: column {missing[0]} is missing; rebuild it with `fgbench leaderboard`")
    for name in numbers:
        frame[name] = pd.to_numeric(frame[name].where(frame[name] != ""))
    return frame


def published(folder: Path) -> pd.DataFrame:
    """The papers' numbers: texts, but for ``value`` (``printed`` keeps its digits). Empty without the file."""
    path = folder / PUBLISHED
    if not path.exists():
        return pd.DataFrame(columns=["dataset", "value", "printed"])
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return frame.assign(value=frame["value"].astype(float), printed=frame["value"])


def entries(results: Iterable[Result]) -> list[Entry]:
    """The results with the seeds of each setting together; the best first, by accuracy, then by landmark error."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in sorted(results, key=_order):
        groups.setdefault(_order(result)[:-1], []).append(result)
    return sorted((Entry(tuple(runs)) for runs in groups.values()), key=_rank)


def _rank(entry: Entry) -> tuple[float, float]:
    def mean(name: str, empty: float) -> float:
        values = [value for run in entry.runs if (value := getattr(run, name)) is not None]
        return statistics.fmean(values) if values else empty

    return -mean("accuracy", -1.0), mean("landmark_error", float("inf"))


def to_markdown(results: Sequence[Result], papers: pd.DataFrame) -> str:
    """The page: per dataset a table for each track and number of classes, the papers' numbers, and the columns."""
    tables: dict[str, dict[tuple[str, int], list[Result]]] = {}  # what is in one table is ranked together
    for result in sorted(results, key=lambda result: (result.dataset, result.track, -result.classes)):
        tables.setdefault(result.dataset, {}).setdefault((result.track, result.classes), []).append(result)
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["row"] = _markdown_row
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        datasets=[
            {
                "name": dataset,
                "tables": [
                    {"track": track, "classes": classes, "entries": entries(runs)}
                    for (track, classes), runs in groups.items()
                ],
                "papers": papers[papers["dataset"] == dataset].to_dict("records"),
            }
            for dataset, groups in tables.items()
        ],
        columns=columns(),
    )


def _markdown_row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
