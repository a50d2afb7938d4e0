"""What a row of the page's table says: numbers with deviation, interval and floor, and the paper's beside them."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import pandas as pd

from fgbench.leaderboard import Entry, is_whole
from fgbench.leaderboard.settings import BETTER
from fgbench.leaderboard.standing import Standing, signed
from fgbench.leaderboard.tables import interval
from fgbench.report.terminal import METRICS, nearest_published, printed_variant

Papers = Mapping[tuple[str, str, str], Sequence[dict[str, str]]]  # by dataset, method file and variant


@dataclass(frozen=True)
class Column:
    """A column of the page's tables.

    Attributes:
        key: what filters call it; a column of the leaderboard where ``source`` is empty.
        heading: what people read.
        meaning: said where the mouse rests, and read out.
        numeric: sorted by number.
        digits: behind the point.
        floor: the column of what a trivial predictor reaches.
        first: the direction of the first click.
    """

    key: str
    heading: str
    meaning: str
    numeric: bool = True
    digits: int = 2
    floor: str = ""
    first: str = "ascending"


@dataclass(frozen=True)
class Cell:
    """One cell: its text, what it is sorted by (empty: last), small print, and whether the number is a paper's."""

    text: str = ""
    value: str = ""
    small: tuple[str, ...] = ()
    published: bool = False


COLUMNS = (
    Column("method", "method", "method and variant; of namesakes also their configuration's digest", False),
    Column("accuracy", "accuracy %", "top-1; mean, standard deviation and 95 % interval over the seeds"),
    Column("behind", "to the best", "points of accuracy from the most accurate, 95 % bootstrap interval"),
    Column("group", "group", "rows that share a letter cannot be told apart in accuracy", False),
    Column("front", "front", "on the Pareto front of accuracy, landmark and pointing error, and GMACs", False),
    Column("published", "paper %", "what the paper prints of this method; published, not measured here"),
    Column("landmark_error", "landmark error %", "distance to the landmarks over the size", floor="landmark_floor"),
    Column("pointing_error", "pointing error %", "most salient point lies in no box", floor="pointing_floor"),
    Column("gmacs", "GMACs", "multiply-adds of a test image, 10^9"),
    Column("params_m", "M params", "parameters, million"),
    Column("test_images_per_s", "test img/s", "test speed over all devices, with the metrics", digits=1),
    Column("train_hours", "train h", "wall time of training, hours"),
    Column("seeds", "seeds", "runs that differ in nothing but their seed", digits=0, first="descending"),
    Column("network", "network", "backbone and side of the test image in pixels", False),
)  # fmt: skip
PRINTED = METRICS["accuracy"][3]  # the papers' names of it


def by_method(papers: pd.DataFrame) -> Papers:
    """The papers' numbers of whole datasets, by what they are of."""
    found: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for record in papers.to_dict("records"):
        row = {str(name): value for name, value in record.items()}
        if not row.get("subset") and row.get("method_file"):
            found.setdefault((row["dataset"], row["method_file"], row["variant"]), []).append(row)
    return found


def table_cells(of: Standing, on_front: Sequence[bool], papers: Papers) -> list[list[Cell]]:
    """The rows of a table, in the order of ``COLUMNS``."""
    names = Counter(entry.label for entry in of.rows)
    twins = {name for name, count in names.items() if count > 1}
    return [_cells(of, at, mark, papers, twins) for at, mark in enumerate(on_front)]


def _cells(of: Standing, at: int, on_front: bool, papers: Papers, twins: Set[str]) -> list[Cell]:
    entry, letters = of.rows[at], of.letters[at]
    run = entry.run
    small = () if entry.honest else ("checkpoint chosen on the test set",)
    if entry.label in twins:
        small = (run.config_digest[:8], *small)
    special = {
        "method": Cell(entry.label, entry.label, small),
        "behind": _behind(of, at),
        "network": Cell(run.backbone, f"{run.backbone} {run.resolution:6d}", (f"{run.resolution} px",)),
        "seeds": Cell(str(len(entry.runs)), str(len(entry.runs))),
        "group": Cell(letters, letters),
        "published": _printed(entry, papers),
        "front": Cell("◆", "0") if on_front else Cell(),
    }
    return [special[column.key] if column.key in special else _measured(entry, column) for column in COLUMNS]


def _behind(of: Standing, at: int) -> Cell:
    """How far from the best, which itself is sorted as what it is: nothing behind."""
    found = of.behind[at]
    if found is None:
        return Cell("best", "0.0") if at == of.leader and any(of.behind) else Cell()
    return Cell(signed(found.difference), repr(found.difference), (f"[{signed(found.low)}, {signed(found.high)}]",))


def first_direction(column: Column) -> str:
    """How the first click on a heading sorts: the best first."""
    return "descending" if BETTER.get(column.key) == "higher" or column.key in ("published", "behind") else column.first


def _measured(entry: Entry, column: Column) -> Cell:
    mean = entry.mean(column.key)
    if mean is None:
        return Cell()
    text, _, deviation = entry.cell(column.key, column.digits).partition(" ± ")
    small = [f"± {deviation}"] if deviation else []
    if column.key == "accuracy" and (found := interval(entry, column.key, column.digits)):
        small.append(found)
    if column.floor and (floor := entry.cell(column.floor, column.digits)):
        small.append(f"floor {floor.partition(' ± ')[0]}")
    return Cell(text, repr(mean), tuple(small))


def _printed(entry: Entry, papers: Papers) -> Cell:
    """What the method's paper prints, how far the mean over the seeds is from it, and what else was different."""
    run, mean = entry.run, entry.mean("accuracy")
    if not is_whole(run):  # papers print numbers of the whole
        return Cell()
    paper = nearest_published(run, papers.get((run.dataset, run.method, printed_variant(run)), ()), PRINTED)
    if paper is None:
        return Cell()
    small = [f"{paper['paper']}, table {paper['table']}".replace("table text", "section")]
    if mean is not None:
        small.insert(0, f"measured {mean - float(paper['value']):+.2f}")
    other = [
        f"{theirs} {unit}".strip()
        for theirs, ours, unit in (
            (paper["backbone"], run.backbone, ""),
            (paper["resolution"], str(run.resolution), "px"),
        )
        if theirs and theirs != ours
    ]
    small += [f"theirs: {', '.join(other)}"] if other else []
    return Cell(paper["printed"], repr(float(paper["value"])), (*small, *filter(None, [paper["note"]])), True)
