"""The command line. Imports a verb's room only when the verb runs: ``--help`` and ``leaderboard`` need no torch."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fgbench import drawing
from fgbench.options import build_parser
from fgbench.result import ResultError

if TYPE_CHECKING:
    from fgbench.data import BenchDataModule


def main(arguments: Sequence[str] | None = None) -> None:
    """``fgbench <verb> ...``; see ``fgbench --help``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    options, rest = parser.parse_known_args(given)
    if rest and options.verb not in ("bench", "data"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    try:
        sys.exit(VERBS[options.verb](options))
    except KeyboardInterrupt:
        sys.exit("fgbench: interrupted; the same command goes on where it stopped")
    except (OSError, ResultError) as error:
        sys.exit(f"fgbench: {error}")


def names(given: str) -> list[str]:
    """What is listed with commas between."""
    return [name.strip() for name in given.split(",") if name.strip()]


@contextmanager
def complaints() -> Iterator[None]:
    """What is wrong with a run or its data is said in a line, without a traceback; exit status 1."""
    from fgbench.data import DataError

    try:
        yield
    except (DataError, ValueError, RuntimeError) as error:
        print(f"fgbench: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def run_bench(options: argparse.Namespace) -> int:
    """Resolve the grid, run it."""
    from fgbench import cells, config
    from fgbench.bench import bench

    if options.help:
        subparsers = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
        print(subparsers.choices["bench"].format_help())
        print("configuration options, laid over the cell's YAML files:\n")
        print(config.build_parser().format_help())
        return 0
    try:
        chosen = cells.grid(
            options.methods,
            options.datasets,
            options.seeds,
            options.variant,
            options.track,
            options.rest,
            options.losses,
        )
        return bench(chosen, dry_run=options.dry_run, explainers=names(options.explain))
    except cells.ConfigError as error:
        print(f"fgbench: {error}", file=sys.stderr)
        return 2


def run_phase(options: argparse.Namespace) -> int:
    """``prepare``, ``fit`` or ``test`` in this process (and, under DDP, in its peers)."""
    from fgbench.run import run_phase

    return run_phase(options.verb, options.folder, *([options.explainer] if options.verb == "test" else []))


def run_explain(options: argparse.Namespace) -> int:
    """Explain pictures."""
    from fgbench.pictures import explain

    with complaints():
        for path in explain(options.run, options.image, options.examples, options.explainer, options.output):
            print(path)
    return 0


def run_gallery(options: argparse.Namespace) -> int:
    """Write the page of a dataset."""
    from fgbench.gallery import find_runs, write_gallery

    with complaints():
        folders = options.only or find_runs(options.runs / options.dataset)
        path = options.output or folders[0].parent / "gallery.html"
        say = partial(print, file=sys.stderr)
        write_gallery(path, folders, options.examples, names(options.explain), say=say)
    print(path)
    return 0


def run_figure(options: argparse.Namespace) -> int:
    """Draw one figure of several runs."""
    with complaints():
        drawing.draw(options)
    print(options.output)
    return 0


def run_probe(options: argparse.Namespace) -> int:
    """Probe a run."""
    from lightning.pytorch.utilities import rank_zero_only

    from fgbench.measures import MEASURES
    from fgbench.probing import notes, probe
    from fgbench.report.measures import show_probes

    with complaints():
        found = probe(options.folder, names(options.explain), options.steps, options.compile, options.at_once)
        better = {name: measure.better for name, measure in MEASURES.items()}
        rank_zero_only(show_probes)(options.folder.name, found, better)  # all processes of a run come here
        for line in notes(found):
            rank_zero_only(print)(line)
    return 0


def run_tables(options: argparse.Namespace) -> int:
    """Print the comparison."""
    from fgbench.report.region_grouping_tables import show

    show(options.folder, options.dataset)
    return 0


def run_weights(options: argparse.Namespace) -> int:
    """Save a backbone, or a whole method."""
    from fgbench.run import export_weights

    with complaints():
        export_weights(options.folder, options.file, options.whole)
    print(options.file)
    return 0


def run_ensemble(options: argparse.Namespace) -> int:
    """Print accuracies of runs and of their ensemble."""
    from fgbench import ensemble

    found = ensemble.ensemble(options.folders)
    print(ensemble.table(found))
    if options.output:
        ensemble.write_ensemble(found, options.output)
    return 0


def run_data(options: argparse.Namespace) -> int:
    """``prepare``, ``check`` or ``show`` a dataset as its protocol configures it."""
    from fgbench import cells, config
    from fgbench.data import DataError

    try:
        plan = config.resolve(cells.Cell("baseline", options.dataset, overrides=tuple(options.rest)))
    except cells.ConfigError as error:
        print(f"fgbench: {error}", file=sys.stderr)
        return 2
    data = config.make_data(plan.tree)
    try:
        if options.action == "prepare":
            return prepare_data(data, options)
        data.prepare_data()
        if options.action == "check":
            return check_data(data, options.threads)
        from fgbench.data.contact_sheet import contact_sheet

        path = options.output or Path(plan.machine.runs) / options.dataset / f"{options.split}-{options.view}.png"
        contact_sheet(data, path, options.split, options.view)
        print(path)
        return 0
    except (DataError, OSError, ValueError) as error:
        named = str(error).startswith(f"{data.name}: ")
        print(f"fgbench: {error}" if named else f"fgbench: {data.name}: {error}", file=sys.stderr)
        return 1


def prepare_data(data: "BenchDataModule", options: argparse.Namespace) -> int:
    """Unpack, copy, index."""
    from fgbench.data.prepare import prepare
    from fgbench.report.data import progress

    with progress() as steps:
        listing = prepare(
            data, options.archives, copies=not options.no_copies, threads=options.threads, steps=steps,
            say=lambda line: print(line, flush=True),
        )  # fmt: skip
    counts = ", ".join(f"{len(listing.rows(split)):,} {split}" for split in ("train", "test"))
    print(f"{options.dataset}: ready, {counts} images. Next: fgbench data check {options.dataset}")
    return 0


def check_data(data: "BenchDataModule", threads: int) -> int:
    """Look at everything, print what was found."""
    from fgbench.data.check import check
    from fgbench.report.data import progress, show

    with progress() as steps:
        report = check(data, threads, steps)
    show(str(data.name), report)
    return 0 if report.is_good else 1


def run_leaderboard(options: argparse.Namespace) -> int:
    """Rebuild the tables, or look at them."""
    from fgbench import board

    return board.run(options)


def run_report(options: argparse.Namespace) -> int:
    """Write the page, or the W&B reports."""
    from fgbench import reporting

    return reporting.report(options)


def run_wandb(options: argparse.Namespace) -> int:
    """Upload offline runs."""
    from fgbench.report import wandb_sync

    return wandb_sync.sync(wandb_sync.waiting(options.runs, options.folders), options.dry_run)


VERBS = {
    "bench": run_bench,
    "data": run_data,
    "explain": run_explain,
    "figure": run_figure,
    "fit": run_phase,
    "ensemble": run_ensemble,
    "gallery": run_gallery,
    "leaderboard": run_leaderboard,
    "prepare": run_phase,
    "probe": run_probe,
    "tables": run_tables,
    "report": run_report,
    "test": run_phase,
    "wandb": run_wandb,
    "weights": run_weights,
}
