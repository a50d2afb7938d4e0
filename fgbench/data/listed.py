"""What a dataset lists: images, splits and annotations, read from its files or from the index, checked and digested."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from fgbench.data.archives import Archive
from fgbench.data.card import Card
from fgbench.data.listing import Listing, Split, in_frame
from fgbench.data.text import DataError
from fgbench.types import Target


class Listed:
    """The lists of a dataset, and the facts about it that no file says; nothing of it needs a loader.

    A dataset sets the class attributes and ``num_outputs``, and implements ``read`` and ``sources``; where arguments of
    its own choose what is listed, also ``index_key``.

    Attributes:
        root: folder of all datasets.
        val_fraction: share of the training images of each class that is kept for validation.
    """

    name: str | None
    card: ClassVar[Card]
    target: ClassVar[Target] = "class"
    landmark_frame: ClassVar[Literal["box", "interocular"] | None] = None
    has_boxes: ClassVar[bool] = False
    mask_names: ClassVar[tuple[str, ...]] = ()  # true parts of the masks, 1 and more there; empty without masks
    has_validation: ClassVar[bool] = False  # an official validation split, which no paper trains on
    landmark_classes: ClassVar[tuple[int, ...]] = ()  # classes whose landmark error is also measured by itself
    archives: ClassVar[tuple[Archive, ...]] = ()  # what its makers distribute; ``fgbench data prepare`` unpacks them
    copy_short: ClassVar[int] = 0  # pixels: prepare makes copies whose short side is this at most, 0 makes none
    slack: ClassVar[float] = 1.0  # pixels by which official boxes and landmarks may stick out of their image
    scales_boxes: ClassVar[bool] = False  # boxes are known to be drawn in pictures of another size, which the files say
    known_outside: ClassVar[Mapping[str, int]] = {}  # official "boxes" and "landmarks" known to stick out further
    known_damaged: ClassVar[frozenset[str]] = frozenset()  # names of official images that end too early
    num_outputs: int
    bottom: int = 0  # rows of pixels at the bottom of each file that are no part of the image
    root: Path
    val_fraction: float
    _digests: Mapping[str, str] | None = None  # that an index knows, by val_fraction

    def prepare_data(self) -> None:
        """Make what can be made, say where to get what is not there; called once, before anything is read."""

    def read(self) -> Listing:
        """Lists and annotations of all splits, checked."""
        raise NotImplementedError

    def sources(self) -> tuple[Path, ...]:
        """The files (not images) that ``read`` reads: when one of them changes, an index made from it is stale.

        Empty means that the dataset is read as it is, and never from an index.
        """
        return ()

    def index_key(self) -> tuple[object, ...]:
        """Values of those arguments that choose what ``read`` lists (a level of labels, a number of classes)."""
        return ()

    @cached_property
    def listing(self) -> Listing:
        """All images of the dataset; read at the first use, which needs ``prepare_data`` to have been called.

        Raises:
            DataError: the data are missing, damaged or not what the suite knows; names dataset, file and remedy.
        """
        from fgbench.data.index import read_digests, read_ranks

        listing = self.read_indexed()
        if listing is None:
            return self.read_sized().with_validation(self.val_fraction)
        self._digests = read_digests(self.index_path())
        return listing.with_validation(self.val_fraction, read_ranks(self.index_path()) if self.val_fraction else None)

    def read_indexed(self) -> Listing | None:
        """What the index lists, before any validation cut; None where there is no index.

        Raises:
            DataError: it is damaged, or other files are there than those that it was made from.
        """
        from fgbench.data.index import read_index

        path, remedy = self.index_path(), f"Make it again: fgbench data prepare {self.name}"
        try:
            return read_index(path, self.root, remedy, self.sources()) if path.is_file() else None
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from None

    def index_path(self) -> Path:
        """Where the index of this dataset, with these arguments, is or would be."""
        return self.root / "index" / f"{self.name}-{knobs_digest(self.index_key())}.parquet"

    def read_sized(self, tolerant: bool = False) -> Listing:
        """What ``read`` lists, checked, with the sizes of all images; never from an index.

        Args:
            tolerant: whether listed images may be absent or damaged; their sizes are 0 then.

        Raises:
            DataError: the data are missing or damaged, an image is no image; names dataset, file and remedy.
        """
        from fgbench.data.images import image_sizes

        with self._named():
            listing = self.read_lists() if tolerant else self.read()
            self._check(listing)
            if listing.sizes is None:
                sizes = image_sizes([listing.path(row) for row in range(len(listing.names))], tolerant=tolerant)
                sizes[:, 0] = (sizes[:, 0] - self.bottom).clip(min=0)
                listing = in_frame(replace(listing, sizes=sizes), self.scales_boxes)
        return listing

    def read_lists(self) -> Listing:
        """What ``read`` lists, whether or not the images are there.

        Raises:
            DataError: lists or annotations are missing or damaged; names dataset, file and remedy.
        """
        from fgbench.data.files import lists_only

        with self._named(), lists_only():
            return self.read()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Every complaint names the dataset."""
        try:
            yield
        except (DataError, OSError, ValueError) as error:
            message = str(error)
            raise DataError(message if message.startswith(f"{self.name}: ") else f"{self.name}: {message}") from None

    def _check(self, listing: Listing) -> None:
        """What would otherwise end in a number that means nothing, or in an error in the middle of a run."""
        where = f"{listing.folder}: the lists give"
        splits: tuple[Split, ...] = ("train", "test", "val") if self.has_validation else ("train", "test")
        for split in splits:
            if not len(listing.rows(split)):
                raise DataError(f"{where} no {split} image; unpack the archive again")
        if len(listing.label_names) != self.num_outputs:
            raise DataError(f"{where} {len(listing.label_names)} labels where {self.num_outputs} are expected")
        if listing.target.ndim == 1 and not 0 <= listing.target.min() <= listing.target.max() < self.num_outputs:
            raise DataError(f"{where} labels from {listing.target.min()} to {listing.target.max()}, not 0 to k - 1")

    @property
    def label_groups(self) -> tuple[str, ...]:
        """For each class the larger group that it belongs to, whose accuracy is also given; empty without groups."""
        return self.listing.label_groups

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of classes or attributes, in the order of the outputs."""
        return self.listing.label_names

    @property
    def landmark_names(self) -> tuple[str, ...]:
        """Names of the landmarks; empty where the dataset has none."""
        return self.listing.landmark_names

    def mask_folder(self) -> Path:
        """Where the masks are, under the names of the images; asked where there are ``mask_names``."""
        raise NotImplementedError

    def split_size(self, split: Split) -> int:
        """How many images a split has."""
        return len(self.listing.rows(split))

    def split_ids(self, split: Split) -> Int[ndarray, " n"]:
        """The ``image_id`` of each image of a split."""
        ids: Int[ndarray, " n"] = self.listing.image_id[self.listing.rows(split)]
        return ids

    def sizes(self) -> dict[str, int]:
        """``n_train`` (without the validation cut) and ``n_test``."""
        return {"n_train": self.split_size("train"), "n_test": self.split_size("test")}

    def digest(self) -> str:
        """SHA-256 over lists, splits and annotations."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        listing = self.listing
        return (self._digests or {}).get(str(self.val_fraction)) or listing.digest()

    def rows_of(self, image_id: Int[ndarray, " n"]) -> Int[ndarray, " n"]:
        """Rows of the listing, by the numbers of their images."""
        order = np.argsort(self.listing.image_id)
        rows: Int[ndarray, " n"] = order[np.searchsorted(self.listing.image_id, image_id, sorter=order)]
        return rows


def knobs_digest(knobs: object) -> str:
    """Twelve digits that name a folder of generated data."""
    return hashlib.sha256(repr(knobs).encode()).hexdigest()[:12]
