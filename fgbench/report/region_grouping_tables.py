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
from fgbench.result import Result

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
    """Print the tables.

    Args:
        folder: the leaderboard's folder.
        dataset: measure on this one instead of the paper's, without published numbers.
        console: where to; the terminal if not given.
    """
    console = console or Console()
    results = leaderboard.read_results(folder).results
    if dataset is not None:
        for table in measured_tables(dataset, results):
            console.print(table)
        console.print(Text("means over the seeds; errors of their floor: the mean landmark, the image's centre"))
        return
    papers = leaderboard.published(folder)
    for printed in TABLES:
        console.print(paper_table(printed, papers, results))
    console.print(Text("published: as the paper prints it. measured: rows of this leaderboard, the mean over seeds."))


def paper_table(printed: Printed, papers: pd.DataFrame, results: Sequence[Result]) -> Table:
    """One table: published rows, then measured ones."""
    table = Table(
        title=f"{PAPER}, Table {printed.number}: {printed.title} ({printed.dataset}), %", title_justify="left",
        box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    for heading in ("", "method", "network", *(name for name, _ in printed.columns)):
        table.add_column(heading, justify="left" if heading in ("", "method", "network") else "right")
    tables = (printed.number, f"text {printed.number}.2") if printed.number == "4" else (printed.number,)
    rows: dict[str, dict[str, str]] = {}
    if len(papers):
        chosen = papers[
            (papers["paper"] == PAPER) & papers["table"].isin(tables) & (papers["metric"] == printed.metric)
        ]
        for row in chosen[chosen["dataset"] == printed.dataset].to_dict("records"):
            cells = rows.setdefault(row["method"], {"network": row["backbone"], "px": row["resolution"]})
            cells[row["subset"]] = row["printed"]
    for method, cells in rows.items():
        values = [cells.get(key, "") for _, key in printed.columns]
        table.add_row("published", method, _setting(cells["network"], cells["px"]), *values)
    measured = _entries(printed.dataset, results)
    for entry in measured:
        values = [_text(_mean([value(run, printed.metric, key) for run in entry.runs])) for _, key in printed.columns]
        if any(values):
            network = _setting(entry.run.backbone, str(entry.run.resolution))
            table.add_row("measured", _described(entry), network, *values)
    floors = {_text(entry.mean(f"{printed.metric[:-6]}_floor")) for entry in measured} - {""}
    if floors:
        table.caption = (
            f"floor of measured rows (mean landmark, image's centre), all classes: {', '.join(sorted(floors))}"
        )
        table.caption_justify = "left"
    return table


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
