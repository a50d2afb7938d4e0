"""What is known of all images of a dataset, as arrays: small, quick to hash, shared with workers as they are."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped
from numpy import ndarray

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Listing:
    """The images of a dataset in its published order; coordinates in pixels of the original files.

    Attributes:
        folder: where the images are.
        names: files relative to ``folder``, as UTF-8 bytes (an array of Python strings would be copied by every
            worker process that counts references to it).
        image_id: position in the dataset's published order, whatever part of it this listing holds.
        target: class index; or attributes, 0 or 1.
        split: 0 train, 1 test, 2 validation (see ``with_validation``).
        boxes: ``x0 y0 x1 y1``; zeros where not valid.
        landmarks: ``x y``; zeros where not visible.
        label_names: what the classes or attributes are called.
        landmark_names: what the landmarks are called; parts with a mirror image start with ``left `` or ``right ``.
    """

    folder: Path
    names: Shaped[ndarray, " n"]
    image_id: Int64[ndarray, " n"]
    target: Int64[ndarray, " n"] | Float[ndarray, "n a"]
    split: Int64[ndarray, " n"]
    boxes: Float[ndarray, "n m 4"]
    box_valid: Bool[ndarray, "n m"]
    landmarks: Float[ndarray, "n l 2"]
    visible: Bool[ndarray, "n l"]
    label_names: tuple[str, ...]
    landmark_names: tuple[str, ...]

    def path(self, row: int) -> Path:
        """The file of one image."""
        return self.folder / bytes(self.names[row]).decode()

    def rows(self, split: Split) -> Int64[ndarray, " r"]:
        """Rows of a split, in published order."""
        return np.flatnonzero(self.split == {"train": 0, "test": 1, "val": 2}[split])

    def with_validation(self, fraction: float) -> "Listing":
        """The same images with a validation split cut from train.

        Of each class the same share, ``fraction`` rounded to whole images, is taken: those whose names hash lowest. So
        the cut depends on nothing but names and fraction, and a smaller fraction's cut is part of a larger one's. For
        attributes all images count as one class.
        """
        if not 0 <= fraction < 1:
            raise ValueError(f"val_fraction is {fraction}, but must be in [0, 1), e.g. 0.1")
        if not fraction:
            return self
        split, rows = self.split.copy(), self.rows("train")
        rank = np.array([hashlib.sha256(bytes(self.names[row])).digest() for row in rows], dtype="S32")
        stratum = self.target[rows] if self.target.ndim == 1 else np.zeros(len(rows), np.int64)
        rows = rows[np.lexsort((rank, stratum))]
        for group in np.split(rows, np.cumsum(np.bincount(stratum))[:-1]):
            split[group[: round(fraction * len(group))]] = 2
        if not (split == 2).any():
            raise ValueError(f"val_fraction {fraction} leaves no validation image in any class: raise it")
        return replace(self, split=split)

    def digest(self) -> str:
        """SHA-256 over lists and annotations, not over pixels; the same for a whole and for a partial tree on disk."""
        found = hashlib.sha256()
        for array in (self.image_id, self.target, self.split, self.boxes, self.box_valid, self.landmarks, self.visible):
            found.update(f"{array.dtype.kind}{array.shape}".encode())
            found.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
        for name in self.names:
            found.update(bytes(name) + b"\n")
        found.update("\n".join((*self.label_names, "", *self.landmark_names)).encode())
        return found.hexdigest()
