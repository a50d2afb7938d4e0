"""A dataset's check as a table on the terminal, and bars for what takes long."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fgbench.data.check import Report


@contextmanager
def progress() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Bars on a terminal, nothing elsewhere: gives ``steps(what, total)``; a total of 0 is unknown."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def steps(what: str, total: int) -> Callable[[int], None]:
            task = bars.add_task(what, total=total or None)
            return lambda done: bars.advance(task, done)

        yield steps


def show(name: str, report: Report, console: Console | None = None) -> None:
    """Print the table, examples of what is wrong, the digest, and the verdict."""
    console = console or Console(highlight=False)
    table = Table(title=f"{name}: {_counts(report)}", box=box.SIMPLE, title_justify="left", title_style="")
    for heading in ("question", "checked", "found"):
        table.add_column(heading, justify="left" if heading == "question" else "right")
    for finding in report.findings:
        note = " (known, or harmless)" if finding.harmless and finding.found else ""
        table.add_row(finding.what + note, f"{finding.checked:,}", f"{finding.found:,}")
    console.print(table)
    for finding in report.findings:
        for example in finding.examples:
            console.print(f"  {finding.what}: {example}", markup=False, soft_wrap=True)
        if finding.found > len(finding.examples) > 0:
            console.print(f"  {finding.what}: and {finding.found - len(finding.examples):,} more")
    console.print(f"digest {report.digest}", soft_wrap=True)
    remedy = (
        f"delete damaged files and run fgbench data prepare {name}, which restores them from the archives, "
        "or see the dataset's page for what is known of it"
    )
    console.print(f"{name}: nothing is wrong" if report.is_good else f"{name}: something is wrong; {remedy}")


def _counts(report: Report) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in report.counts.items() if count)
    return f"{counts} images, {report.classes:,} labels"
