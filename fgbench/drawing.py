"""The verbs of ``fgbench figure``: what several runs say, on one picture. Imports what a verb needs when it runs.

May import: every room below it. Must not import: cli. Reads: results, run folders, pictures. Writes: one PNG.
"""

import argparse
from pathlib import Path


def add(figure: argparse.ArgumentParser) -> None:
    """``fgbench figure <kind> ... --output FILE``."""
    kinds = figure.add_subparsers(dest="action", required=True, metavar="KIND")
    curves = kinds.add_parser("curves", help="accuracy after each epoch, of runs that validated; seeds together")
    curves.add_argument("results", type=Path, nargs="+", help="result files: leaderboard/results/<dataset>/<name>.json")
    channels = kinds.add_parser("channels", help="channels of a class without and with a loss on them")
    channels.add_argument("before", type=Path, help="run folder of variant only_classifier")
    channels.add_argument("after", type=Path, help="run folder of the method itself")
    steps = kinds.add_parser("steps", help="accuracy and weight of each step of focus_longer: Figure 6.1, Table 6.2")
    steps.add_argument("results", type=Path, nargs="+", help="result files")
    attention = kinds.add_parser("attention", help="Grad-CAM of each step without and with self-attention: Figure 7.3")
    attention.add_argument("before", type=Path, help="run folder of focus_longer")
    attention.add_argument("after", type=Path, help="run folder of its variant self_attention")

    folders = "run folders of dpnet, of one dataset: one row each, with other constraints for instance"
    of_class = "a name, or a number counted from 0"
    parts = kinds.add_parser("parts", help="a class's three most important parts, by their best training regions")
    parts.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=folders)
    parts.add_argument("--class", dest="label", required=True, metavar="CLASS", help=of_class)
    heatmaps = kinds.add_parser("heatmaps", help="where images show the parts of a class, and their strongest region")
    heatmaps.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=folders)
    heatmaps.add_argument("--class", dest="label", metavar="CLASS", help=f"{of_class}; default: what each run predicts")
    heatmaps.add_argument(
        "--image", nargs="+", default=[], metavar="N|FILE", help="numbers of the dataset's images (image_id), or "
        "pictures; default: some test images, of the class if there is one"
    )  # fmt: skip
    histograms = kinds.add_parser("histograms", help="regions per part, classes per part, cosines of pairs of parts")
    histograms.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=folders)
    histograms.add_argument(
        "--images", type=int, default=200, metavar="N", help="training images whose regions count; default: %(default)s"
    )
    for kind in (curves, channels, steps, attention, parts, heatmaps, histograms):
        kind.add_argument("--output", type=Path, required=True, help="the PNG file")


def draw(options: argparse.Namespace) -> None:
    """Draw one figure."""
    options.output.parent.mkdir(parents=True, exist_ok=True)
    DRAWN[options.action](options)


def _curves(options: argparse.Namespace) -> None:
    from fgbench.leaderboard import entries
    from fgbench.report.curve_figures import write_curves
    from fgbench.result import read_result

    write_curves(options.output, entries(read_result(path) for path in options.results))


def _steps(options: argparse.Namespace) -> None:
    from fgbench.report.step_figures import write_step_curves
    from fgbench.result import read_result

    write_step_curves(options.output, {path.stem: read_result(path) for path in options.results})


def _two_runs(options: argparse.Namespace) -> None:
    import torch

    from fgbench.run_pairs import compare_channels, compare_steps

    compare = {"channels": compare_channels, "attention": compare_steps}[options.action]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compare(options.before, options.after, options.output, device)


def _parts(options: argparse.Namespace) -> None:
    from fgbench.part_pictures import class_parts

    class_parts(options.runs, options.label, options.output)


def _heatmaps(options: argparse.Namespace) -> None:
    from fgbench.part_pictures import heatmaps

    heatmaps(options.runs, options.image, options.label, options.output)


def _histograms(options: argparse.Namespace) -> None:
    from fgbench.part_pictures import histograms

    histograms(options.runs, options.images, options.output)


DRAWN = {
    "curves": _curves,
    "channels": _two_runs,
    "steps": _steps,
    "attention": _two_runs,
    "parts": _parts,
    "heatmaps": _heatmaps,
    "histograms": _histograms,
}
