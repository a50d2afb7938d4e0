"""Annotation files as arrays: text tables, VOC boxes, folders of classes. What is wrong is named by file and line."""

import io
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from fgbench.data.listing import Listing
from fgbench.data.text import DataError, read_text


def table_of(path: Path, columns: int, skip: int = 0) -> tuple[list[str], Float[ndarray, "n c"]]:
    """A text table whose first column is a name without blanks and whose other ``columns`` are numbers.

    Args:
        path: the file; columns are separated by any number of blanks.
        columns: of numbers.
        skip: lines of heading.
    """
    import pandas as pd

    text = read_text(path)
    try:
        frame = pd.read_csv(
            io.StringIO(text), sep=r"\s+", header=None, skiprows=skip, dtype={0: str}, keep_default_na=False
        )
        numbers = frame.iloc[:, 1:].to_numpy(np.float64)
        whole = numbers.shape[1] == columns and bool(np.isfinite(numbers).all())
    except ValueError:  # pandas' own errors are of this kind
        whole = False
    if not whole:
        return _slow_table(path, text.splitlines(), columns, skip)
    return frame[0].tolist(), numbers


def _slow_table(path: Path, lines: list[str], columns: int, skip: int) -> tuple[list[str], Float[ndarray, "n c"]]:
    """Line by line, to name the damaged one; only for files that cannot be read at once."""
    names, rows = [], []
    for number, line in enumerate(lines[skip:], start=skip + 1):
        name, *words = line.split() or [""]
        try:
            row = [float(word) for word in words]
        except ValueError:
            row = []
        if len(row) != columns or not np.isfinite(row).all():
            raise DataError(f"{path}, line {number}: expected a name and {columns} numbers, found {line[:80]!r}")
        names.append(name)
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: has a heading, but no line below it")
    return names, np.array(rows, np.float64)


def check_lines(path: Path, good: Bool[ndarray, " n"], complaint: str, skip: int = 0) -> None:
    """Name the first line that is not good.

    Raises:
        DataError: if there is one.
    """
    bad = np.flatnonzero(~good)
    if len(bad):
        raise DataError(f"{path}, line {int(bad[0]) + 1 + skip}: {complaint}")


@dataclass(frozen=True)
class Voc:
    """An annotation in the layout of PASCAL VOC, as written.

    Attributes:
        boxes: ``x0 y0 x1 y1`` of every object.
        size: height and width of the picture that was annotated; zeros where the file does not say.
        names: of the object of each box.
    """

    boxes: Float[ndarray, "n 4"]
    size: tuple[int, int]
    names: tuple[str, ...]


def read_voc(path: Path, drop_flat: bool = False) -> Voc:
    """An annotation in the layout of PASCAL VOC.

    Args:
        path: the file.
        drop_flat: leave boxes without area out, where they are known to occur, instead of refusing them.

    Raises:
        DataError: the file is missing, no XML, or has no object with a box of positive area.
    """
    try:
        root = ET.fromstring(path.read_bytes())
        objects = [(thing.findtext("name", ""), thing.iterfind("bndbox")) for thing in root.iterfind("object")]
        named = [(name, [float(box.findtext(side, "")) for side in _SIDES]) for name, of in objects for box in of]
        height, width = (int(root.findtext(f"size/{side}", "0")) for side in ("height", "width"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (ET.ParseError, ValueError) as error:
        raise DataError(f"{path}: not an annotation in XML with xmin, ymin, xmax, ymax ({error})") from None
    found = np.array([box for _, box in named], np.float64).reshape(-1, 4)
    good: Bool[ndarray, " n"] = np.logical_and.reduce(found[:, 2:] > found[:, :2], axis=1)
    if not drop_flat and not (len(found) and good.all()):
        raise DataError(f"{path}: has no object, or one whose box has no area")
    names = tuple(name for (name, _), whole in zip(named, good.tolist(), strict=True) if whole)
    return Voc(found[good], (height, width), names)


def voc_boxes(path: Path) -> Float[ndarray, "n 4"]:
    """``x0 y0 x1 y1`` of every object of an annotation in the layout of PASCAL VOC, as written."""
    return read_voc(path).boxes


_SIDES = ("xmin", "ymin", "xmax", "ymax")


def ragged(boxes: Sequence[Float[ndarray, "_ 4"]]) -> tuple[Float[ndarray, "t 4"], Int64[ndarray, " n1"]]:
    """The boxes of all images one after the other, and where those of each image start (``Listing.box_start``)."""
    start = np.zeros(len(boxes) + 1, np.int64)
    np.cumsum([len(of_one) for of_one in boxes], out=start[1:])
    return np.concatenate([np.zeros((0, 4)), *boxes]), start


def check_folders(entries: Sequence[str], names: Sequence[str], target: Int64[ndarray, " n"]) -> None:
    """Refuse a folder with more than one class, and a class with more than one folder.

    Args:
        entries: where each image is listed, for the complaint ("train_list.mat, entry 7").
        names: of the images, ``<folder>/<file>``.
        target: class of each image.

    Raises:
        DataError: names the first image that is in another folder than most of its class, or of another class than
            most of its folder.
    """
    folders, folder = np.unique([name.rpartition("/")[0] for name in names], return_inverse=True)
    classes, label = np.unique(target, return_inverse=True)
    count = np.zeros((len(folders), len(classes)), np.int64)
    np.add.at(count, (folder, label), 1)
    wrong = np.flatnonzero(count.argmax(axis=1)[folder] != label)
    if len(wrong):
        row = int(wrong[0])
        usual = classes[count[folder[row]].argmax()]
        raise DataError(
            f"{entries[row]}: {names[row]} has label {target[row] + 1}, but most images of its folder have {usual + 1}"
        )
    wrong = np.flatnonzero(count.argmax(axis=0)[label] != folder)
    if len(wrong):
        row = int(wrong[0])
        usual = folders[count[:, label[row]].argmax()]
        raise DataError(f"{entries[row]}: {names[row]} has label {target[row] + 1}, which is that of folder {usual}")


_LISTS_ONLY: ContextVar[bool] = ContextVar("lists_only", default=False)


@contextmanager
def lists_only() -> Iterator[None]:
    """Readers called in here do not ask whether the listed images are there: ``check_images`` does nothing."""
    token = _LISTS_ONLY.set(True)
    try:
        yield
    finally:
        _LISTS_ONLY.reset(token)


def check_images(listing: Listing) -> None:
    """One look into each folder instead of one question a file (slow on network disks).

    Raises:
        DataError: listed images are absent; says how many, and names the first.
    """
    if _LISTS_ONLY.get():
        return
    names = [bytes(name).decode() for name in listing.names]
    there: set[str] = set()
    for folder in {os.path.dirname(name) for name in names}:
        if (listing.folder / folder).is_dir():
            there.update(os.path.join(folder, entry.name) for entry in os.scandir(listing.folder / folder))
    absent = [name for name in names if name not in there]
    if absent:
        shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        raise DataError(f"{listing.folder}: {len(absent):,} of {len(names):,} listed images are absent: {shown}")
