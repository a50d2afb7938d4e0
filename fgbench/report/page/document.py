"""Results in, one HTML file out. What it shows is made from the same entries as the committed tables."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fgbench import leaderboard
from fgbench.leaderboard import Entry
from fgbench.leaderboard.settings import by_table, front
from fgbench.leaderboard.standing import Standing, ranked, shares, standing, untested, verdict
from fgbench.leaderboard.tables import interval
from fgbench.report.page import pareto, rows
from fgbench.report.page.details import Texts, table_details
from fgbench.report.page.gallery import pictures
from fgbench.result import Result, write_atomically

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
        of = self.standing(found)
        anchors = [self.anchors(f"row-{entry.name}") for entry in found]
        on_front = [self.marks[id(entry)] for entry in found]
        lines = rows.table_cells(of, on_front, self.papers)
        images, used, left_out = pictures(found, self.runs, self.bytes_left)
        self.bytes_left -= used
        self.details.append(table_details(found, self.texts))
        leader = None if of.leader is None else found[of.leader]
        return {
            "index": len(self.details) - 1,
            "anchor": self.anchors(f"table-{dataset}-{track}-{classes}"),
            "track": track,
            "classes": classes,
            **shown(anchors, lines),
            "verdict": verdict(of),
            "leader": leader,
            "spread": interval(leader, "accuracy") if leader else "",
            "certain": certain(of),
            "problem": of.problem,
            "plot": pareto.plot(found, anchors, on_front) if len(found) > 1 else None,
            "pictures": images,
            "pictures_left_out": left_out,
            "command": found[0].run.command,
            "by": self.details[-1]["by"],
            "curves": any(run.history for entry in found for run in entry.runs),
        }

    def standing(self, found: Sequence[Entry]) -> Standing:
        """A table's rows against each other, as long as they are not too many."""
        count = sum(len(entry.runs) for entry in found)
        if len(found) > 1 and (len(found) > TESTED_SETTINGS or count > self.runs_left):
            return untested(found, f"{len(found)} settings are too many to test whenever the page is made")
        self.runs_left -= count if len(found) > 1 else 0
        return standing(self.folder, found)


def certain(of: Standing) -> str:
    """In a few words, whether the leader of a table is one."""
    others = len(ranked(of.rows)) - 1
    if not others or of.leader is None:
        return "nothing to compare with"
    letters = [letter for at, letter in enumerate(of.letters) if at != of.leader and letter]
    if not letters or not of.letters[of.leader]:
        return "not tested"
    alike = sum(shares(letter, of.letters[of.leader]) for letter in letters)
    if not alike:
        everyone = {1: "the other", 2: "both others"}.get(others, f"all {others} others")
        return f"ahead of {everyone if others == len(letters) else f'{len(letters)} of {others} others'}"
    return f"level with {alike} of {others} other{'s' if others > 1 else ''}"


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
        tables=[table for found in datasets.values() for table in found],
        columns=rows.COLUMNS,
        first_direction=rows.first_direction,
        settings=len(chosen),
        runs=len(results),
        newest=max((result.date for result in results), default=""),
        data={"texts": list(make.texts.index), "tables": make.details},
        pareto=pareto,
    )


def shown(anchors: Sequence[str], lines: Sequence[list[rows.Cell]]) -> dict[str, Any]:
    """A table's columns, without those that no row has anything in, and its rows; the network apart if all have one."""
    kept = [any(line[at].text for line in lines) or column.key in ALWAYS for at, column in enumerate(rows.COLUMNS)]
    network = {(line[-1].text, *line[-1].small) for line in lines}
    shared = ", ".join(*network) if len(network) == 1 else ""
    kept[-1] = not shared
    return {
        "network": shared,
        "columns": [column for column, keep in zip(rows.COLUMNS, kept, strict=True) if keep],
        "rows": [
            (anchor, [cell for cell, keep in zip(line, kept, strict=True) if keep])
            for anchor, line in zip(anchors, lines, strict=True)
        ],
    }


def _of(papers: Any, dataset: str) -> list[dict[str, str]]:
    records: list[dict[str, str]] = papers[papers["dataset"] == dataset].to_dict("records")
    return records
