"""What every dataset is: splits, views, loaders, digest. A dataset adds where its files are and how they are read."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from lightning import LightningDataModule
from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from fgbench.data.archives import Archive
from fgbench.data.cache import PixelCache, free_memory
from fgbench.data.card import Card
from fgbench.data.listing import Listing, Split, in_frame
from fgbench.data.resident import Places, fits, load_rows
from fgbench.data.samplers import EvalBatches, Key, TrainBatches
from fgbench.data.text import DataError
from fgbench.data.view import View
from fgbench.types import NOTHING, Batch, Target

if TYPE_CHECKING:
    from fgbench.data.dataset import ImageDataset
    from fgbench.data.device import DeviceImages
    from fgbench.stores import StoreReader


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
        cache: ``ram`` keeps resized images in memory, shared by the workers of a process; ``device`` keeps those of the
            training split on the device that trains and augments them there, or the prepared rows that replace them
            (which a GPU with room for twice as much keeps unasked). Changes no number.
    """

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
        cache: Literal["none", "ram", "device"] = "none",
    ) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise ValueError(f"batch_size {batch_size} and eval_batch_size {eval_batch_size} must be 1 or more")
        if test_view.is_random or (locate_view is not None and locate_view.is_random):
            raise ValueError(
                "test_view and locate_view must have no random crop, turn, flip or colours: a test is repeatable"
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
        self._caches: dict[tuple[str, int, Split], PixelCache] = {}
        self._digests: dict[str, str] = {}  # that an index knows, by val_fraction
        self._resident: DeviceImages | None = None
        self._free: int | None = None  # bytes for caches, once there is one
        self._prepared: StoreReader | None = None
        self._resident_rows: Tensor | None = None
        self._replaces = False

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
        return self._digests.get(str(self.val_fraction)) or listing.digest()

    def attach(self, prepared: "StoreReader", replaces_image: bool) -> None:
        """Let the loaders hand on prepared rows, which are of the test view.

        Args:
            prepared: a row for each of the listing's.
            replaces_image: images that have a row are not read; training then sees the test view, as the rows do.
        """
        self._prepared, self._replaces = prepared, replaces_image

    def rows_of(self, image_id: Int[ndarray, " n"]) -> Int[ndarray, " n"]:
        """Rows of the listing, by the numbers of their images."""
        order = np.argsort(self.listing.image_id)
        rows: Int[ndarray, " n"] = order[np.searchsorted(self.listing.image_id, image_id, sorter=order)]
        return rows

    def pictures(self, image_id: Int[ndarray, "*n"]) -> tuple[UInt8[ndarray, "*n h w 3"], Float[ndarray, "*n"]]:
        """Images by their numbers, in the test view, for figures; and the aspect of their pixels."""
        seen = self.dataset(self.test_view)
        items = [seen[row] for row in self.rows_of(image_id.reshape(-1)).tolist()]
        images = np.stack([item.image.permute(1, 2, 0).numpy() for item in items])
        aspects = np.array([float(item.aspect) for item in items])
        return images.reshape(*image_id.shape, *images.shape[1:]), aspects.reshape(image_id.shape)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The train split, shuffled by seed and epoch, through the training view."""
        batches = TrainBatches(self.listing.rows("train"), self.batch_size, self.seed)
        if self.trainer is not None:
            # a resumed run starts its worker processes before Lightning calls set_epoch, and they read ahead at once
            batches.set_epoch(self.trainer.current_epoch)
        if self._replaces:
            return self._loader(self.dataset(self.test_view), batches, self._placed())
        places = self._places() if self.cache == "device" else None
        return self._loader(self.dataset(self.train_view, cached="train", places=places), batches)

    def _placed(self) -> Places | None:
        """Places of prepared rows, if they are to lie on the device that trains; each process has its own copy."""
        if self._prepared is None or self.trainer is None:
            return None
        rows, device = self.listing.rows("train"), self.trainer.strategy.root_device
        there = fits(self._prepared, len(rows), device, self.cache == "device", str(self.name))
        return Places(rows, len(self.listing.names)) if there else None

    def _places(self) -> Int[ndarray, " n"]:
        from fgbench.data.device import places_of

        if self.train_view.is_lively:
            raise DataError(
                f"{self.name}: cache: device cuts, mirrors and brightens only, and train_view also asks for rotate, "
                "contrast, saturation or lighting: set data.init_args.cache to ram"
            )
        rows = self.listing.rows("train")
        shapes = self.train_view.resized_all(self.listing.stored_sizes()[rows])
        return places_of(rows, shapes, len(self.listing.names), str(self.name))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """As Lightning does; what is on the device already is taken there, and a shape without pixels stays one."""
        image, blank = batch.image, not any(batch.image.stride())
        if blank:
            batch = batch._replace(image=NOTHING)
        batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if blank:
            batch = batch._replace(image=torch.zeros(1, dtype=image.dtype, device=device).expand(image.shape))
        if batch.prepared.ndim == 1 and self._prepared is not None:
            if self._resident_rows is None:
                rows = self.listing.rows("train")
                self._resident_rows = load_rows(self._prepared, rows, device, str(self.name))
            batch = batch._replace(prepared=self._resident_rows[batch.prepared])
        if batch.image.ndim != 2:
            return batch
        if self._resident is None:
            self._resident = self._load_on(device)
        return batch._replace(image=self._resident(batch.image))

    def _load_on(self, device: torch.device) -> "DeviceImages":
        """The training split, resized, on the device."""
        from fgbench.data.device import DeviceImages, load

        rows, view = self.listing.rows("train"), self.train_view
        plain = self.dataset(View(resize=view.resize, size=view.size))
        every = EvalBatches(rows, self.eval_batch_size, place=(0, 1))  # each process its own copy
        height, width = self.listing.stored_sizes()[rows[0]].tolist()
        images = (batch.image for batch in self._loader(plain, every))
        pixels = load(images, len(rows), view.resized(height, width), device, str(self.name))
        return DeviceImages(pixels, view.shape(height, width))

    def pass_dataloader(self) -> DataLoader[Batch]:
        """Every image of the train split once, through the test view: what a method is shown between epochs."""
        return self.eval_loader("train", self.test_view)

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

    def dataset(
        self, view: View, cached: Split | None = None, places: Int[ndarray, " n"] | None = None
    ) -> "ImageDataset":
        """All images, of all splits, through a view; index it with rows of ``listing``.

        Args:
            view: what is to be seen of them.
            cached: the split whose images are kept in memory, where the datamodule's ``cache`` says so.
            places: of images whose pixels are on the device; see ``ImageDataset``.
        """
        from fgbench.data.dataset import ImageDataset  # imports albumentations: 2 s that --help need not wait

        kept = self._kept(view, cached) if cached and self.cache == "ram" else None
        return ImageDataset(self.listing, view, self.seed, kept, self.bottom, self.known_damaged, places)

    def _kept(self, view: View, split: Split) -> PixelCache:
        """Memory for a split's images, the same for all views that resize alike.

        Raises:
            DataError: there is not that much; said before any training.
        """
        if split == "fit" and not self.listing.has_fit:
            split = "train"
        key = (view.resize, view.size, split)
        if key not in self._caches:
            rows = self.listing.rows(split)
            shapes = view.resized_all(self.listing.stored_sizes()[rows])
            processes = 1 if self.trainer is None else int(self.trainer.num_devices)
            self._free = free_memory() if self._free is None else self._free
            need = 3 * int(shapes.prod(axis=1).sum()) * processes
            if need > self._free:
                raise DataError(
                    f"{self.name}: cache: ram needs {need / 1e9:.1f} GB for the {len(rows):,} images of the {split} "
                    f"split in {processes} processes, but {self._free / 1e9:.1f} GB of memory are free: "
                    "set data.init_args.cache to none"
                )
            self._free -= need
            self._caches[key] = PixelCache(rows, shapes, len(self.listing.names))
        return self._caches[key]

    def eval_loader(self, split: Split, view: View) -> DataLoader[Batch]:
        """Every image of a split once, shared exactly among the processes, in batches of one shape."""
        rows = self.listing.rows(split)
        dataset = self.dataset(view, cached=split)
        if split == "test" and self.mask_names:
            dataset = dataset.with_masks(self.mask_folder())
        return self._loader(dataset, self._batches(rows, view))

    def some_loader(self, rows: Int[ndarray, " n"], view: View) -> DataLoader[Batch]:
        """Some images once, shared exactly among the processes, with their masks if the dataset has any."""
        dataset = self.dataset(view)
        return self._loader(
            dataset.with_masks(self.mask_folder()) if self.mask_names else dataset, self._batches(rows, view)
        )

    def _batches(self, rows: Int[ndarray, " n"], view: View) -> EvalBatches:
        shapes = None if view.fixes_shape else view.shapes(self.listing.stored_sizes()[rows])
        return EvalBatches(rows, self.eval_batch_size, shapes)

    def loader_of(self, rows: Int[ndarray, " n"], view: View) -> DataLoader[Batch]:
        """Some images once, shared exactly among the processes; for a view that gives all of them one shape."""
        return self._loader(self.dataset(view), EvalBatches(rows, self.eval_batch_size))

    def _loader(
        self, dataset: "ImageDataset", batches: Sampler[list[Key]], placed: Places | None = None
    ) -> DataLoader[Batch]:
        from fgbench.data.dataset import collate

        has_rows = self._prepared is not None and (dataset.view == self.test_view or not self._replaces)
        if self._prepared is not None and has_rows:
            dataset = dataset.with_rows(placed or self._prepared, self._replaces)
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available() and not (has_rows and self._replaces),  # would fill in blank pixels
            persistent_workers=self.workers > 0,
        )


def knobs_digest(knobs: object) -> str:
    """Twelve digits that name a folder of generated data."""
    return hashlib.sha256(repr(knobs).encode()).hexdigest()[:12]
