"""Tables 2, 4 and 6 of Huang & Li (CVPR 2020): how well explanations find landmarks and objects, theirs beside ours.

Numbers of papers come from ``leaderboard/published.csv`` and are marked as published; measured ones are rows of the
leaderboard, the mean over seeds. The protocols differ in what the columns say. No torch.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fgbench import leaderboard
from fgbench.leaderboard import Entry
from fgbench.result import Result, ResultError

PAPER = "Huang & Li, CVPR 2020"


@dataclass(frozen=True)
class Printed:
    """One table of the paper: its number, what it measures, and on what."""

    number: str
    title: str
    dataset: str
    metric: str
    columns: tuple[tuple[str, str], ...]  # heading, and the key of the value: a subset in the papers' table


TABLES = (
    Printed("2", "landmarks from parts, error over the inter-ocular distance", "celeba_wild", "landmark_error",
            (("all", ""),)),
    Printed("4", "landmarks from parts, error over the box, by class", "cub200", "landmark_error",
            (("001", "class 001"), ("002", "class 002"), ("003", "class 003"),
             ("all", ""))),
    Printed("6", "pointing game, error", "inat2017", "pointing_error", (("all", ""),)),
)  # fmt: skip


def show(folder: Path, dataset: str | None = None, console: Console | None = None) -> None:
    """Print the tables: the paper's as sections of one.

    Args:
        folder: the leaderboard's folder.
        dataset: measure on this one instead of the paper's, without published numbers.
        console: where to; the terminal if not given.

    Raises:
        ResultError: nothing was measured there; says what there is.
    """
    console = console or Console()
    results = leaderboard.read_results(folder).results
    known = sorted({result.dataset for result in results})
    if not known:
        raise ResultError(f"{folder}: no result in {folder / leaderboard.RESULTS}; is it a leaderboard?")
    if dataset is None:
        console.print(paper_table(leaderboard.published(folder), results))
        console.print(
            Text("published: as the paper prints it. measured: rows of this leaderboard, the mean over seeds.")
        )
        return
    if dataset not in known:
        raise ResultError(f"{folder}: no result of dataset {dataset!r}; there are: {', '.join(known)}")
    for table in measured_tables(dataset, results):
        console.print(table)
    console.print(Text("means over the seeds; errors of their floor: the mean landmark, the image's centre"))


def paper_table(papers: pd.DataFrame, results: Sequence[Result]) -> Table:
    """All three: in each section published rows, then measured ones."""
    table = Table(title=f"{PAPER}: error, %", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "method", "network"):
        table.add_column(heading, overflow="fold")
    headings = max((printed.columns for printed in TABLES), key=len)
    for heading, _ in headings:
        table.add_column(heading, justify="right", overflow="fold")
    for printed in TABLES:
        table.add_section()
        table.add_row(f"Table {printed.number}", f"{printed.title} ({printed.dataset})")
        keys = [key if (heading, key) in printed.columns else None for heading, key in headings]
        measured = _entries(printed.dataset, results)
        for cells in [*_published(printed, keys, papers), *_measured(printed, keys, measured)]:
            table.add_row(*cells)
        floors = {_text(entry.mean(f"{printed.metric[:-6]}_floor")) for entry in measured} - {""}
        if floors:
            what = "mean landmark" if printed.metric == "landmark_error" else "image's centre"
            table.add_row(
                "floors", f"{what}, of the measured rows", "", *[""] * (len(keys) - 1), ", ".join(sorted(floors))
            )
    return table


def _published(printed: Printed, keys: Sequence[str | None], papers: pd.DataFrame) -> list[tuple[str, ...]]:
    tables = (printed.number, f"text {printed.number}.2") if printed.number == "4" else (printed.number,)
    rows: dict[str, dict[str, str]] = {}
    if len(papers):
        chosen = papers[
            (papers["paper"] == PAPER) & papers["table"].isin(tables) & (papers["metric"] == printed.metric)
        ]
        for row in chosen[chosen["dataset"] == printed.dataset].to_dict("records"):
            cells = rows.setdefault(row["method"], {"network": row["backbone"], "px": row["resolution"]})
            cells[row["subset"]] = row["printed"]
    return [
        ("published", method, _setting(cells["network"], cells["px"]), *(cells.get(key, "") for key in keys))  # type: ignore[arg-type]
        for method, cells in rows.items()
    ]


def _measured(printed: Printed, keys: Sequence[str | None], found: Sequence[Entry]) -> list[tuple[str, ...]]:
    rows = []
    for entry in found:
        values = [
            "" if key is None else _text(_mean([value(run, printed.metric, key) for run in entry.runs])) for key in keys
        ]
        if any(values):
            network = _setting(entry.run.backbone, str(entry.run.resolution))
            rows.append(("measured", _described(entry), network, *values))
    return rows


def measured_tables(dataset: str, results: Sequence[Result]) -> list[Table]:
    """All explanations of a dataset's runs beside each other, a table for each track, number of classes and network."""
    tables: dict[tuple[str, int, str], Table] = {}
    for entry in _entries(dataset, results):
        first = entry.run
        key = (first.track, first.classes, first.backbone)
        if key not in tables:
            title = f"{dataset}, track {key[0]}, {key[1]} classes, {key[2]}"
            tables[key] = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
            tables[key].add_column("method", overflow="fold", min_width=24)
            for heading in ("seeds", "accuracy\n%", "landmark\nerror %", "pointing\nerror %"):
                tables[key].add_column(heading, justify="right", overflow="fold")
        errors = [_with_floor(entry, name) for name in ("landmark", "pointing")]
        tables[key].add_row(entry.label, str(len(entry.runs)), _text(entry.mean("accuracy")), *errors)
    return list(tables.values())


def _with_floor(entry: Entry, name: str) -> str:
    error = _text(entry.mean(f"{name}_error"))
    return f"{error} of {_text(entry.mean(f'{name}_floor'))}" if error else ""


def _entries(dataset: str, results: Sequence[Result]) -> list[Entry]:
    """The settings of a dataset by name, a method's own evidence before its explainers; namesakes the best first."""
    found = leaderboard.entries(result for result in results if result.dataset == dataset)
    return sorted(found, key=lambda entry: (entry.run.method, entry.run.variant, entry.run.track,
                                            entry.run.explainer != "own", entry.run.explainer))  # fmt: skip


def value(result: Result, metric: str, subset: str) -> float | None:
    """A number of a run: of the whole split, or of a class (``class 001`` is the first)."""
    if not subset:
        found: float | None = getattr(result, metric)
        return found
    return result.scores.get(f"{metric}_class_{int(subset.removeprefix('class ')) - 1}")


def _described(entry: Entry) -> str:
    """A setting in words: method and explainer, track, what of the dataset where it is not all, seeds."""
    part = leaderboard.part(entry.run)
    facts = [entry.run.track, *([part] if part else []), *([f"{len(entry.runs)} seeds"] if len(entry.runs) > 1 else [])]
    return f"{entry.label} ({', '.join(facts)})"


def _setting(network: str, pixels: str) -> str:
    return f"{network} {pixels} px" if pixels else network


def _mean(values: Sequence[float | None]) -> float | None:
    there = [x for x in values if x is not None]
    return statistics.fmean(there) if there else None


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
