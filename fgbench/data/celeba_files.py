"""Reader of CelebA's annotation files, for the aligned and for the original images.

One row an image, in the order of the images' numbers, under one or two lines of heading::

    Anno/list_attr_celeba.txt               a count; 40 names; then "000001.jpg -1  1  1 ..."
    Anno/list_landmarks_align_celeba.txt    a count; ten names; "000001.jpg 69  109  106  113   77  142  ..."
    Anno/list_landmarks_celeba.txt          the same, in the original images
    Anno/list_bbox_celeba.txt               a count; five names; "000001.jpg    95  71 226 313", in the original images
    Eval/list_eval_partition.txt            "000001.jpg 0": 0 train, 1 validation, 2 test

Files may also lie side by side, as torchvision puts them. torchvision's parser reads the aligned images' files only,
takes the boxes of the original images for theirs, and wants every archive's checksum.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from fgbench.data.files import check_lines, table_of
from fgbench.data.listing import NONE, Listing
from fgbench.data.published import as_bytes
from fgbench.data.text import DataError, read_text

ATTRIBUTES = 40
LANDMARKS = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")  # left in the image
MARKER, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"
ALIGNED = (MARKER, "list_landmarks_align_celeba.txt")
ORIGINAL = (MARKER, "list_landmarks_celeba.txt", "list_bbox_celeba.txt")
FROM_OFFICIAL = np.array([0, 2, 1])  # theirs: train, validation, test; ours: see ``Listing``


def find(tree: Path, *places: str) -> Path:
    """The first of the places that is there; else the first, for its absence to be complained of."""
    return next((tree / place for place in places if (tree / place).exists()), tree / places[0])


def annotation(tree: Path, name: str) -> Path:
    """A file of ``Anno``."""
    return find(tree, f"Anno/{name}", name)


def partition(tree: Path) -> Path:
    """The official split."""
    return find(tree, f"Eval/{PARTITION}", PARTITION)


def read_attributes(tree: Path) -> tuple[list[str], tuple[str, ...], Float[ndarray, "n a"]]:
    """Files, names of the attributes, and the attributes as 0 or 1."""
    path = annotation(tree, MARKER)
    names, values = _headed(path, ATTRIBUTES)
    labels = tuple(read_text(path).split("\n", 2)[1].split())
    if len(labels) != ATTRIBUTES:
        raise DataError(f"{path}, line 2: expected {ATTRIBUTES} names of attributes, found {len(labels)}")
    check_lines(path, (np.abs(values) == 1).all(axis=1), "an attribute is neither 1 nor -1", skip=2)
    return names, labels, (values > 0).astype(np.float64)


def read_partition(tree: Path, names: list[str]) -> Int64[ndarray, " n"]:
    """The split of each image, as ``Listing`` has it."""
    path = partition(tree)
    found, values = table_of(path, 1)
    check_names(path, found, names)
    check_lines(path, np.isin(values[:, 0], (0, 1, 2)), "the split is not 0, 1 or 2")
    split: Int64[ndarray, " n"] = FROM_OFFICIAL[values[:, 0].astype(np.int64)]
    return split


def read_landmarks(tree: Path, file: str, names: list[str]) -> Float[ndarray, "n 5 2"]:
    """Both eyes, the nose and both corners of the mouth."""
    path = annotation(tree, file)
    found, values = _headed(path, 2 * len(LANDMARKS))
    check_names(path, found, names, skip=2)
    return values.reshape(len(names), len(LANDMARKS), 2)


def read_boxes(tree: Path, names: list[str]) -> Float[ndarray, "n 4"]:
    """``x y width height`` of the face, in the original images."""
    path = annotation(tree, ORIGINAL[2])
    found, values = _headed(path, 4)
    check_names(path, found, names, skip=2)
    return values


def check_names(path: Path, found: list[str], names: list[str], skip: int = 0) -> None:
    """Refuse a file whose images are not those of the attributes, in their order."""
    for number, (mine, theirs) in enumerate(zip(found, names, strict=False), start=1 + skip):
        if mine != theirs:
            raise DataError(f"{path}, line {number}: found image {mine} where {MARKER} has {theirs}")
    if len(found) != len(names):
        raise DataError(f"{path}: has {len(found):,} images, but {MARKER} has {len(names):,}")


def make_listing(
    folder: Path,
    names: list[str],
    split: Int64[ndarray, " n"],
    *,
    target: Float[ndarray, "n a"],
    landmarks: Float[ndarray, "n 5 2"],
    label_names: tuple[str, ...],
    boxes: Float[ndarray, "n 4"] | None = None,
) -> Listing:
    """Arrays over all images, without those whose split is ``NONE``; ``boxes`` are ``x y width height``."""
    keep = np.flatnonzero(split != NONE)
    corners, start = np.zeros((0, 4)), np.zeros(len(keep) + 1, np.int64)
    if boxes is not None:
        corners = np.concatenate([boxes[keep, :2], boxes[keep, :2] + boxes[keep, 2:]], axis=1)
        start = np.arange(len(keep) + 1)
    return Listing(
        folder=folder,
        names=as_bytes(names)[keep],
        image_id=keep.astype(np.int64),
        target=target[keep],
        split=split[keep],
        boxes=corners,
        box_start=start,
        landmarks=landmarks[keep],
        visible=np.ones((len(keep), len(LANDMARKS)), np.bool_),
        label_names=label_names,
        landmark_names=LANDMARKS,
    )


def first_of_each(split: Int64[ndarray, " n"], most: int | None) -> Int64[ndarray, " n"]:
    """The split of each image, ``NONE`` for those beyond the first ``most`` of it; unchanged with None."""
    split = split.copy()
    if most is not None:
        for part in np.unique(split):
            split[np.flatnonzero(split == part)[most:]] = NONE
    return split


def _headed(path: Path, columns: int) -> tuple[list[str], Float[ndarray, "n c"]]:
    """A table under its count and its names."""
    names, values = table_of(path, columns, skip=2)
    count = read_text(path).partition("\n")[0].strip()
    if count != str(len(names)):
        raise DataError(f"{path}, line 1: says {count} images, but {len(names):,} lines follow")
    return names, values
