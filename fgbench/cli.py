"""The command line. Imports a verb's room only when the verb runs: ``--help`` and ``leaderboard`` need no torch."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fgbench.result import ResultError


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


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = argparse.ArgumentParser(
        prog="fgbench", description="A benchmark of interpretable fine-grained recognition."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    bench = verbs.add_parser(
        "bench", help="train and evaluate cells, add their rows to the leaderboard", add_help=False, allow_abbrev=False
    )
    bench.add_argument("-h", "--help", action="store_true", help="this text, and every configuration option")
    bench.add_argument("--methods", default="region_grouping", metavar="A,B|all", help="default: %(default)s")
    bench.add_argument("--datasets", default="toybirds", metavar="A,B|all", help="default: %(default)s")
    bench.add_argument("--seeds", default="0", metavar="0,1,2", help="default: %(default)s")
    bench.add_argument(
        "--variant", default="", help="an ablation: a file experiments/ablations/<dataset>/<method>.*.yaml"
    )
    bench.add_argument("--track", default="paper", help="a file of experiments/tracks; default: the papers' recipes")
    bench.add_argument("--dry-run", action="store_true", help="print the resolved configurations and stop")

    for phase, text in (("fit", "train the run in a folder"), ("test", "evaluate the run in a folder")):
        verb = verbs.add_parser(phase, help=f"{text} that bench made (bench calls this)")
        verb.add_argument("folder", type=Path, help="runs/<dataset>/<name>")

    weights = verbs.add_parser("weights", help="save a trained backbone, for --method.init_args.weights of other runs")
    weights.add_argument("folder", type=Path, help="runs/<dataset>/<name>, trained to its end")
    weights.add_argument("file", type=Path, help="the .safetensors file to write")

    data = verbs.add_parser("data", help="look at a dataset as a method sees it")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="a contact sheet: images with boxes and landmarks after augmentation")
    show.add_argument("dataset", help="a name in experiments/datasets")
    show.add_argument("--view", choices=("train", "test", "locate"), default="train", help="default: %(default)s")
    show.add_argument("--split", choices=("train", "test"), default="train", help="default: %(default)s")
    show.add_argument("--output", type=Path, help="the PNG; default: runs/<dataset>/<split>-<view>.png")

    board = verbs.add_parser("leaderboard", help="rebuild leaderboard.csv and leaderboard/README.md from the results")
    board.add_argument("--folder", type=Path, default=Path("leaderboard"), help="default: %(default)s")
    return parser


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
            options.methods, options.datasets, options.seeds, options.variant, options.track, options.rest
        )
        return bench(chosen, dry_run=options.dry_run)
    except cells.ConfigError as error:
        print(f"fgbench: {error}", file=sys.stderr)
        return 2


def run_phase(options: argparse.Namespace) -> int:
    """``fit`` or ``test`` in this process (and, under DDP, in its peers)."""
    from fgbench.run import run_phase

    return run_phase(options.verb, options.folder)


def run_weights(options: argparse.Namespace) -> int:
    """Save a backbone."""
    from fgbench.pretrained import WeightsError
    from fgbench.run import export_weights

    try:
        export_weights(options.folder, options.file)
    except (RuntimeError, WeightsError) as error:
        print(f"fgbench: {error}", file=sys.stderr)
        return 1
    print(options.file)
    return 0


def run_data(options: argparse.Namespace) -> int:
    """Write a contact sheet."""
    from fgbench import cells, config
    from fgbench.data.contact_sheet import contact_sheet

    try:
        plan = config.resolve(cells.Cell("baseline", options.dataset, overrides=tuple(options.rest)))
    except cells.ConfigError as error:
        print(f"fgbench: {error}", file=sys.stderr)
        return 2
    data = config.make_data(plan.tree)
    data.prepare_data()
    path = options.output or Path(plan.machine.runs) / options.dataset / f"{options.split}-{options.view}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(data, path, options.split, options.view)
    print(path)
    return 0


def run_leaderboard(options: argparse.Namespace) -> int:
    """Rebuild the tables."""
    from fgbench import leaderboard

    rebuilt = leaderboard.rebuild(options.folder)
    print(f"{options.folder}: {len(rebuilt.results)} results")
    for message in rebuilt.damaged.values():
        print(f"fgbench: left out: {message}", file=sys.stderr)
    return 1 if rebuilt.damaged else 0


VERBS = {
    "bench": run_bench,
    "data": run_data,
    "fit": run_phase,
    "leaderboard": run_leaderboard,
    "test": run_phase,
    "weights": run_weights,
}
