"""What every dataset is: splits, views, loaders, digest. A dataset adds where its files are and how they are read."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from jaxtyping import Int
from lightning import LightningDataModule
from numpy import ndarray
from torch.utils.data import DataLoader, Sampler

from fgbench.data.archives import Archive
from fgbench.data.card import Card
from fgbench.data.listing import Listing, Split
from fgbench.data.samplers import EvalBatches, Key, TrainBatches
from fgbench.data.text import DataError
from fgbench.data.view import View
from fgbench.types import Batch, Target

if TYPE_CHECKING:
    from fgbench.data.dataset import ImageDataset


class BenchDataModule(LightningDataModule):
    """A dataset under its protocol.

    A subclass sets the class attributes, ``num_outputs``, and implements ``read`` and ``sources``; where data can be
    made, also ``prepare_data``; where arguments of its own choose what is listed, also ``index_key``.

    Args:
        batch_size: of the global training batch; divided over the processes, refused if it does not divide.
        eval_batch_size: images per process and step in evaluation.
        train_view: what training sees.
        test_view: what validation and test see.
        locate_view: what landmark regressors and the pointing game see; None means the same as ``test_view``.
        val_fraction: share of the training images of each class that is kept for validation; the same images whatever
            the seed.
        validate_on_test: validate on the test split, as some papers did; only for ``legacy_best_on_test``.
        pointing_tolerances: of the pointing game, in pixels of the original files: a point this near to a box is a hit.
            The first is 0, the headline number; the others are reported beside it.
        seed: of the order of images and of the views' random choices.
        root: folder of all datasets; None means ``data``. Changes no number.
        workers: loader processes per training process. Changes no number.
        cache: ``ram`` keeps decoded images in memory, of each worker process. Changes no number.
    """

    card: ClassVar[Card]
    target: ClassVar[Target] = "class"
    landmark_frame: ClassVar[Literal["box", "interocular"] | None] = None
    has_boxes: ClassVar[bool] = False
    has_validation: ClassVar[bool] = False  # an official validation split, which no paper trains on
    landmark_classes: ClassVar[tuple[int, ...]] = ()  # classes whose landmark error is also measured by itself
    archives: ClassVar[tuple[Archive, ...]] = ()  # what its makers distribute; ``fgbench data prepare`` unpacks them
    copy_short: ClassVar[int] = 0  # pixels: prepare makes copies whose short side is this at most, 0 makes none
    slack: ClassVar[float] = 1.0  # pixels by which official boxes and landmarks may stick out of their image
    num_outputs: int
    bottom: int = 0  # rows of pixels at the bottom of each file that are no part of the image

    def __init__(
        self,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        train_view: View = View(),  # noqa: B008 (frozen)
        test_view: View = View(),  # noqa: B008
        locate_view: View | None = None,
        val_fraction: float = 0.0,
        validate_on_test: bool = False,
        pointing_tolerances: tuple[float, ...] = (0.0, 15.0),
        seed: int = 0,
        root: str | None = None,
        workers: int = 0,
        cache: Literal["none", "ram"] = "none",
    ) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise ValueError(f"batch_size {batch_size} and eval_batch_size {eval_batch_size} must be 1 or more")
        if test_view.is_random or (locate_view is not None and locate_view.is_random):
            raise ValueError(
                "test_view and locate_view must have no random crop, flip or brightness: a test is repeatable"
            )
        if validate_on_test and val_fraction:
            raise ValueError("validate_on_test and val_fraction exclude each other: set one of them only")
        if pointing_tolerances[:1] != (0.0,) or sorted(set(pointing_tolerances)) != list(pointing_tolerances):
            raise ValueError(f"pointing_tolerances are {pointing_tolerances}, but must be ascending and begin with 0")
        if self.has_validation and val_fraction:
            raise ValueError(f"{self.name} has an official validation split: leave val_fraction at 0")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.pointing_tolerances = pointing_tolerances
        self.train_view, self.test_view = train_view, test_view
        self.locate_view = locate_view if locate_view != test_view else None
        self.val_fraction, self.validate_on_test, self.seed = val_fraction, validate_on_test, seed
        self.root = Path(root or "data")
        self.workers, self.cache = workers, cache

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
        try:
            listing = self.read()
            self._check(listing)
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from None
        return listing.with_validation(self.val_fraction)

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

    def setup(self, stage: str) -> None:
        """Read lists and annotations, so that what is wrong with them is said before a model is built."""
        _ = self.listing

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of classes or attributes, in the order of the outputs."""
        return self.listing.label_names

    @property
    def landmark_names(self) -> tuple[str, ...]:
        """Names of the landmarks; empty where the dataset has none."""
        return self.listing.landmark_names

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
        return self.listing.digest()

    def train_dataloader(self) -> DataLoader[Batch]:
        """The train split, shuffled by seed and epoch, through the training view."""
        batches = TrainBatches(self.listing.rows("train"), self.batch_size, self.seed)
        if self.trainer is not None:
            # a resumed run starts its worker processes before Lightning calls set_epoch, and they read ahead at once
            batches.set_epoch(self.trainer.current_epoch)
        return self._loader(self.train_view, batches)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """The validation split or cut (or the test split, for legacy protocols); an empty list if there is none."""
        if self.validate_on_test:
            return self.eval_loader("test", self.test_view)
        return self.eval_loader("val", self.test_view) if self.val_fraction or self.has_validation else []

    def fit_dataloader(self) -> DataLoader[Batch]:
        """What the landmark regressors are fitted on (mostly the train split): the locating view, in fixed order."""
        return self.eval_loader("fit", self.locate_view or self.test_view)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test split through the test view."""
        return self.eval_loader("test", self.test_view)

    def locate_dataloader(self) -> DataLoader[Batch] | None:
        """The test split through the locating view; None where that is the test view."""
        return None if self.locate_view is None else self.eval_loader("test", self.locate_view)

    def dataset(self, view: View) -> "ImageDataset":
        """All images, of all splits, through a view; index it with rows of ``listing``."""
        from fgbench.data.dataset import ImageDataset  # imports albumentations: 2 s that --help need not wait

        return ImageDataset(self.listing, view, self.seed, self.cache, self.bottom)

    def eval_loader(self, split: Split, view: View) -> DataLoader[Batch]:
        """Every image of a split once, shared exactly among the processes, in batches of one shape."""
        from fgbench.data.images import image_size

        rows, shapes = self.listing.rows(split), None
        if not view.fixes_shape and not self.one_size:
            sizes = [image_size(self.listing.path(row)) for row in rows.tolist()]
            shapes = [view.shape(height - self.bottom, width) for height, width in sizes]
        return self._loader(view, EvalBatches(rows, self.eval_batch_size, shapes))

    @property
    def one_size(self) -> bool:
        """Whether all files have the same height and width, so that their headers need not be read."""
        return False

    def _loader(self, view: View, batches: Sampler[list[Key]]) -> DataLoader[Batch]:
        from fgbench.data.dataset import collate

        return DataLoader(
            self.dataset(view),
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
        )


def knobs_digest(knobs: object) -> str:
    """Twelve digits that name a folder of generated data."""
    return hashlib.sha256(repr(knobs).encode()).hexdigest()[:12]
