"""What is known of all images of a dataset, as arrays: small, quick to hash, shared with workers as they are."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int, Int64, Shaped, UInt64
from numpy import ndarray

from fgbench.data.text import DataError
from fgbench.data.view import View

Split = Literal["train", "val", "test", "fit"]
"""``fit``: what landmark regressors are fitted on; the train split, unless a dataset has a list of its own for it."""

SPLITS: dict[Split, int] = {"train": 0, "test": 1, "val": 2}
NONE, FIT = 3, 4  # in none of the splits above; added where a fitting list also has the image


@dataclass(frozen=True)
class Listing:
    """The images of a dataset in its published order; coordinates in pixels of the original files.

    Attributes:
        folder: where the images are.
        names: files relative to ``folder``, as UTF-8 bytes (an array of Python strings would be copied by every
            worker process that counts references to it).
        image_id: position in the dataset's published order, whatever part of it this listing holds.
        target: class index; or attributes, 0 or 1.
        split: 0 train, 1 test, 2 validation (official, or see ``with_validation``). Where a list of its own says what
            landmark regressors are fitted on, its images have 4 more: 4 trains too, 6 validates too, 7 only fits.
        boxes: ``x0 y0 x1 y1`` of all images, one after the other.
        box_start: image ``i`` has the boxes ``box_start[i]`` to ``box_start[i + 1]``, the last not included. An image
            with many boxes so costs no other image anything. One box each: ``np.arange(n + 1)``; none at all:
            ``np.zeros(n + 1, np.int64)``.
        landmarks: ``x y``; zeros where not visible.
        label_names: what the classes or attributes are called.
        landmark_names: what the landmarks are called; parts with a mirror image start with ``left `` or ``right ``.
        label_groups: for each class the larger group that it belongs to (a super-category), whose accuracy is also
            given by itself; empty where there are none.
        sizes: height and width of each original image. A reader may leave it None where its files do not say; then
            the headers of the images are read once.
        copy_short: images in ``folder`` are copies whose short side is this at most, pixels; 0 means that they are the
            originals. Boxes, landmarks and ``sizes`` are in pixels of the originals all the same.
        stratum: what a validation cut takes the same share of, whatever level of labels is asked for; None means the
            classes.
        frames: height and width of the picture in which the boxes were drawn, zeros where nobody says. Compared with
            the files when their sizes are read; after that None.
    """

    folder: Path
    names: Shaped[ndarray, " n"]
    image_id: Int64[ndarray, " n"]
    target: Int64[ndarray, " n"] | Float[ndarray, "n a"]
    split: Int64[ndarray, " n"]
    boxes: Float[ndarray, "t 4"]
    box_start: Int64[ndarray, " n1"]
    landmarks: Float[ndarray, "n l 2"]
    visible: Bool[ndarray, "n l"]
    label_names: tuple[str, ...]
    landmark_names: tuple[str, ...]
    label_groups: tuple[str, ...] = ()
    sizes: Int[ndarray, "n 2"] | None = None
    copy_short: int = 0
    stratum: Int64[ndarray, " n"] | None = None
    frames: Int64[ndarray, "n 2"] | None = None

    def name(self, row: SupportsIndex) -> str:
        """The file of one image, relative to ``folder``."""
        return bytes(self.names[row]).decode()

    def path(self, row: SupportsIndex) -> Path:
        """The file of one image."""
        return self.folder / self.name(row)

    def boxes_of(self, row: int) -> Float[ndarray, "m 4"]:
        """The boxes of one image."""
        return self.boxes[self.box_start[row] : self.box_start[row + 1]]

    @cached_property
    def most_boxes(self) -> int:
        """How many boxes an image has at most."""
        return int(np.diff(self.box_start).max(initial=0))

    def stored_sizes(self) -> Int[ndarray, "n 2"]:
        """Height and width of the files in ``folder``.

        Raises:
            ValueError: the sizes of the originals are not known yet.
        """
        if self.sizes is None:
            raise ValueError("the listing has no sizes yet: take the datamodule's listing, not its reader's")
        if not self.copy_short:
            return self.sizes
        return copied_size(self.sizes, self.copy_short)

    def rows(self, split: Split) -> Int64[ndarray, " r"]:
        """Rows of a split, in published order."""
        if split == "fit":
            return np.flatnonzero(self.split & FIT) if self.has_fit else self.rows("train")
        return np.flatnonzero(self.split & 3 == SPLITS[split])

    @property
    def has_fit(self) -> bool:
        """Whether a list of its own says what landmark regressors are fitted on."""
        return bool((self.split & FIT).any())

    def ranks(self, rows: Int[ndarray, " r"]) -> UInt64[ndarray, " r"]:
        """The first eight bytes of the hash of each image's name, as numbers: the order of validation cuts."""
        raw = b"".join(hashlib.sha256(bytes(self.names[row])).digest()[:8] for row in rows)
        return np.frombuffer(raw, ">u8").astype(np.uint64)

    def with_validation(self, fraction: float, ranks: UInt64[ndarray, " n"] | None = None) -> "Listing":
        """The same images with a validation split cut from train.

        Of each class (or stratum, where the listing has finer ones than its labels) the same share, ``fraction``
        rounded to whole images, is taken: those whose names hash lowest. So
        the cut depends on nothing but names and fraction, and a smaller fraction's cut is part of a larger one's. For
        attributes all images count as one class.

        Args:
            fraction: of the training images.
            ranks: of all images, where an index has them; None hashes the names.
        """
        if not 0 <= fraction < 1:
            raise ValueError(f"val_fraction is {fraction}, but must be in [0, 1), e.g. 0.1")
        if not fraction:
            return self
        if len(self.rows("val")):
            raise ValueError("there is an official validation split: leave val_fraction at 0")
        split, rows = self.split.copy(), self.rows("train")
        rank = self.ranks(rows) if ranks is None else ranks[rows]
        classes = self.target if self.target.ndim == 1 else np.zeros(len(self.target), np.int64)
        stratum = (classes if self.stratum is None else self.stratum)[rows]
        rows = rows[np.lexsort((rank, stratum))]
        for group in np.split(rows, np.cumsum(np.bincount(stratum))[:-1]):
            split[group[: round(fraction * len(group))]] = 2
        if not (split == 2).any():
            raise ValueError(f"val_fraction {fraction} leaves no validation image in any class: raise it")
        return replace(self, split=split)

    def digest(self) -> str:
        """SHA-256 over lists and annotations, not over pixels; the same for a whole and for a partial tree on disk."""
        found = hashlib.sha256()
        found.update(_header(self.image_id) + _bytes(self.image_id))
        found.update(_header(self.target) + _bytes(self.target))
        found.update(_header(self.split) + _bytes(self.split))
        # as if padded to the most boxes an image has, a few images at a time
        shape = (len(self.names), self.most_boxes)
        found.update(f"f{(*shape, 4)}".encode())
        for boxes, _ in self._padded():
            found.update(_bytes(boxes))
        found.update(f"b{shape}".encode())
        for _, valid in self._padded():
            found.update(_bytes(valid))
        found.update(_header(self.landmarks) + _bytes(self.landmarks))
        found.update(_header(self.visible) + _bytes(self.visible))
        for name in self.names:
            found.update(bytes(name) + b"\n")
        found.update("\n".join((*self.label_names, "", *self.landmark_names)).encode())
        if self.label_groups:
            found.update("\n".join(("", "", *self.label_groups)).encode())
        if self.copy_short:
            found.update(f"\n\n{self.copy_short}".encode())
        return found.hexdigest()

    def _padded(self, step: int = 4096) -> Iterator[tuple[Float[ndarray, "c m 4"], Bool[ndarray, "c m"]]]:
        """Boxes of all images as blocks with as many places for each image, zeros where there is no box."""
        count, place = np.diff(self.box_start), np.arange(self.most_boxes)
        for start in range(0, len(self.names), step):
            valid = place < count[start : start + step, None]
            boxes = np.zeros((*valid.shape, 4))
            last = min(start + step, len(self.names))
            boxes[valid] = self.boxes[self.box_start[start] : self.box_start[last]]
            yield boxes, valid


def copied_size(sizes: Int[ndarray, "n 2"], short: int) -> Int[ndarray, "n 2"]:
    """Height and width of copies whose short side is ``short`` at most, as a view's ``resize: short`` has them."""
    large = sizes.min(axis=1, initial=2**31 - 1) > short
    return np.where(large[:, None], View("short", short).resized_all(sizes), sizes).astype(sizes.dtype)


def _header(array: ndarray) -> bytes:
    return f"{array.dtype.kind}{array.shape}".encode()


def _bytes(array: ndarray) -> bytes:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def in_frame(listing: Listing, scale: bool) -> Listing:
    """A listing with sizes whose boxes are in pixels of its images.

    Args:
        listing: with sizes.
        scale: move boxes from the pictures that they were drawn in to the images, instead of refusing.

    Raises:
        DataError: an image has another size than that which its boxes refer to.
    """
    frames, sizes = listing.frames, listing.sizes
    if frames is None or sizes is None:
        return listing
    other = frames.all(axis=1) & sizes.all(axis=1) & (frames != sizes).any(axis=1)  # 0: not known
    listing = replace(listing, frames=None)
    if not other.any():
        return listing
    if not scale:
        row = int(np.flatnonzero(other)[0])
        (height, width), (listed_height, listed_width) = sizes[row].tolist(), frames[row].tolist()
        raise DataError(
            f"{listing.path(row)}: {height} x {width} (height x width) pixels, but the lists say {listed_height} x "
            f"{listed_width}, to which its boxes refer; so for {int(other.sum()):,} of {len(other):,} images: restore "
            "the official files"
        )
    factor = np.where(other[:, None], sizes / np.maximum(frames, 1), 1.0)[:, [1, 0, 1, 0]]
    return replace(listing, boxes=listing.boxes * np.repeat(factor, np.diff(listing.box_start), axis=0))
