"""A short board inside another text, the project's README: between two marks, made again with every rebuild.

The text says where and of which datasets: ``<!-- leaderboard of toybirds,cub200 -->`` on a line of its own, then what
is made here, then ``<!-- end of leaderboard -->``. Without these marks nothing is done.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from fgbench.leaderboard.settings import Entry, by_table, entries, front
from fgbench.leaderboard.standing import Standing, standing, untested
from fgbench.leaderboard.tables import interval, markdown_row
from fgbench.result import Result, ResultError

BEGIN = re.compile(r"^<!-- leaderboard of ([a-z0-9_,]+) -->$", re.MULTILINE)
END = "<!-- end of leaderboard -->"
TESTED = 60  # settings of a table; above that its rows have no groups here, for every rebuild would test all pairs
HEADINGS = (
    "track", "method", "seeds", "accuracy %", "95 % interval", "group", "landmark error / floor %",
    "pointing error / floor %", "GMACs", "M params", "front",
)  # fmt: skip
ALIGN = ("---", "---", "--:", "--:", "--:", "---", "--:", "--:", "--:", "--:", ":-:")
NOTE = (
    "Accuracy is the mean over the seeds ± standard deviation, with the 95 % t interval of the mean. Rows of one track "
    "that share a letter cannot be told apart in accuracy (paired tests on the same images and over the seeds, 5 %, "
    "Holm over all pairs of the track); of two or three seeds only large gaps pass that, and `make leaderboard "
    'ARGS="compare A B"` tests one pair alone. ◆ Pareto front of accuracy, landmark error, pointing error and GMACs.'
)


def refreshed(text: str, folder: Path, results: Sequence[Result], source: str = "text") -> str:
    """The text with its boards as the results make them.

    Args:
        text: any, with marks or without.
        folder: the leaderboard's, for the predictions.
        results: all of it.
        source: names the text in messages.

    Raises:
        ResultError: a mark has no end.
    """
    found = BEGIN.search(text)
    if not found:
        return text
    end = text.find(f"\n{END}", found.end())
    if end < 0:
        line = text.count("\n", 0, found.start()) + 1
        raise ResultError(f"{source}: line {line}: {found[0]} has no {END} below it; add that line")
    made = board(folder, results, found[1].split(","))
    return f"{text[: found.end()]}\n\n{made}{refreshed(text[end:], folder, results, source)}"


def board(folder: Path, results: Sequence[Result], datasets: Sequence[str]) -> str:
    """The table of some datasets: a line for each setting, by track, the most accurate first; explainers left out."""
    chosen = [entry for entry in entries(results) if entry.run.dataset in datasets and entry.run.explainer == "own"]
    if not chosen:
        return f"No results of {', '.join(datasets)} yet.\n"
    marks = {id(entry): mark for entry, mark in zip(chosen, front(chosen), strict=True)}
    lines = [markdown_row(HEADINGS), markdown_row(ALIGN)]
    for (dataset, track, classes), rows in by_table(chosen).items():
        of = standing(folder, rows) if len(rows) <= TESTED else untested(rows)
        name = track if len(datasets) == 1 else f"{dataset} ({classes}), {track}"
        lines += [markdown_row([name, *_cells(entry, of, at, marks[id(entry)])]) for at, entry in enumerate(rows)]
    return "\n".join([*lines, "", NOTE, ""])


def _cells(entry: Entry, of: Standing, at: int, on_front: bool) -> list[str]:
    note = "" if entry.honest else " (chosen on the test set)"
    return [
        f"`{entry.label}`{note}", str(len(entry.runs)), entry.cell("accuracy"), interval(entry, "accuracy"),
        of.letters[at], entry.against("landmark_error", "landmark_floor"),
        entry.against("pointing_error", "pointing_floor"), entry.cell("gmacs"), entry.cell("params_m"),
        "◆" if on_front else "",
    ]  # fmt: skip
