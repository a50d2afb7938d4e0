"""Brings what docs/protocols.md says of datasets, tracks and evidence up to date: ``python tools/protocols.py``."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import fgbench.data  # noqa: E402
from fgbench.cells import EXPERIMENTS, read_yaml  # noqa: E402
from fgbench.data import BenchDataModule, View  # noqa: E402
from fgbench.data.archives import Archive  # noqa: E402
from fgbench.measures import HEADLINE, MEASURES  # noqa: E402
from tools import evidence_matrix  # noqa: E402

PAGE = ROOT / "docs/protocols.md"
BEGIN = "<!-- made by tools/protocols.py from fgbench/data and experiments/datasets: do not edit up to the end mark -->"
TRACKS = "<!-- made by tools/protocols.py from experiments/tracks: do not edit up to the end mark -->"
MATRIX = "<!-- made by tools/protocols.py from fgbench/measures.py and methods: do not edit up to the end mark -->"
END = "<!-- end of what tools/protocols.py made -->"
RESIZE = {"none": "whole image", "short": "short side {}", "squash": "squashed to {0} x {0}"}
FRAME = {"box": "sides of the box", "interocular": "inter-ocular distance"}


def say_view(arguments: dict | None) -> str:
    """A view in words."""
    if arguments is None:
        return "the test view"
    view = View(**arguments)
    words = [RESIZE[view.resize].format(view.size)]
    words += [f"{view.crop} {view.crop_size} crop"] if view.crop != "none" else []
    words += [f"sides cut to multiples of {view.multiple}"] if view.multiple > 1 else []
    words += ["flip"] if view.flip else []
    words += [f"brightness ± {100 * view.brightness:.0f} %"] if view.brightness else []
    return ", ".join(words)


def say_annotations(kind: type[BenchDataModule]) -> str:
    """What is known of an image."""
    words = [f"{kind.card.outputs:,} {'classes' if kind.target == 'class' else 'attributes'}"]
    words += ["boxes"] if kind.has_boxes else []
    words += [f"{kind.card.landmarks} landmarks"] if kind.landmark_frame else []
    return ", ".join(words)


def say_metrics(kind: type[BenchDataModule]) -> str:
    """The columns of the leaderboard that can be filled."""
    words = ["`accuracy`", *(["`class_accuracy`"] if kind.target == "class" else [])]
    words += [f"`landmark_error` ({FRAME[kind.landmark_frame]})"] if kind.landmark_frame else []
    words += ["`pointing_error`"] if kind.has_boxes else []
    return ", ".join(words)


def say_archive(archive: Archive, home: str) -> str:
    """An archive, where it is when that is not the home page, and what it takes."""
    words = [f"{archive.size_gb:g} GB"] if archive.size_gb >= 0.1 else []
    words += [archive.url] if archive.url not in ("", home) else []
    words += ["optional"] if archive.optional else []
    return f"`{archive.name}`" + (f" ({', '.join(words)})" if words else "")


def say_source(kind: type[BenchDataModule]) -> str:
    """Where to get a dataset, what is to be fetched, and what no tool here unpacks."""
    card = kind.card
    if not kind.archives:
        return f"*Where to get it:* nothing to get, it is made at the first use. *On disk:* {card.disk}."
    files = ", ".join(say_archive(archive, card.home) for archive in kind.archives)
    by_hand = f" *To unpack by hand:* {card.by_hand}." if card.by_hand else ""
    return f"*Where to get it:* {card.home}. *To fetch by hand:* {files}.{by_hand} *On disk:* {card.disk}."


def table(heading: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows)]


def render() -> str:
    """The datasets."""
    kinds = {name: getattr(fgbench.data, kind) for name, kind in fgbench.data.DATASETS.items()}
    counts, views, notes = [], [], []
    for name, kind in kinds.items():
        card, config = kind.card, read_yaml(EXPERIMENTS / f"datasets/{name}.yaml")
        arguments = config["data"]["init_args"]
        validation = f"{card.val:,}" if card.val else "official" if kind.has_validation else "cut"
        train = f"{card.train:,}" + (f" (fit: {card.fit:,})" if card.fit else "")
        counts.append([f"`{name}`", train, validation, f"{card.test:,}", say_annotations(kind), say_metrics(kind)])
        seen = [say_view(arguments.get(f"{view}_view")) for view in ("train", "test", "locate")]
        if not (kind.has_boxes or kind.landmark_frame):
            seen[2] = ""
        views.append([f"`{name}`", *seen, str(arguments["batch_size"]), str(config["trainer"]["max_epochs"])])
        notes.append(
            f"**{name}**: {card.title}. {card.paper}. *Split:* {card.split}. *Validation:* {card.validation}. "
            f"*Known leaks:* {card.leaks}. *Licence:* {card.licence}. {say_source(kind)}"
        )
    return "\n".join(
        [
            *table(["dataset", "train", "validation", "test", "annotations", "metrics"], counts),
            "",
            "What every method sees where no recipe says otherwise (`experiments/datasets`):",
            "",
            *table(["dataset", "training view", "test view", "landmarks and pointing", "batch", "epochs"], views),
            "",
            "\n\n".join(notes),
        ]
    )


def first_sentence(text: str) -> str:
    r"""What a YAML file's opening comment says first.

    >>> first_sentence("# Chang et al., 2021: all\n# from scratch. Add a network.\ndata: {}")
    'Chang et al., 2021: all from scratch.'
    """
    comment = "\n".join(line[1:].strip() for line in re.match(r"(?:#.*\n)*", text)[0].splitlines())
    return " ".join(re.split(r"(?<=\.)\s+(?=[A-Z])|\n\n", comment, maxsplit=1)[0].split())


def render_tracks(folder: Path = EXPERIMENTS / "tracks") -> str:
    """The tracks."""
    rows = [[f"`{path.stem}`", first_sentence(path.read_text())] for path in sorted(folder.glob("*.yaml"))]
    return "\n".join(table(["track", "what"], rows))


def render_matrix() -> str:
    """Which metric of evidence each method has on each dataset; numbers for reasons, which follow."""
    columns = [*HEADLINE, *MEASURES]
    reasons: dict[str, int] = {}
    rows = []
    for dataset, method, cells in evidence_matrix.merged(evidence_matrix.matrix(columns)):
        shown = [cells[name] if cells[name] == "✓" else str(reasons.setdefault(cells[name], len(reasons) + 1))
                 for name in columns]  # fmt: skip
        rows.append([dataset, method, *shown])
    heading = ["dataset", "method", *(f"`{name}`" for name in columns)]
    return "\n".join([*table(heading, rows), "", "; ".join(f"{at}: {why}" for why, at in reasons.items()) + "."])


def replaced(page: str) -> str:
    """The page with what is made here brought up to date."""
    for mark, made in ((BEGIN, render()), (TRACKS, render_tracks()), (MATRIX, render_matrix())):
        head, found, rest = page.partition(mark)
        if not found:
            sys.exit(f"{PAGE.name}: the line {mark!r} is gone; put it back where its list belongs")
        page = f"{head}{mark}\n\n{made}\n\n{END}{rest.partition(END)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text()))
