"""Reader of trees in the layout of CUB-200-2011, for the real birds and for the toys.

Every file is a table with one row an image (``part_locs.txt``: one row an image and part), columns separated by blanks,
the first column the image's number::

    images/                   <class folder>/<file>
    classes.txt               class number, name
    images.txt                image number, file relative to images/
    image_class_labels.txt    image number, class number
    train_test_split.txt      image number, 1 for train or 0 for test
    bounding_boxes.txt        image number, x, y, width, height
    parts/parts.txt           part number, name (with blanks)
    parts/part_locs.txt       image number, part number, x, y, visible
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from fgbench.data.files import check_images, check_lines
from fgbench.data.listing import Listing
from fgbench.data.text import DataError, read_lines, read_text

FILES = (
    "classes.txt",
    "images.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "bounding_boxes.txt",
    "parts/parts.txt",
    "parts/part_locs.txt",
)


def read_tree(root: Path, classes: int | None = None, advice: str = "") -> Listing:
    """Read lists and annotations, and check that they agree and that the images are there.

    Args:
        root: folder that has ``images.txt``.
        classes: read the first so many classes only; None reads all.
        advice: appended to every error: where the data comes from.

    Raises:
        DataError: a file is missing, a line is damaged, files disagree, or listed images are absent.
    """
    try:
        missing = [name for name in FILES if not (root / name).is_file()]
        if missing:
            raise DataError(f"{root}: missing {', '.join(missing)}")
        listing = _read(root, classes)
        check_images(listing)
    except DataError as error:
        raise DataError(f"{error}. {advice}".rstrip(" .") + ".") from None
    return listing


def _read(root: Path, classes: int | None) -> Listing:
    label_ids, label_names = _names(root / "classes.txt")
    ids, names = _names(root / "images.txt")
    part_ids, part_names = _names(root / "parts/parts.txt")
    if not np.array_equal(label_ids, np.arange(1, len(label_ids) + 1)):
        raise DataError(f"{root / 'classes.txt'}: class numbers are not 1, 2, 3, ... in this order")
    label = _table(root / "image_class_labels.txt", 2, ids)[:, 1]
    split = _table(root / "train_test_split.txt", 2, ids)[:, 1]
    box = _table(root / "bounding_boxes.txt", 5, ids)[:, 1:]
    part = _table(root / "parts/part_locs.txt", 5, np.repeat(ids, len(part_ids))).reshape(len(ids), len(part_ids), 5)
    check_lines(root / "image_class_labels.txt", np.isin(label, label_ids), "class is not one of classes.txt")
    folders = np.array([name.partition("/")[0] for name in names])
    mine = np.array(label_names)[label.astype(np.int64) - 1]
    check_lines(root / "image_class_labels.txt", folders == mine, "another class than that whose name the folder has")
    check_lines(root / "train_test_split.txt", np.isin(split, (0, 1)), "split is neither 1 (train) nor 0 (test)")
    check_lines(
        root / "bounding_boxes.txt", np.logical_and.reduce(box[:, 2:] > 0, axis=1), "width or height is not positive"
    )
    rows = (part[:, :, 1] == part_ids) & np.isin(part[:, :, 4], (0, 1))
    check_lines(root / "parts/part_locs.txt", rows.reshape(-1), "parts must run as in parts.txt, visible is 0 or 1")
    count = len(label_names) if classes is None else classes
    if not 1 <= count <= len(label_names):
        raise DataError(f"classes: {classes} asked for, but {root / 'classes.txt'} has {len(label_names)}")
    keep = label <= count
    visible = part[keep, :, 4] == 1
    return Listing(
        folder=root / "images",
        names=np.array([name.encode() for name in names])[keep],
        image_id=ids[keep] - 1,
        target=label[keep].astype(np.int64) - 1,
        split=(split[keep] == 0).astype(np.int64),
        boxes=np.concatenate([box[keep, :2], box[keep, :2] + box[keep, 2:]], axis=1),
        box_start=np.arange(int(keep.sum()) + 1),
        landmarks=np.where(visible[..., None], part[keep, :, 2:4], 0.0),
        visible=visible,
        label_names=tuple(label_names[:count]),
        landmark_names=tuple(part_names),
    )


def _names(path: Path) -> tuple[Int64[ndarray, " n"], list[str]]:
    """A file of numbers and names."""
    numbers, names = [], []
    for i, line in enumerate(read_lines(path), start=1):
        number, _, name = line.strip().partition(" ")
        if not number.isdecimal() or not name:
            raise DataError(f"{path}, line {i}: expected a number and a name, found {line!r}")
        numbers.append(int(number))
        names.append(name)
    found = np.array(numbers, np.int64)
    unique, first = np.unique(found, return_index=True)
    if len(unique) < len(found):
        again = int(np.setdiff1d(np.arange(len(found)), first)[0])
        raise DataError(f"{path}, line {again + 1}: number {found[again]} occurs twice")
    return found, names


def _table(path: Path, columns: int, ids: Int64[ndarray, " n"]) -> Float[ndarray, "n c"]:
    """A file of numbers whose first column must be ``ids``, in this order."""
    text = read_text(path)
    try:
        table = np.loadtxt(io.StringIO(text), dtype=np.float64, comments=None, ndmin=2)
        whole = table.shape[1] == columns and bool(np.isfinite(table).all())
    except ValueError:
        whole = False
    if not whole:
        table = _slow_table(path, columns)
    both = min(len(table), len(ids))
    wrong = np.flatnonzero(table[:both, 0] != ids[:both])
    if len(wrong):
        i = int(wrong[0])
        raise DataError(f"{path}, line {i + 1}: found image {table[i, 0]:g} where images.txt has image {ids[i]}")
    if len(table) != len(ids):
        raise DataError(f"{path}: has {len(table):,} lines, but images.txt asks for {len(ids):,}")
    return table


def _slow_table(path: Path, columns: int) -> Float[ndarray, "n c"]:
    """Line by line, to name the damaged one; only for files that cannot be read at once."""
    rows = []
    for i, line in enumerate(read_lines(path), start=1):
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            row = []
        if len(row) != columns or not np.isfinite(row).all():
            raise DataError(f"{path}, line {i}: expected {columns} numbers, found {line!r}")
        rows.append(row)
    return np.array(rows, np.float64)
