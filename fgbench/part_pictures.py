"""``fgbench figure parts | heatmaps | histograms``: what runs' parts say, a row for each run (DP-Net, Figures 2 and 3).

May import: every room below it, run, pictures. Must not import: cli. Reads: run folders, pictures. Writes: one PNG.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgbench import prepare
from fgbench.methods import DPNet
from fgbench.pictures import Trained, batch_of, load, own_items, read_all
from fgbench.report.part_figures import write_class_parts, write_heatmaps, write_histograms
from fgbench.stores import StoreError
from fgbench.types import Batch

EXAMPLES = 4  # images of a sheet of heatmaps


def runs_of(folders: Sequence[Path]) -> Iterator[tuple[Trained, DPNet]]:
    """Trained runs with parts, one after the other; all of the same data.

    Raises:
        ValueError: a run has no parts, or is of other data than the first.
    """
    first = None
    for folder in folders:
        trained = load(folder)
        method = trained.method
        if not isinstance(method, DPNet) or method.head != "parts":
            raise ValueError(f"{folder}: not a run of DP-Net with parts")
        if first is not None and trained.data.digest() != first.data.digest():
            raise ValueError(f"{first.folder} and {folder} are not of the same data, so their parts cannot be compared")
        if first is not None and trained.data.test_view != first.data.test_view:
            raise ValueError(f"{first.folder} and {folder} see their images in other views; draw one at a time")
        first = first or trained
        yield trained, method


def class_index(label: str, names: Sequence[str]) -> int:
    """A class by its name, or by its number, counted from 0.

    Raises:
        ValueError: there is no such class.
    """
    if label in names:
        return list(names).index(label)
    if label.isdecimal() and int(label) < len(names):
        return int(label)
    near = [name for name in names if label.lower() in name.lower()]
    hint = f"; did you mean {' or '.join(near[:5])}?" if near else f": {', '.join(list(names)[:5])}, ..."
    raise ValueError(f"there is no class {label!r} among {len(names)}{hint}")


def class_parts(folders: Sequence[Path], label: str, output: Path) -> None:
    """Figure 2: the three parts that matter most to a class, by their best training regions; a row for each run."""
    rows: list[tuple[str, dict[str, Any]]] = []
    name = ""
    for trained, method in runs_of(folders):
        index = class_index(label, trained.data.label_names)
        name = trained.data.label_names[index]
        found = {key: value.cpu().numpy() for key, value in method.class_parts(index).items()}
        found["shown"], found["aspects"] = trained.data.pictures(found["image_id"])
        rows.append((trained.name, found))
    write_class_parts(output, rows, f"{name}: the parts that matter most, by their best training regions")


def heatmaps(folders: Sequence[Path], images: Sequence[str], label: str | None, output: Path) -> None:
    """Figure 3: heatmap and most discriminative region of images; a row for each run.

    Args:
        folders: of the runs.
        images: files, or numbers (``image_id``) of the dataset's images; none for the first test images of the class,
            or for some spread over the test split.
        label: a class; None for the one that each run predicts.
        output: the PNG file.
    """
    rows: list[tuple[str, list[dict[str, Any]], list[str]]] = []
    shown, aspects, captions = [], [], []
    for trained, method in runs_of(folders):
        names = trained.data.label_names
        index = None if label is None else class_index(label, names)
        items = items_of(trained, images, index)
        shown = [item.image.permute(1, 2, 0).numpy() for item, _ in items]
        aspects = [float(item.aspect) for item, _ in items]
        looked, titles = [], []
        with trained.as_tested():
            for item, _ in items:
                batch = batch_of(trained, item)
                asked = None if index is None else torch.full_like(batch.image_id, index)
                found = {key: value[0].float().cpu().numpy() for key, value in method.look(batch, asked).items()}
                looked.append(found)
                titles.append(f"{names[int(found['class'])]}: {float(found['logit']):.2f}")
        rows.append((trained.name, looked, titles))
        captions = [caption for _, caption in items]
    write_heatmaps(output, shown, aspects, captions, rows)


def items_of(trained: Trained, images: Sequence[str], index: int | None) -> list[tuple[Batch, str]]:
    """Images through the test view, each with what is known of it.

    Raises:
        ValueError: a number is none of the dataset's, or a file is no picture; names it.
    """
    data = trained.data
    seen, names, listing = data.dataset(data.test_view), data.label_names, data.listing
    if not images:
        rows = listing.rows("test")
        if index is not None and data.target == "class":
            rows = rows[listing.target[rows] == index]
        spread = np.linspace(0, len(rows) - 1, min(EXAMPLES, len(rows))).round().astype(int)
        images = [str(number) for number in listing.image_id[rows[spread]].tolist()]
    found = []
    for given in images:
        if not given.isdecimal():
            (item, name), *_ = own_items(trained, [Path(given)], read_all([Path(given)]))
            found.append((item, name))
        elif int(given) in listing.image_id:
            item = seen[int(data.rows_of(np.array([int(given)]))[0])]
            told = f", {names[int(item.target)]}" if data.target == "class" else ""
            found.append((item, f"image {given}{told}"))
        else:
            raise ValueError(f"{data.name} has no image number {given}")
    return found


def histograms(folders: Sequence[Path], images: int, output: Path) -> None:
    """Regions per part, classes per part, and cosines of pairs of parts; a row for each run.

    Args:
        folders: of the runs.
        images: of the training split, spread evenly, whose regions are counted.
        output: the PNG file.
    """
    rows = []
    for trained, method in runs_of(folders):
        data = trained.data
        with contextlib.suppress(StoreError):  # removed to save room: the maps are computed again
            prepare.attach(data, method)
        train = data.listing.rows("train")
        chosen = train[np.unique(np.linspace(0, len(train) - 1, min(images, len(train))).astype(int))]
        count = torch.zeros(len(method.part.weight), dtype=torch.int64, device=trained.device)
        with trained.as_tested():
            for batch in data.loader_of(chosen, data.test_view):
                sent = method.on_after_batch_transfer(data.transfer_batch_to_device(batch, trained.device, 0), 0)
                count += method.assigned(method.areas(method.maps(sent), sent.image_id))
            found = {"regions": count, "classes": method.shared(), "cosines": method.cosines()}
        rows.append((trained.name, {key: value.cpu().numpy() for key, value in found.items()}))
    write_histograms(output, rows)
