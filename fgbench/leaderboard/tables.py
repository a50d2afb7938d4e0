"""Results and entries as text: the committed tables, and exports for papers."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from fgbench.leaderboard.settings import KINDS, NUMBERS, Entry, by_table, entries, front
from fgbench.result import Result, ResultError, columns

CSV, README, RESULTS, PUBLISHED = "leaderboard.csv", "README.md", "results", "published.csv"
UNITS = {column.name: column.metadata["unit"] for column in columns()}
STATISTICS = ("", "_sd", "_low", "_high", "_n")  # columns of a number in an exported CSV; the first is the mean
LATEX = {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": "\\textbackslash "}
PAPERS = (
    "paper", "table", "page", "method", "variant", "backbone", "resolution", "dataset", "subset", "metric", "value",
    "unit", "note", "method_file",
)  # fmt: skip
PREFIXES = {"digest": "sha256:", "commit": "git:"}
TEMPLATE = Path(__file__).with_name("page.md.j2")


def to_csv(results: Sequence[Result]) -> str:
    """The leaderboard as text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in columns()])
    for result in results:
        writer.writerow([_cell(getattr(result, c.name), c.metadata["kind"], c.metadata["digits"]) for c in columns()])
    return text.getvalue()


def _cell(value: object, kind: str, digits: int) -> str:
    """A cell of the CSV; digests carry their kind, for one of digits only would be read as a number."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    if isinstance(value, dict):
        return "; ".join(f"{name} {version}" for name, version in sorted(value.items()))
    if kind in PREFIXES and value:
        return f"{PREFIXES[kind]}{value}"
    return str(value)


def load(folder: Path) -> pd.DataFrame:
    """The leaderboard as a table: numbers as numbers (NaN where empty), texts as texts ('' where empty)."""
    kinds = {column.name: column.metadata["kind"] for column in columns()}
    numbers = {name for name, kind in kinds.items() if kind in NUMBERS}
    frame = pd.read_csv(folder / CSV, dtype=str, keep_default_na=False)
    if missing := [name for name in kinds if name not in frame.columns]:
        raise ResultError(f"{folder / CSV}: column {missing[0]} is missing; rebuild it with `fgbench leaderboard`")
    for name in numbers:
        frame[name] = pd.to_numeric(frame[name].where(frame[name] != ""))
    return frame


def published(folder: Path) -> pd.DataFrame:
    """The papers' numbers: texts, but for ``value`` (``printed`` keeps its digits). Empty without the file.

    Raises:
        ResultError: a column is missing, or a value is no number; says which, and where.
    """
    path = folder / PUBLISHED
    if not path.exists():
        return pd.DataFrame(columns=["dataset", "value", "printed"])
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # of pandas: an empty file, a line with too many cells
        raise ResultError(f"{path}: cannot be read ({str(error).strip()})") from error
    if missing := [name for name in PAPERS if name not in frame.columns]:
        raise ResultError(f"{path}: column {missing[0]} is missing; its columns are {', '.join(PAPERS)}")
    value = pd.to_numeric(frame["value"], errors="coerce")
    if bad := [at for at, number in enumerate(value) if not math.isfinite(number)]:
        raise ResultError(f"{path}: line {bad[0] + 2}: value {frame['value'][bad[0]]!r} is not a number")
    return frame.assign(value=value, printed=frame["value"])


def to_markdown(results: Sequence[Result], papers: pd.DataFrame) -> str:
    """The page: per dataset a table for each track and number of classes, the papers' numbers, and the columns."""
    chosen = entries(results)
    marks = {id(entry): mark for entry, mark in zip(chosen, front(chosen), strict=True)}
    datasets: dict[str, list[dict[str, Any]]] = {}  # what is in one table is ranked together
    for (dataset, track, classes), rows in by_table(chosen).items():
        datasets.setdefault(dataset, []).append({"track": track, "classes": classes, "entries": rows})
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["row"] = markdown_row
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        datasets=[
            {
                "name": dataset,
                "tables": found,
                "papers": papers[papers["dataset"] == dataset].to_dict("records"),
            }
            for dataset, found in datasets.items()
        ],
        columns=columns(),
        on_front=lambda entry: marks[id(entry)],
        interval=interval,
    )


def markdown_row(cells: Iterable[object]) -> str:
    """A line of a table."""
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def interval(entry: Entry, name: str, digits: int = 2) -> str:
    """The 95 % interval of a column's mean over the seeds; empty of one seed."""
    found = entry.summary(name)
    return "" if found is None or found.low is None else f"[{found.low:.{digits}f}, {found.high:.{digits}f}]"


def cell_of(entry: Entry, name: str) -> str:
    """A cell of an exported table: mean and deviation of a number, or the text."""
    if KINDS[name] == "count":
        found = sorted({getattr(run, name) for run in entry.runs})
        return ", ".join(map(str, found))
    if KINDS[name] in NUMBERS:
        return entry.cell(name, 1 if name.endswith("_per_s") else 2)
    return _cell(getattr(entry.run, name), "", 0)


def export(chosen: Sequence[Entry], names: Sequence[str], style: str) -> str:
    """Settings as a table for a paper or a program.

    Args:
        chosen: a row each.
        names: columns.
        style: ``csv`` (a number has columns for mean, sd, low and high of its 95 % interval, and n), ``markdown``, or
            ``latex`` (booktabs).

    Raises:
        ResultError: there is no such style.
    """
    if style == "csv":
        return _export_csv(chosen, names)
    rows = [[cell_of(entry, name) for name in names] for entry in chosen]
    if style == "markdown":
        rule = ["--:" if KINDS[name] in NUMBERS else "---" for name in names]
        return "\n".join(markdown_row(row) for row in [[_heading(name) for name in names], rule, *rows]) + "\n"
    if style == "latex":
        return _export_latex(rows, names)
    raise ResultError(f"there is no format {style!r}; known: csv, latex, markdown")


def _heading(name: str) -> str:
    unit = UNITS[name]
    return f"{name} ({unit})" if unit else name


def _export_csv(chosen: Sequence[Entry], names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measured = [name for name in names if KINDS[name] in NUMBERS and KINDS[name] != "count"]
    writer.writerow(
        [part for name in names for part in ([f"{name}{end}" for end in STATISTICS] if name in measured else [name])]
    )
    for entry in chosen:
        row: list[str] = []
        for name in names:
            if name not in measured:
                row.append(cell_of(entry, name))
                continue
            found = entry.summary(name)
            values = [found.mean, found.sd, found.low, found.high] if found else [None] * 4
            row += [_cell(value, "", 4) for value in values] + [str(len(found.values)) if found else ""]
        writer.writerow(row)
    return text.getvalue()


def _export_latex(rows: Sequence[Sequence[str]], names: Sequence[str]) -> str:
    align = "".join("r" if KINDS[name] in NUMBERS else "l" for name in names)
    body = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in rows]
    head = " & ".join(_latex(_heading(name)) for name in names) + r" \\"
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    for character in "\\&%$#_{}~^":  # the backslash first
        text = text.replace(character, LATEX.get(character, "\\" + character))
    return text.replace(" ± ", r" $\pm$ ").replace("10\\textasciicircum{}9", "$10^9$")
