"""Results in, one HTML file out. What it shows is made from the same entries as the committed tables."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fgbench import leaderboard
from fgbench.leaderboard import Entry, comparison
from fgbench.leaderboard.settings import by_table, front
from fgbench.report.page import pareto, rows
from fgbench.report.page.details import Texts, table_details
from fgbench.report.page.gallery import pictures
from fgbench.result import Result, ResultError, write_atomically

HERE = Path(__file__).parent
TESTED_SETTINGS = 60  # of a table; beyond that the pairs are too many to test whenever the page is made
TESTED_RUNS = 1500  # of all tables: their predictions are read
PICTURES_MB = 6.0
ALWAYS = ("accuracy", "front")  # columns of every table


def write(folder: Path, path: Path, runs: Path, pictures_mb: float = PICTURES_MB) -> leaderboard.Rebuilt:
    """Write the page.

    Args:
        folder: the leaderboard's.
        path: the HTML file.
        runs: the folder of run folders, for pictures.
        pictures_mb: megabytes that the pictures may take.

    Returns:
        What was read; damaged files are left out of the page.
    """
    read = leaderboard.read_results(folder)
    write_atomically(path, render(read.results, folder, runs, pictures_mb).encode())
    return read


class Anchors:
    """Names of places in the page, each once."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def __call__(self, text: str) -> str:
        """The text as an id; with a number where it is taken."""
        name = first = re.sub(r"[^A-Za-z0-9_-]+", "-", text)
        count = 1
        while name in self.taken:
            count += 1
            name = f"{first}-{count}"
        self.taken.add(name)
        return name


@dataclass
class Maker:
    """What the tables of one page share, and what of its limits is left."""

    folder: Path
    runs: Path
    marks: Mapping[int, bool]  # by id of the entry: on the front
    papers: rows.Papers
    bytes_left: int
    runs_left: int = TESTED_RUNS
    anchors: Anchors = field(default_factory=Anchors)
    texts: Texts = field(default_factory=Texts)
    details: list[dict[str, Any]] = field(default_factory=list)

    def table(self, dataset: str, track: str, classes: int, found: Sequence[Entry]) -> dict[str, Any]:
        """What the template draws of one table; its details go to the others'."""
        letters, problem = self.groups(found)
        anchors = [self.anchors(f"row-{entry.name}") for entry in found]
        on_front = [self.marks[id(entry)] for entry in found]
        lines = [
            rows.cells(entry, letter, mark, self.papers)
            for entry, letter, mark in zip(found, letters, on_front, strict=True)
        ]
        images, used, left_out = pictures(found, self.runs, self.bytes_left)
        self.bytes_left -= used
        self.details.append(table_details(found, self.texts))
        return {
            "index": len(self.details) - 1,
            "anchor": self.anchors(f"table-{dataset}-{track}-{classes}"),
            "track": track,
            "classes": classes,
            **shown(anchors, lines),
            "problem": problem,
            "plot": pareto.plot(found, anchors, on_front),
            "pictures": images,
            "pictures_left_out": left_out,
            "command": found[0].run.command,
            "by": self.details[-1]["by"],
            "curves": any(run.history for entry in found for run in entry.runs),
        }

    def groups(self, found: Sequence[Entry]) -> tuple[list[str], str]:
        """Letters of a table's rows, and why there are none."""
        none, count = [""] * len(found), sum(len(entry.runs) for entry in found)
        if len(found) < 2:
            return none, ""
        if len(found) > TESTED_SETTINGS or count > self.runs_left:
            return none, f"{len(found)} settings are too many to test whenever the page is made"
        self.runs_left -= count
        try:
            return comparison.groups(self.folder, found, "accuracy"), ""
        except ResultError as error:
            return none, str(error)


def render(results: Sequence[Result], folder: Path, runs: Path, pictures_mb: float = PICTURES_MB) -> str:
    """The page's text; see ``write``."""
    chosen = leaderboard.entries(results)
    marks = {id(entry): mark for entry, mark in zip(chosen, front(chosen), strict=True)}
    papers = leaderboard.published(folder)
    make = Maker(folder, runs, marks, rows.by_method(papers), int(pictures_mb * 1e6))
    datasets: dict[str, list[dict[str, Any]]] = {}
    for (dataset, track, classes), found in by_table(chosen).items():
        datasets.setdefault(dataset, []).append(make.table(dataset, track, classes, found))
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    style, script, template = (HERE.joinpath(f"page.{end}").read_text("utf-8") for end in ("css", "js", "html.j2"))
    return environment.from_string(template).render(
        style=Markup(style),  # ours, so not escaped
        script=Markup(script),
        datasets=[
            {"name": name, "anchor": make.anchors(f"dataset-{name}"), "tables": found, "papers": _of(papers, name)}
            for name, found in datasets.items()
        ],
        columns=rows.COLUMNS,
        first_direction=rows.first_direction,
        settings=len(chosen),
        runs=len(results),
        newest=max((result.date for result in results), default=""),
        data={"texts": list(make.texts.index), "tables": make.details},
        pareto=pareto,
    )


def shown(anchors: Sequence[str], lines: Sequence[list[rows.Cell]]) -> dict[str, Any]:
    """A table's columns, without those that no row has anything in, and its rows."""
    kept = [any(line[at].text for line in lines) or column.key in ALWAYS for at, column in enumerate(rows.COLUMNS)]
    return {
        "columns": [column for column, keep in zip(rows.COLUMNS, kept, strict=True) if keep],
        "rows": [
            (anchor, [cell for cell, keep in zip(line, kept, strict=True) if keep])
            for anchor, line in zip(anchors, lines, strict=True)
        ],
    }


def _of(papers: Any, dataset: str) -> list[dict[str, str]]:
    records: list[dict[str, str]] = papers[papers["dataset"] == dataset].to_dict("records")
    return records
