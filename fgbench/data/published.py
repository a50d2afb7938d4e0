"""What the published datasets share: where their tree is, what their counts must be, and what is said when not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int64, Shaped
from numpy import ndarray

from fgbench.data.base import BenchDataModule
from fgbench.data.files import check_images
from fgbench.data.listing import Listing, Split
from fgbench.data.text import DataError


class Published(BenchDataModule):
    """A dataset that its authors distribute as archives: a tree on disk, with counts that can be checked.

    A subclass sets ``card``, ``folder`` and ``marker``, implements ``read_tree``, and says with ``is_part`` when only a
    part of the dataset was asked for, whose counts nobody published.
    """

    folder: ClassVar[str]
    marker: ClassVar[str]  # a file without which there is no tree
    is_part: bool = False

    def has_tree(self, folder: Path) -> bool:
        """Whether a folder is one that holds the dataset."""
        return (folder / self.marker).is_file()

    def tree(self) -> Path:
        """The folder that holds the dataset: ``<root>/<folder>``, or ``root`` itself."""
        return self.root if self.has_tree(self.root) else self.root / self.folder

    def advice(self) -> str:
        """How to mend a tree."""
        names = [archive.name for archive in self.archives if not archive.optional]
        files = ", ".join([self.card.by_hand, *names] if self.card.by_hand else names)
        return (
            f"Get {files} from {self.card.home} and unpack them as fgbench/data/{self.name}.py shows, "
            "or say where the datasets are with --machine.data_root"
        )

    def prepare_data(self) -> None:
        """Say where to get the data when it is not there; nothing is downloaded."""
        if not self.has_tree(self.tree()):
            raise DataError(f"{self.name}: {self._absence()}")

    def _absence(self) -> str:
        return f"{self.tree()}: no {self.marker}. {self.advice()}."

    def read_tree(self, tree: Path) -> Listing:
        """Lists and annotations; whether the images are there, and how many they are, is checked by ``read``."""
        raise NotImplementedError

    def read(self) -> Listing:
        """Lists and annotations; the whole dataset must have its published counts."""
        if not self.has_tree(self.tree()):
            raise DataError(self._absence())
        try:
            listing = self.read_tree(self.tree())
            self.check_splits(listing)
            check_images(listing)
        except DataError as error:
            raise DataError(f"{error}. {self.advice()}.") from None
        return listing

    def published(self) -> dict[Split, int]:
        """How many images each split of the whole dataset has; 0 where nobody says."""
        counts: dict[Split, int] = {"train": self.card.train, "test": self.card.test}
        counts |= {"val": self.card.val} if self.has_validation else {}
        counts |= {"fit": self.card.fit} if self.card.fit else {}
        return counts

    def check_splits(self, listing: Listing) -> None:
        """No split may be empty, and those of the whole dataset must be as large as published."""
        published = self.published()
        found = {split: len(listing.rows(split)) for split in published}
        empty = [split for split, count in found.items() if not count]
        if empty:
            raise DataError(f"{self.tree()}: the lists leave no image for {' and '.join(empty)}")
        wrong = [split for split, count in found.items() if published[split] not in (0, count)]
        if wrong and not self.is_part:
            there = ", ".join(f"{found[split]:,} {split} images" for split in wrong)
            asked = ", ".join(f"{published[split]:,}" for split in wrong)
            raise DataError(f"{self.tree()}: has {there}, but {self.card.title} has {asked}")


class PublishedClasses(Published):
    """A published dataset that asks for one of ``k`` classes.

    Args:
        classes: only the first so many classes, for quick runs; None is the whole dataset, whose counts are checked.
        kwargs: see ``BenchDataModule``.
    """

    def __init__(self, classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        most = self.count_classes()
        if classes is not None and not 2 <= classes <= most:
            raise ValueError(f"{self.name}: classes is {classes}, but must be from 2 to {most}, or null for all")
        self.classes, self.is_part = classes, classes is not None
        self.num_outputs = classes or most

    def index_key(self) -> tuple[object, ...]:
        """The number of classes."""
        return (self.classes,)

    def count_classes(self) -> int:
        """How many classes the whole dataset has."""
        return self.card.outputs

    def make_listing(self, rows: "Rows", folder: Path, label_names: list[str], where: Path) -> Listing:
        """The rows of the wanted classes, with what no dataset of this kind has left empty.

        Args:
            rows: of all images, in published order.
            folder: where the images are.
            label_names: of all classes.
            where: the file that the labels come from, for complaints.
        """
        found, known = self.count_classes(), len(label_names)
        if (self.classes is None and known != found) or self.num_outputs > known:
            raise DataError(f"{where}: has {known} classes, but {self.num_outputs} are asked for")
        wrong = np.flatnonzero((rows.target < 0) | (rows.target >= known))
        if len(wrong):
            row = int(wrong[0])
            name = bytes(rows.names[row]).decode()
            raise DataError(f"{where}: {name} has class {rows.target[row] + 1}, but classes run from 1 to {known}")
        unique, first = np.unique(rows.names, return_index=True)
        if len(unique) < len(rows.names):
            again = int(np.setdiff1d(np.arange(len(rows.names)), first)[0])
            raise DataError(f"{where}: {bytes(rows.names[again]).decode()} is listed twice")
        wanted = rows.target < self.num_outputs
        keep = np.flatnonzero(wanted)
        count = np.zeros(len(wanted), np.int64) if rows.boxes is None else np.ones(len(wanted), np.int64)
        if rows.box_start is not None:
            count = np.diff(rows.box_start)
        return Listing(
            folder=folder,
            names=rows.names[keep],
            image_id=(np.arange(len(wanted)) if rows.image_id is None else rows.image_id)[keep],
            target=rows.target[keep],
            stratum=None if rows.stratum is None else rows.stratum[keep],
            split=rows.split[keep],
            boxes=np.zeros((0, 4)) if rows.boxes is None else rows.boxes[np.repeat(wanted, count)],
            box_start=np.concatenate([np.zeros(1, np.int64), np.cumsum(count[keep])]),
            landmarks=np.zeros((len(keep), 0, 2)),
            visible=np.zeros((len(keep), 0), np.bool_),
            label_names=tuple(label_names[: self.num_outputs]),
            landmark_names=(),
            frames=None if rows.frames is None else rows.frames[keep],
        )


@dataclass(frozen=True)
class Rows:
    """What a class dataset's lists say of its images, in published order.

    Attributes:
        names: files relative to the folder of images, UTF-8 bytes.
        target: class index, from 0.
        split: 0 train, 1 test.
        boxes: ``x0 y0 x1 y1``, one for each image, or as ``box_start`` says; None where the dataset has no boxes.
        box_start: where the boxes of each image start, see ``Listing``.
        image_id: position in the published order, where some images before have been left out.
        stratum: see ``Listing``.
        frames: see ``Listing``.
    """

    names: Shaped[ndarray, " n"]
    target: Int64[ndarray, " n"]
    split: Int64[ndarray, " n"]
    boxes: Float[ndarray, "t 4"] | None = None
    box_start: Int64[ndarray, " n1"] | None = None
    image_id: Int64[ndarray, " n"] | None = None
    stratum: Int64[ndarray, " n"] | None = None
    frames: Int64[ndarray, "n 2"] | None = None


def as_bytes(names: list[str]) -> Shaped[ndarray, " n"]:
    """Names as one array of UTF-8 bytes."""
    return np.array([name.encode() for name in names], dtype=np.bytes_)
