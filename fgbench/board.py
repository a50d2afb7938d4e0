"""The verbs of ``fgbench leaderboard``: what they need beyond the results is fetched here, when it is needed.

``verify`` and the pictures of ``compare`` ask the configuration (and so need torch); the others do not.

May import: cells, config, leaderboard, report, result. Must not import: bench, run, cli. Reads: the leaderboard, images
for pictures. Writes: what each verb says.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fgbench import leaderboard
from fgbench.cells import Cell, ConfigError
from fgbench.leaderboard import audit, comparison, merging, settings, tables
from fgbench.leaderboard.settings import Entry
from fgbench.predictions import read_predictions
from fgbench.report import board as report
from fgbench.report import scores
from fgbench.result import Result, ResultError, write_atomically

EXPORTED = (
    "dataset", "track", "classes", "method", "variant", "backbone", "resolution", "accuracy", "landmark_error",
    "pointing_error", "params_m", "gmacs", "gflops", "train_hours",
)  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """One action; its exit status."""
    verbs = {
        "show": _show, "scores": _scores, "compare": _compare, "verify": _verify, "merge": _merge, "export": _export,
    }  # fmt: skip
    return verbs.get(options.action, _rebuild)(options)


def _rebuild(options: argparse.Namespace) -> int:
    return _warn(options.folder, leaderboard.rebuild(options.folder))


def _warn(folder: Path, rebuilt: leaderboard.Rebuilt) -> int:
    print(f"{folder}: {len(rebuilt.results)} results")
    for message in rebuilt.damaged.values():
        print(f"fgbench: left out: {message}", file=sys.stderr)
    return 1 if rebuilt.damaged else 0


def _chosen(options: argparse.Namespace) -> list[Entry]:
    read = leaderboard.read_results(options.folder)
    for message in read.damaged.values():
        print(f"fgbench: left out: {message}", file=sys.stderr)
    if not read.results:
        raise ResultError(
            f"{options.folder}: no result in {options.folder / leaderboard.RESULTS}; is it a leaderboard?"
        )
    chosen = settings.keep(leaderboard.entries(read.results), options.filter)
    return settings.ordered(chosen, options.sort) if getattr(options, "sort", None) else chosen


def _columns(options: argparse.Namespace, default: Sequence[str]) -> Sequence[str]:
    if not options.columns:
        return default
    return [settings.check_column(name.strip()) for name in options.columns.split(",")]


def _show(options: argparse.Namespace) -> int:
    console, chosen, columns = Console(), _chosen(options), _columns(options, ())
    baselines = _baselines(chosen, options.against) if options.against else []
    report.show(console, options.folder, chosen, columns, baselines, options.metric)
    return 0


def _scores(options: argparse.Namespace) -> int:
    scores.show(Console(), _chosen(options), options.names, options.minus)
    return 0


def _baselines(chosen: Sequence[Entry], name: str) -> list[Entry]:
    """The setting of a name in each table; a table may lack it, not all of them."""
    found, problems = [], []
    for rows in settings.by_table(chosen).values():
        try:
            found.append(settings.find(rows, name))
        except ResultError as error:
            problems.append(str(error))
    if problems and not found:
        raise ResultError(problems[0])
    return found


def _compare(options: argparse.Namespace) -> int:
    chosen, console = _chosen(options), Console()
    a = settings.find(chosen, options.a)
    b = settings.find([entry for entry in chosen if entry.run.dataset == a.run.dataset], options.b)
    report.show_comparison(console, a, b, comparison.compare(options.folder, a, b))
    rows = comparison.differing(options.folder, a, b, options.by, options.images)
    report.show_differing(console, options.by, rows)
    if options.pictures:
        draw(options.pictures, options.folder, a, b, options.by, rows, options.data_root)
        print(options.pictures)
    return 0


def _verify(options: argparse.Namespace) -> int:
    problems = audit.verify(options.folder, configuration)
    report.show_problems(Console(), problems, len(leaderboard.read_results(options.folder).results))
    return 1 if any(problem.rule != "stale" or not options.allow_stale for problem in problems) else 0


def _merge(options: argparse.Namespace) -> int:
    merged = merging.merge(options.folder, options.others, dry_run=options.dry_run)
    report.show_merged(Console(), merged, options.dry_run)
    if merged.added and not options.dry_run:
        leaderboard.rebuild(options.folder)
    return 1 if merged.conflicts or merged.refused else 0


def _export(options: argparse.Namespace) -> int:
    text = tables.export(_chosen(options), _columns(options, EXPORTED), options.format)
    if options.output:
        write_atomically(options.output, text.encode())
    else:
        print(text, end="")
    return 0


# The configuration of a row, as of now


def cell_of(result: Result) -> Cell:
    """The cell that a row's command names.

    Raises:
        ResultError: the command is not one of ``make bench``.
    """
    words = shlex.split(result.command)
    given = dict(word.split("=", 1) for word in words[2:] if "=" in word)
    if words[:2] != ["make", "bench"] or not {"METHOD", "DATASET"} <= given.keys():
        raise ResultError(f"the command {result.command!r} is not: make bench METHOD=... DATASET=...")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--variant", default="")
    parser.add_argument("--track", default="paper")
    known, rest = parser.parse_known_args(shlex.split(given.get("ARGS", "")))
    seed = int(given.get("SEED", "0"))
    return Cell(given["METHOD"], given["DATASET"], seed, known.variant, known.track, tuple(rest))


def configuration(result: Result) -> Mapping[str, Any]:
    """What a row's command resolves to now, without the machine.

    Weights given as a file are named by their content, and the file need not be here: they are taken from the row.

    Raises:
        ResultError: the command does not resolve any more; says why.
    """
    cell = cell_of(result)
    kept, given = _without_weights(cell.overrides)
    try:
        now = _resolved(Cell(cell.method, cell.dataset, 0, cell.variant, cell.track, kept))
    except ConfigError as error:
        raise ResultError(str(error)) from None
    arguments = result.resolved.get("method", {}).get("init_args", {})
    method = now["method"]
    own = {name: arguments[name] for name in given if name in arguments}
    return {**now, "seed": cell.seed, "method": {**method, "init_args": {**method["init_args"], **own}}}


@cache
def _resolved(cell: Cell) -> dict[str, Any]:
    from fgbench import config

    return config.portable(config.tree_of(cell, files=False))


def _without_weights(overrides: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The overrides without those of weights, and the names of these arguments."""
    from fgbench import config

    kept: list[str] = []
    given: list[str] = []
    skip = False
    for word in overrides:
        if word.startswith("--"):
            name = word.split("=", 1)[0].rsplit(".", 1)[-1]
            skip = word.startswith("--method.") and name in config.WEIGHTS
            given += [name] if skip else []
        if not skip:
            kept.append(word)
    return tuple(kept), given


# Pictures


def draw(
    path: Path, folder: Path, a: Entry, b: Entry, metric: str, rows: Sequence[tuple[int, float, float]], root: str
) -> None:
    """Draw the images on which two settings differ most.

    Raises:
        ResultError: the dataset is not there, or is not the one that was tested.
    """
    from fgbench import config
    from fgbench.data import DataError
    from fgbench.report.differing import Picture, write_differing

    try:
        cell = Cell("baseline", cell_of(a.run).dataset, overrides=("--machine.data_root", root))
        tree = {**config.resolve(cell).tree, "data": a.run.resolved["data"]}
        data = config.make_data(tree)
        data.prepare_data()
        data.setup("test")
    except (ConfigError, DataError, OSError, ValueError) as error:
        raise ResultError(f"{path}: no pictures: {error}") from None
    if data.digest() != a.run.data_digest:
        raise ResultError(f"{path}: no pictures: {a.run.dataset} here is not the data that the rows were tested on")
    seen, names = data.dataset(data.test_view), data.label_names
    place = {int(image): row for row, image in enumerate(data.listing.image_id)}
    said = [_said(folder, entry) for entry in (a, b)]
    pictures = []
    for image, *values in rows:
        item = seen[place[image]]
        label = names[int(item.target)] if not item.target.ndim else f"image {image}"
        a_says, b_says = [
            f"{value:.0f} % {metric}{_names(one.get(image), names)}" for one, value in zip(said, values, strict=True)
        ]
        boxes = item.boxes[item.box_valid].numpy().astype(np.float32)
        shown = item.image.permute(1, 2, 0).numpy()
        pictures.append(Picture(shown, boxes, f"{image}: {label}", a_says, b_says, aspect=float(item.aspect)))
    write_differing(path, pictures, f"a: {a.name}   b: {b.name}")


def _said(folder: Path, entry: Entry) -> dict[int, set[int]]:
    """By image the classes that the runs predict; nothing of attributes."""
    found: dict[int, set[int]] = {}
    for run in entry.runs:
        columns = read_predictions(comparison.predictions_path(folder, run))
        if columns["predicted"].ndim == 1:
            for image, predicted in zip(columns["image_id"].tolist(), columns["predicted"].tolist(), strict=True):
                found.setdefault(image, set()).add(predicted)
    return found


def _names(classes: set[int] | None, names: Sequence[str]) -> str:
    return f", says {' or '.join(sorted(names[index] for index in classes))}" if classes else ""
