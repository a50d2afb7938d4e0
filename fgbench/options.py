"""Every verb of ``fgbench`` and its options; what the verbs do with them is ``cli``.

May import: drawing, where the options of ``figure`` stand beside what it draws. Must not import: torch.
"""

import argparse
from pathlib import Path

from fgbench import drawing

TESTED = ("accuracy", "landmark_error", "pointing_error")  # metrics that predictions know image by image
ROWS = (
    "A row must be complete and made by committed code; its digest that of its configuration, which must resolve to "
    "the same today; its numbers those of its predictions, each image once; its seeds different runs; its table of one "
    "test split; and leaderboard.csv and README.md what the results make."
)


def _count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


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
    every = "all: every one that is defined with the others; default: %(default)s"
    bench.add_argument("--methods", default="region_grouping", metavar="A,B|all", help=every)
    bench.add_argument("--datasets", default="toybirds", metavar="A,B|all", help=every)
    bench.add_argument("--seeds", default="0", metavar="0,1,2", help="default: %(default)s")
    bench.add_argument("--losses", default="cross_entropy", metavar="A,B|all", help=f"of a linear classifier; {every}")
    bench.add_argument(
        "--variant", default="", help="an ablation: a file experiments/ablations/[<dataset>/]<method>.*.yaml; a+b: both"
    )
    bench.add_argument(
        "--track", default="paper", help="a file of experiments/tracks, a+b: both; default: the papers' recipes"
    )
    bench.add_argument(
        "--explain",
        default="",
        metavar="A,B",
        help="further rows: the checkpoint with the evidence of these explainers",
    )
    bench.add_argument("--dry-run", action="store_true", help="print the resolved configurations and stop")

    phases = {
        "prepare": "compute what the run in a folder wants of a frozen network",
        "fit": "train the run in a folder",
        "test": "evaluate the run in a folder",
    }
    for phase, text in phases.items():
        verb = verbs.add_parser(phase, help=f"{text} that bench made (bench calls this)")
        verb.add_argument("folder", type=Path, help="runs/<dataset>/<name>")
        if phase == "test":
            verb.add_argument("--explainer", default="own", help="whose evidence to test; default: the method's own")

    weights = verbs.add_parser("weights", help="save a trained backbone, for --method.init_args.weights of other runs")
    weights.add_argument("folder", type=Path, help="runs/<dataset>/<name>, trained to its end")
    weights.add_argument("file", type=Path, help="the .safetensors file to write")
    weights.add_argument(
        "--whole", action="store_true", help="the whole method: a ProtoPNet that others take patches from"
    )

    add_explain(verbs)
    add_data(verbs.add_parser("data", help="unpack and index a dataset, check it, look at it as a method sees it"))

    ensemble = verbs.add_parser("ensemble", help="what finished runs say together: the mean of their probabilities")
    ensemble.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="runs/<dataset>/<name>, two or more")
    ensemble.add_argument("--output", type=Path, help="a JSON file to write it to, too")
    drawing.add(verbs.add_parser("figure", help="draw what several runs say together"))

    results = "the results: rebuild their tables, show, compare, verify, merge or export them"
    add_board(verbs.add_parser("leaderboard", help=results, description=f"{results[0].upper()}{results[1:]}."))
    add_report(verbs)
    return parser


def add_explain(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """``fgbench explain`` and ``fgbench gallery``: pictures of what runs look at; ``fgbench tables``."""
    explain = verbs.add_parser("explain", help="what a run says of pictures, yours or the test split's, and why")
    explain.add_argument("--run", type=Path, required=True, help="runs/<dataset>/<name>, trained to its end")
    own = (
        "your pictures, JPEG or PNG, one side at most 4 times the other (views that squash take any); made no larger "
        "than the dataset's where its view does not resize"
    )
    explain.add_argument("--image", type=Path, nargs="+", default=[], metavar="FILE", help=own)
    every = "without --image: test images, spread evenly over the split; default: %(default)s"
    explain.add_argument("--examples", type=_count, default=12, metavar="N", help=every)
    explain.add_argument("--explainer", default="own", help="whose evidence is shown; default: the method's own")
    explain.add_argument("--output", type=Path, help="folder; default: pictures/<explainer> in the run's")

    gallery = verbs.add_parser(
        "gallery", help="one HTML page: images in rows, the finished runs of a dataset in columns"
    )
    gallery.add_argument("--dataset", default="toybirds", help="default: %(default)s")
    gallery.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders; default: %(default)s")
    gallery.add_argument("--only", type=Path, nargs="+", default=[], metavar="RUN", help="these run folders, in order")
    gallery.add_argument("--explain", default="", metavar="A,B", help="further columns: explainers of each run")
    gallery.add_argument("--examples", type=_count, default=12, metavar="N", help="rows; default: %(default)s")
    gallery.add_argument("--output", type=Path, help="default: gallery.html beside the runs")

    probe = verbs.add_parser(
        "probe", help="stability, insertion and deletion, sanity check of a run: further forward passes, 1,000 images"
    )
    probe.add_argument("folder", type=Path, help="runs/<dataset>/<name>, trained to its end")
    probe.add_argument("--explain", default="own,centre,random_map", metavar="A,B", help="default: %(default)s")
    probe.add_argument("--steps", type=int, default=224, help="of insertion and deletion; default: %(default)s")
    probe.add_argument("--at-once", type=_count, metavar="N", help="most perturbed images in a forward pass; fewer "
                       "need less memory; default: by the device and the size of images")  # fmt: skip
    probe.add_argument("--compile", action="store_true", help="compile the network for them: half a minute more, then "
                       "two to three times the images per second on a CPU in bf16; needs a C++ compiler")  # fmt: skip

    tables = verbs.add_parser("tables", help="a paper's comparison of explanations, its numbers beside measured ones")
    tables.add_argument("paper", choices=("region_grouping",), help="Tables 2, 4 and 6 of Huang & Li, CVPR 2020")
    tables.add_argument("--folder", type=Path, default=Path("leaderboard"), help="default: %(default)s")
    tables.add_argument("--dataset", help="print one table of all of it, measured on this dataset, instead")


def add_report(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """``fgbench report`` and ``fgbench wandb sync``."""
    report = verbs.add_parser("report", help="the leaderboard as one HTML page, or as W&B reports")
    report.add_argument("--folder", type=Path, default=Path("leaderboard"), help="default: %(default)s")
    report.add_argument("--output", type=Path, help="default: report.html in the leaderboard's folder")
    report.add_argument("--runs", type=Path, default=Path("runs"), help="for pictures; default: %(default)s")
    report.add_argument(
        "--pictures-mb", type=float, default=6.0, metavar="MB", help="that they may take; default: %(default)s"
    )
    report.add_argument("--wandb", action="store_true", help="save W&B reports instead: one per dataset, one of all")
    report.add_argument("--entity", default="", help="of the W&B project; default: WANDB_ENTITY, or who is logged in")
    report.add_argument("--project", default="", help="default: WANDB_PROJECT, or fgbench")
    report.add_argument("--dry-run", action="store_true", help="build and check the W&B reports; needs no account")

    account = verbs.add_parser("wandb", help="upload what runs logged offline")
    actions = account.add_subparsers(dest="action", required=True, metavar="ACTION")
    sync = actions.add_parser("sync", help="give W&B what it does not have yet; the phases of a run become one run")
    sync.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help="runs/<dataset>/<name>; default: all")
    sync.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
    sync.add_argument("--dry-run", action="store_true", help="say what would be uploaded; needs no account")


def add_data(data: argparse.ArgumentParser) -> None:
    """``fgbench data <action> <dataset>``; all of them also take the configuration's options."""
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    more = "Further options are those of the configuration, e.g. --machine.data_root FOLDER."

    prepare = actions.add_parser(
        "prepare",
        help="unpack the official archives, make smaller copies where the protocol allows, write the index",
        description="Nothing is downloaded: put the official archives into data/archives first. A killed preparation "
        "goes on where it stopped; a damaged tree is unpacked again. Keep the originals until it has run to its end.",
        epilog=more,
    )
    prepare.add_argument("--archives", type=Path, metavar="FOLDER", help="default: archives in the data's folder")
    prepare.add_argument("--no-copies", action="store_true", help="train on the originals (inat2017: 186 GB)")

    check = actions.add_parser(
        "check",
        help="look at every image and annotation; exit status 1 if something is wrong",
        description="Counts, missing, unreadable and truncated images, boxes and landmarks outside of their image, "
        "equal files in two splits, labels. The digest is the one in every result of this dataset.",
        epilog=more,
    )
    for verb in (prepare, check):
        verb.add_argument("dataset", help="a name in experiments/datasets")
        verb.add_argument("--threads", type=int, default=4, help="that read and decode at once; default: %(default)s")

    show = actions.add_parser(
        "show", help="a contact sheet: images with boxes and landmarks after augmentation", epilog=more
    )
    show.add_argument("dataset", help="a name in experiments/datasets")
    show.add_argument("--view", choices=("train", "test", "locate"), default="train", help="default: %(default)s")
    show.add_argument("--split", choices=("train", "val", "test", "fit"), default="train", help="default: %(default)s")
    show.add_argument("--output", type=Path, help="the PNG; default: runs/<dataset>/<split>-<view>.png")


def add_board(board: argparse.ArgumentParser) -> None:
    """``fgbench leaderboard [action]``."""
    board.add_argument("--folder", type=Path, default=Path("leaderboard"), help="default: %(default)s")
    actions = board.add_subparsers(dest="action", metavar="ACTION")

    def add(name: str, text: str, more: str = "") -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {more}".strip())
        action.add_argument("--folder", type=Path, default=argparse.SUPPRESS, help="default: leaderboard")
        return action

    add(
        "rebuild",
        "make leaderboard.csv, README.md and the board in the project's README from the results (the default)",
    )
    show = add("show", "print the settings, their seeds together, with groups that cannot be told apart")
    add_choice(show)
    show.add_argument("--against", metavar="NAME", help="add gaps to this setting of each table, e.g. baseline")
    show.add_argument(
        "--metric",
        default="accuracy",
        choices=TESTED,
        help="of groups and gaps; default: %(default)s",
    )
    scores = add(
        "scores", "print numbers that are no columns, accuracy_global of focus_longer for instance, over seeds"
    )
    scores.add_argument("names", nargs="+", metavar="NAME", help="of scores in the result files, or of columns")
    scores.add_argument("--minus", metavar="NAME", help="also print each less this one of the same run")
    scores.add_argument("--filter", nargs="+", default=[], metavar="CONDITION", help="dataset=toybirds method=a,b ...")
    compare = add("compare", "test two settings on the same images, and show those on which they differ most")
    compare.add_argument(
        "a",
        help="'[dataset/]method[.variant][ + explainer]', or [dataset/]method[.variant].digest8[.s<seed>][.explainer]",
    )
    compare.add_argument("b", help="another one")
    compare.add_argument("--filter", nargs="+", default=[], metavar="CONDITION", help="where a name is not enough")
    compare.add_argument("--by", default="accuracy", choices=TESTED, help="metric of the images")
    compare.add_argument("--images", type=int, default=8, metavar="N", help="to show; default: %(default)s")
    compare.add_argument("--pictures", type=Path, metavar="PNG", help="also draw them (the dataset must be there)")
    compare.add_argument("--data-root", default="data", metavar="FOLDER", help="of the pictures; default: %(default)s")
    verify = add("verify", "check every row; exit status 1 if anything is wrong", ROWS)
    verify.add_argument("--allow-stale", action="store_true", help="name rows of older configurations, but pass")
    merge = add(
        "merge", "add other people's results; nothing is overwritten", "Exit status 1 on conflicts or refusals."
    )
    merge.add_argument("others", type=Path, nargs="+", metavar="FOLDER", help="a leaderboard, or its results folder")
    merge.add_argument("--dry-run", action="store_true", help="say what would happen")
    export = add("export", "write the settings as CSV, LaTeX or Markdown")
    add_choice(export)
    export.add_argument(
        "--format", default="markdown", choices=["csv", "latex", "markdown"], help="default: %(default)s"
    )
    export.add_argument("--output", type=Path, help="default: the terminal")


def add_choice(action: argparse.ArgumentParser) -> None:
    """Which settings, in which order, with which columns."""
    action.add_argument(
        "--filter", nargs="+", default=[], metavar="CONDITION", help="dataset=toybirds method=a,b accuracy>=90 ..."
    )
    action.add_argument("--sort", metavar="COLUMN", help="best first; --sort=-COLUMN: the other way")
    action.add_argument("--columns", metavar="A,B", help="of leaderboard.csv")
