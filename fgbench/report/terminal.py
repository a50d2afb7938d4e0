"""One run on the terminal beside its floors, its baseline and the papers: readable at 60 columns, without colour."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from fgbench import leaderboard
from fgbench.result import Result

METRICS = {  # column: its name on the terminal, digits, its floor's column, its names in the papers' table
    "accuracy": ("accuracy %", 2, "", ("accuracy", "attribute_accuracy")),
    "class_accuracy": ("class accuracy %", 2, "", ("class_accuracy",)),
    "landmark_error": ("landmark error %", 2, "landmark_floor", ("landmark_error",)),
    "pointing_error": ("pointing error %", 2, "pointing_floor", ("pointing_error",)),
    "params_m": ("parameters, M", 2, "", ()),
    "gmacs": ("GMACs per image", 2, "", ()),
    "train_images_per_s": ("train images/s", 0, "", ()),
    "test_images_per_s": ("test images/s", 0, "", ()),
}


PRINTED = {"cam": "cam", "gradcam": "cam", "guided_gradcam": "guided_grad_cam"}
"""Explainers, as the papers' table calls them."""

COMPARED = ("backbone", "weights", "resolution", "epochs", "selection", "n_train", "seed")
"""What a baseline should share with a run beside the data, the most important first; the note says what it does not."""


def show(result: Result, folder: Path, console: Console | None = None) -> None:
    """Print a run's table.

    Args:
        result: the run.
        folder: the leaderboard's folder, for the baseline and the papers' numbers.
        console: where to; the terminal if not given.
    """
    results = leaderboard.read_results(folder).results
    (console or Console()).print(run_table(result, results, leaderboard.published(folder)))


def run_table(result: Result, results: Sequence[Result], papers: pd.DataFrame) -> RenderableType:
    """The table and its notes."""
    baseline = find_baseline(result, results)
    printed = {column: find_published(result, papers, METRICS[column][3]) for column in METRICS}
    headers = [
        "",
        "this run",
        *(["baseline"] if baseline else []),
        "floor",
        *(["paper"] if any(printed.values()) else []),
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    for column, (label, digits, floor, _) in METRICS.items():
        paper = printed[column]
        cells = {
            "": label,
            "this run": _number(getattr(result, column), digits),
            "baseline": _number(getattr(baseline, column, None), digits),
            "floor": _number(getattr(result, floor, None), digits) if floor else "",
            "paper": paper["printed"] if paper else "",
        }
        if any(cells[header] for header in headers[1:]):
            table.add_row(*(cells[header] for header in headers))
    notes = [_setting(result)]
    notes += [f"baseline: {_difference(result, baseline)}"] if baseline else []
    notes += [f"floor of {METRICS[name][0][:-2]}: {_floors(result, name)}" for name in result.floors if name in METRICS]
    notes += [f"no {METRICS[name][0].rstrip(' %')}: {why}" for name, why in result.reasons.items() if name in METRICS]
    notes += list(dict.fromkeys(f"paper: {_source(paper)}" for paper in printed.values() if paper))
    return Group(Text(_title(result), style="bold"), table, *(Text(note) for note in notes))


def find_baseline(result: Result, results: Sequence[Result]) -> Result | None:
    """The plain baseline on the same data and track whose setting is nearest; None for the baseline itself."""
    if result.method == "baseline":
        return None
    same = ("dataset", "classes", "data_digest", "track")
    candidates = [
        other
        for other in results
        if (other.method, other.variant, other.explainer) == ("baseline", "", "own")
        and all(getattr(other, name) == getattr(result, name) for name in same)
    ]
    return max(
        candidates,
        key=lambda other: (*(getattr(other, name) == getattr(result, name) for name in COMPARED), other.date),
        default=None,
    )


def find_published(result: Result, papers: pd.DataFrame, metrics: Sequence[str]) -> dict[str, str] | None:
    """What a paper prints for the same method, variant and dataset: its own paper and the nearest setting first.

    Nothing for a part of the dataset: papers print numbers of the whole.
    """
    if not metrics or papers.empty or not leaderboard.is_whole(result):
        return None
    variant = printed_variant(result)
    rows: list[dict[str, str]] = [
        {str(name): value for name, value in row.items()}
        for row in papers[papers["dataset"] == result.dataset].to_dict("records")
        if (row["method_file"], row["variant"], row["subset"]) == (result.method, variant, "")
    ]
    return nearest_published(result, rows, metrics)


def printed_variant(result: Result) -> str:
    """What the papers' table calls the variant: of an explained row the explainer."""
    return result.variant if result.explainer == "own" else PRINTED.get(result.explainer, result.explainer)


def nearest_published(result: Result, rows: Sequence[dict[str, str]], metrics: Sequence[str]) -> dict[str, str] | None:
    """Of the papers' numbers of a method on a dataset: its own paper's and the nearest setting's."""
    return max(
        (row for row in rows if row["metric"] in metrics),
        key=lambda row: (
            row["backbone"] == result.backbone,
            row["resolution"] == str(result.resolution),
            "quoted" not in row["note"],
        ),
        default=None,
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _title(result: Result) -> str:
    explained = "" if result.explainer == "own" else f", evidence: {result.explainer}"
    return f"{result.method_name} on {result.dataset}, seed {result.seed}{explained}"


def _setting(result: Result) -> str:
    selection, last = result.selection, result.last_epoch_accuracy
    if selection == "legacy_best_on_test":
        beside = "" if last is None else f" (the last epoch's accuracy: {last:.2f})"
        selection = f"best epoch ON THE TEST SET{beside}"
    return (
        f"{result.backbone} ({result.weights}), {result.resolution} px, {result.epochs} epochs, "
        f"checkpoint: {selection}, {result.n_eval} test images"
    )


def _difference(result: Result, baseline: Result) -> str:
    other = [name for name in COMPARED if getattr(baseline, name) != getattr(result, name)]
    if not other:
        return f"the same {', '.join(COMPARED)}"
    return f"differs in {', '.join(f'{name} {getattr(baseline, name)}' for name in other)}"


def _floors(result: Result, metric: str) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in result.floors[metric].items())


def _source(paper: dict[str, str]) -> str:
    setting = ", ".join(
        filter(None, [paper["backbone"], paper["resolution"] and f"{paper['resolution']} px", paper["note"]])
    )
    return f"{paper['paper']}, table {paper['table']} ({setting})".replace("table text", "section")
