"""Numbers of results that are no columns of the leaderboard, over the seeds, and differences within each run.

A method's own numbers are in a result's ``scores``: ``accuracy_global`` of a stream of its own, say. No torch.
"""

import statistics
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fgbench.leaderboard.settings import KINDS, NUMBERS, Entry, by_table
from fgbench.result import Result, ResultError


def score(run: Result, name: str) -> float | None:
    """A number of a result, a column of the leaderboard or not; None where it has none."""
    column = KINDS.get(name)
    found = run.scores.get(name) if column is None else getattr(run, name) if column in NUMBERS else None
    return None if found is None else float(found)


def spread(values: Sequence[float], signed: bool = False) -> str:
    """Mean and standard deviation.

    >>> spread([1.0, 2.0, 3.0]), spread([2.0], signed=True), spread([])
    ('2.00 ± 1.00', '+2.00', '')
    """
    if not values:
        return ""
    mean = f"{statistics.fmean(values):{'+' if signed else ''}.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def show(console: Console, chosen: Sequence[Entry], names: Sequence[str], minus: str | None = None) -> None:
    """Print the settings that have one of the numbers.

    Args:
        console: where to.
        chosen: settings.
        names: of numbers.
        minus: also print each number less this one of the same run.

    Raises:
        ResultError: no setting has any of the numbers, or ``minus``; says which there are.
    """
    known = sorted({name for entry in chosen for run in entry.runs for name in run.scores})
    for name in (*names, *([minus] if minus else [])):
        if all(score(run, name) is None for entry in chosen for run in entry.runs):
            raise ResultError(
                f"none of the results has a number {name!r}; beside columns they have: {', '.join(known)}"
            )
    for (dataset, track, classes), rows in by_table(chosen).items():
        having = [row for row in rows if any(score(run, name) is not None for run in row.runs for name in names)]
        if not having:
            continue
        console.print(Text(f"{dataset}, track {track}, {classes} classes", style="bold"))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("method", overflow="fold")
        for heading in ("n", *names, *(f"{name}\n- it" for name in names if minus and name != minus)):
            table.add_column(heading.replace("_", "_\n"), justify="right", overflow="fold")
        for entry in having:
            of = {name: [score(run, name) for run in entry.runs] for name in (*names, *([minus] if minus else []))}
            cells = [spread([x for x in of[name] if x is not None]) for name in names]
            for name in names if minus else ():
                if name == minus:
                    continue
                pairs = zip(of[name], of[minus or ""], strict=True)
                cells.append(spread([x - y for x, y in pairs if x is not None and y is not None], signed=True))
            table.add_row(entry.label, str(len(entry.runs)), *cells)
        console.print(table)
    told = f"; - it: less {minus} of the same run" if minus else ""
    console.print(f"mean ± standard deviation over n seeds{told}")
