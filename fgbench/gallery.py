"""``fgbench gallery``: one HTML page for a dataset; the same test images in rows, finished runs in columns.

The page holds its pictures and its style, and needs nothing else: it can be mailed. Nothing is computed twice: each run
is loaded once, shows all images, and is forgotten.

May import: every room below it, pictures. Must not import: cli. Reads: run folders. Writes: the page.
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fgbench import run
from fgbench.explain import ExplainerError, parse
from fgbench.pictures import Trained, explained_by, load, shown_by, split_items
from fgbench.report.figures import Example, part_overlay, saliency_overlay, short
from fgbench.result import from_json, write_atomically
from fgbench.types import Batch

TEMPLATE = Path(__file__).parent / "report" / "gallery.html.j2"
SIDE = 168  # pixels of the longer side of a picture on the page
QUALITY = 85  # of its JPEG


@dataclass(frozen=True)
class Cell:
    """One run on one image: pictures as ``data:`` addresses, and what it said."""

    said: str
    right: bool
    pictures: tuple[tuple[str, str], ...]  # what is shown, address


@dataclass(frozen=True)
class Column:
    """One run, or one of its explainers."""

    dataset: str
    title: str
    lines: tuple[str, ...]
    examples: Sequence[Example]
    cells: Sequence[Cell]
    key: tuple[str, tuple[int, ...]]  # data digest and images: columns of one page agree in it
    cropped: bool = False  # for the test's accuracy, unlike what is seen here


def find_runs(folder: Path) -> list[Path]:
    """Of each method, variant and track the run that finished last, in the order of their names.

    Raises:
        ValueError: none is there.
    """
    newest: dict[tuple[str, str, str], tuple[str, Path]] = {}
    for path in sorted(folder.glob("*/result.json")):
        if not any(path.parent.glob("checkpoints/*.ckpt")):
            continue
        result = from_json(path.read_text(encoding="utf-8"), str(path))
        key, found = (result.method, result.variant, result.track), (result.date, path.parent)
        newest[key] = max(newest.get(key, found), found)
    if not newest:
        raise ValueError(
            f"{folder}: no finished run with a checkpoint; make one with: make bench METHOD=... DATASET=..."
        )
    return [newest[key][1] for key in sorted(newest)]


def write_gallery(
    path: Path, folders: Sequence[Path], examples: int, explainers: Sequence[str], say: Callable[[str], None]
) -> None:
    """Show the images to every run, and write the page.

    Args:
        path: the HTML file.
        folders: of runs, one column each and one for each explainer.
        examples: images of the test split.
        explainers: by name; one that a run cannot have is left out for it.
        say: takes a line for each column that is left out, with the reason.

    Raises:
        ValueError: no column is left.
    """
    for name in explainers:
        parse(name)
    run.hush()
    columns: list[Column] = []
    for folder in folders:
        try:
            trained, tree = load(folder), run.read_run(folder)["tree"]
            items = split_items(trained, examples)
        except (ValueError, RuntimeError) as error:
            say(f"left out: {folder.name}: {error}")
            continue
        for name in (run.OWN, *explainers):
            try:
                columns.append(make_column(explained_by(trained, name, tree), name, items))
            except (ExplainerError, ValueError, RuntimeError) as error:
                say(f"left out: {folder.name} {name}: {error}")
    if not columns:
        raise ValueError(f"{path}: no run could be shown")
    # tracks may have images of their own: the page is of those that most columns share
    (most, _), *_ = Counter(column.key for column in columns).most_common(1)
    for column in columns:
        if column.key != most:
            say(f"left out: {column.lines[0]} ({column.title}): it was run on other images than most")
    write_atomically(path, page([column for column in columns if column.key == most]).encode())


def make_column(trained: Trained, explainer: str, items: Sequence[tuple[Batch, str]]) -> Column:
    """What a run, or an explainer of it, shows of the images."""
    found = shown_by(trained, items)
    record = trained.folder / ("" if explainer == run.OWN else f"explained/{explainer}") / "result.json"
    lines = []
    if record.exists():
        result = json.loads(record.read_text(encoding="utf-8"))
        for name, label in (
            ("accuracy", "accuracy"),
            ("landmark_error", "landmark error"),
            ("pointing_error", "pointing error"),
        ):
            lines += [f"{label} {result[name]:.1f} %"] if result[name] is not None else []
    method = trained.name.rsplit(".", 2)[0]  # without digest and seed
    title = method if explainer == run.OWN else f"{method} + {explainer}"
    key = (trained.data.digest(), tuple(example.image_id for example in found))
    cells = [_cell(example) for example in found]
    cropped = trained.data.seen_view != trained.data.test_view
    return Column(str(trained.data.name), title, (trained.name, *lines), found, cells, key, cropped)


def _cell(example: Example) -> Cell:
    pictures = []
    if example.saliency is not None:
        pictures.append(("saliency", address(saliency_overlay(example.image, example.saliency), example.aspect)))
    if example.parts is not None:
        pictures.append(("parts", address(part_overlay(example.image, example.parts), example.aspect)))
    return Cell(short(example.predicted, 40), example.predicted == example.target, tuple(pictures))


def address(picture: UInt8[np.ndarray, "h w 3"], aspect: float = 1.0) -> str:
    """The picture inside of a ``data:`` address, in the proportions of the original, ``SIDE`` pixels long."""
    height, width = picture.shape[0] * aspect, float(picture.shape[1])
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    jpeg = io.BytesIO()
    Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS).save(jpeg, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()


def page(columns: Sequence[Column]) -> str:
    """The HTML; equal columns make an equal page."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)  # fmt: skip
    rows = [
        {
            "id": example.image_id,
            "label": short(example.target, 40),
            "picture": address(example.image, example.aspect),
            "cells": [column.cells[index] for column in columns],
        }
        for index, example in enumerate(columns[0].examples)
    ]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        columns=columns, rows=rows, dataset=columns[0].dataset, views=any(column.cropped for column in columns)
    )
