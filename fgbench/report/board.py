"""The leaderboard on the terminal: tables of settings, comparisons of two, what an audit found; at 80 columns too."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fgbench.leaderboard import comparison
from fgbench.leaderboard.audit import Problem
from fgbench.leaderboard.comparison import Comparison
from fgbench.leaderboard.merging import Merged
from fgbench.leaderboard.settings import KINDS, NUMBERS, Entry, by_table, front
from fgbench.leaderboard.tables import cell_of, interval
from fgbench.result import ResultError

WIDE = 120  # columns of a terminal from which a table also shows intervals and the network
SHARED = ("backbone", "weights", "resolution", "epochs", "selection")  # said once, below a table whose rows agree
NAMES = {
    "accuracy": "accuracy %",
    "class_accuracy": "class acc. %",
    "landmark_error": "landmark %",
    "pointing_error": "pointing %",
    "params_m": "M params",
    "gmacs": "GMACs",
    "gflops": "GFLOPs",
    "train_images_per_s": "train img/s",
    "test_images_per_s": "test img/s",
    "peak_memory_gb": "peak GB",
    "train_hours": "hours",
    "energy_kwh": "kWh",
    "resolution": "px",
}
NARROW_COLUMNS = ("accuracy", "landmark_error", "pointing_error", "gmacs")
WIDE_COLUMNS = ("accuracy", "landmark_error", "pointing_error", "params_m", "gmacs", "gflops", "test_images_per_s")


def show(
    console: Console,
    folder: Path,
    chosen: Sequence[Entry],
    columns: Sequence[str] = (),
    baselines: Sequence[Entry] = (),
    metric: str = "accuracy",
) -> None:
    """Print a table for each dataset, track and number of classes.

    Args:
        console: where to.
        folder: the leaderboard's, for the predictions.
        chosen: settings, in the order of the rows.
        columns: of the leaderboard; what fits if not given.
        baselines: settings with which the rows of their tables are compared.
        metric: of the groups and of the comparison with the baseline.
    """
    marks = {id(entry): mark for entry, mark in zip(chosen, front(chosen), strict=True)}
    for (dataset, track, classes), rows in by_table(chosen).items():
        console.print(Text(f"{dataset}, track {track}, {classes} classes", style="bold"))
        baseline, gaps = next((entry for entry in rows if entry in baselines), None), []
        letters, problem = [""] * len(rows), ""
        try:
            letters = comparison.groups(folder, rows, metric) if len(rows) > 1 else letters
            gaps = comparison.against(folder, rows, baseline, metric) if baseline else []
        except ResultError as error:
            problem = f"no groups: {error}"
        _print_table(console, rows, columns, letters, [marks[id(entry)] for entry in rows], gaps, metric)
        if problem:
            console.print(Text(problem))
        if baseline and gaps:
            console.print(f"gap in {metric} to {baseline.label}, points: 95 % bootstrap interval; p after Holm")
        console.print()
    if not chosen:
        console.print("No setting meets the conditions.")
        return
    console.print(
        "mean ± standard deviation over n seeds; landmark and pointing are errors. Rows of a group (letter) cannot be "
        f"told apart in {metric} (5 %, Holm over all pairs of the table). ◆ Pareto front of accuracy, landmark and "
        "pointing error, GMACs."
    )


def _print_table(
    console: Console,
    rows: Sequence[Entry],
    columns: Sequence[str],
    letters: Sequence[str],
    marks: Sequence[bool],
    gaps: Sequence[Comparison | None],
    metric: str,
) -> None:
    wide = console.width >= WIDE
    names = list(columns or (WIDE_COLUMNS if wide else NARROW_COLUMNS))
    if gaps and not columns:  # or the gap would find no room
        names = [*dict.fromkeys([metric, *NARROW_COLUMNS])] if wide else [metric]
    names = [name for name in names if columns or any(cell_of(entry, name) for entry in rows)]
    shared = {name: {str(getattr(entry.run, name)) for entry in rows} for name in SHARED if name not in names}
    own = [name for name in ("backbone", "resolution") if len(shared.get(name, "x")) > 1 and wide and not columns]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1 if not wide else 2, 0, 0))
    table.add_column("method", overflow="fold", min_width=0 if gaps else 24)
    for name in own:
        table.add_column(NAMES.get(name, name))
    table.add_column("n", justify="right")
    for index, name in enumerate(names):
        numeric = KINDS[name] in NUMBERS
        table.add_column(NAMES.get(name, name), justify="right" if numeric else "left", no_wrap=index == 0 and numeric)
        if index == 0 and wide and not columns:
            table.add_column("95 % interval", justify="right", no_wrap=True)
        if index == 0:
            table.add_column("group")
    if gaps:
        table.add_column("gap", justify="right", no_wrap=True)
        table.add_column("p", justify="right", no_wrap=True, min_width=5)
    for at, entry in enumerate(rows):
        name = entry.label if entry.honest else f"{entry.label} (chosen on the test set)"
        cells = [name, *(str(getattr(entry.run, name)) for name in own), str(len(entry.runs))]
        for index, name in enumerate(names):
            cells.append(cell_of(entry, name) if wide or columns or index == 0 else _mean(entry, name))
            cells += [interval(entry, name)] if index == 0 and wide and not columns else []
            cells += [f"{letters[at]} {'◆' if marks[at] else ''}".strip()] if index == 0 else []
        gap = gaps[at] if gaps else None
        cells += [_gap(gap), _p(gap.p) if gap else ""] if gaps else []
        table.add_row(*cells)
    console.print(table)
    agreed = [f"{name} {min(values)}" for name, values in shared.items() if len(values) == 1]
    if agreed:
        console.print(f"all: {', '.join(agreed)}")


def _gap(one: Comparison | None) -> str:
    if one is None:
        return ""
    found = one.interval
    return f"{found.difference:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}"


def show_comparison(console: Console, a: Entry, b: Entry, found: Sequence[Comparison]) -> None:
    """Print two settings beside each other, metric by metric, with the tests; then their costs."""
    for side, entry in (("a", a), ("b", b)):
        seeds = f"n = {len(entry.runs)}" if len(entry.runs) > 1 else f"seed {entry.run.seed}"
        console.print(Text(f"{side}: {entry.name}, {seeds}", style="bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for header in ("", "a", "b", "a - b [95 %]", "p", "finds"):
        table.add_column(header, justify="right" if header else "left")
    for one in found:
        values = [cell_of(entry, one.metric) for entry in (a, b)]
        cells = [NAMES[one.metric], *values, _gap(one), _p(one.p), f"{one.test.detectable:.2f}"]
        table.add_row(*cells)
    for name in (
        "params_m",
        "gmacs",
        "gflops",
        "train_images_per_s",
        "test_images_per_s",
        "peak_memory_gb",
        "train_hours",
    ):
        values = [cell_of(entry, name) for entry in (a, b)]
        if any(values):
            table.add_row(NAMES[name], *values)
    console.print(table)
    for one in found:
        console.print(Text("\n".join(_verdict(one, a, b))))
    console.print(
        "p: after Holm over these metrics. finds: the gap that such a comparison finds in 4 of 5 repetitions."
    )


def _mean(entry: Entry, name: str) -> str:
    value = entry.mean(name)
    return "" if value is None else f"{value:.2f}"


def _verdict(one: Comparison, a: Entry, b: Entry) -> list[str]:
    side, better = ("a", a) if (one.interval.difference > 0) == (one.better == "higher") else ("b", b)
    what = f"{side if a.label == b.label else better.label} is better" if one.significant else "cannot be told apart"
    lines = [f"{one.metric}: {what} ({one.test.name}, unit: {one.test.unit}, {one.test.n:,} images)"]
    if one.left_out:
        lines.append(f"  {one.left_out} images that do not apply to every run are left out")
    if one.by_seed:
        tests = ", ".join(f"seed {seed} p {_p(test.p)}" for seed, test in sorted(one.by_seed.items()))
        lines.append(f"  McNemar's exact test of runs with the same seed, not corrected: {tests}")
    return lines


def show_differing(console: Console, metric: str, rows: Sequence[tuple[int, float, float]]) -> None:
    """Print the images on which two settings differ most."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for header in ("image_id", f"{metric} % of a", "of b"):
        table.add_column(header, justify="right")
    for image, mine, theirs in rows:
        table.add_row(str(image), f"{mine:.1f}", f"{theirs:.1f}")
    console.print(table)


def show_problems(console: Console, problems: Sequence[Problem], rows: int) -> None:
    """Print what is wrong, a line each; or that nothing is."""
    for problem in problems:
        console.print(Text(f"{problem.rule}: {problem.row}: {problem.message}"), soft_wrap=True)
    counts: dict[str, int] = {}
    for problem in problems:
        counts[problem.rule] = counts.get(problem.rule, 0) + 1
    text = ", ".join(f"{count} {rule}" for rule, count in sorted(counts.items())) or "nothing is wrong"
    console.print(f"{rows} rows: {text}")


def show_merged(console: Console, merged: Merged, dry_run: bool) -> None:
    """Print what became of each file."""
    said: Mapping[str, Mapping[Path, str]] = {"conflict": merged.conflicts, "refused": merged.refused}
    for path in merged.added:
        console.print(Text(f"{'would add' if dry_run else 'added'}: {path}"), soft_wrap=True)
    for word, found in said.items():
        for path, why in found.items():
            console.print(Text(f"{word}: {path}: {why.removeprefix(f'{path}: ')}"), soft_wrap=True)
    console.print(
        f"{len(merged.added)} {'to add' if dry_run else 'added'}, {len(merged.same)} already there, "
        f"{len(merged.conflicts)} conflicts (ours stay), {len(merged.refused)} refused"
    )
