"""What every dataset is: its lists (``listed``) through views, in loaders. A dataset adds how its files are read."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from lightning import LightningDataModule
from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from fgbench.data.cache import PixelCache, free_memory
from fgbench.data.listed import Listed
from fgbench.data.listing import Split
from fgbench.data.resident import Places, fits, load_rows
from fgbench.data.samplers import EvalBatches, Key, TrainBatches
from fgbench.data.text import DataError
from fgbench.data.view import View
from fgbench.types import NOTHING, Batch

if TYPE_CHECKING:
    from fgbench.data.dataset import ImageDataset
    from fgbench.data.device import DeviceImages
    from fgbench.stores import StoreReader


class BenchDataModule(Listed, LightningDataModule):
    """A dataset under its protocol; a subclass adds what ``Listed`` asks for.

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
            (which a GPU with room for twice as much keeps unasked), and those of other splits in memory. Changes no
            number.
    """

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
        self._resident: DeviceImages | None = None
        self._free: int | None = None  # bytes for caches, once there is one
        self._prepared: StoreReader | None = None
        self._resident_rows: Tensor | None = None
        self._replaces = False

    def setup(self, stage: str) -> None:
        """Read lists and annotations, so that what is wrong with them is said before a model is built."""
        _ = self.listing

    def attach(self, prepared: "StoreReader", replaces_image: bool) -> None:
        """Let the loaders hand on prepared rows, which are of the test view.

        Args:
            prepared: a row for each of the listing's.
            replaces_image: images that have a row are not read; training then sees the test view, as the rows do.
        """
        self._prepared, self._replaces = prepared, replaces_image

    @property
    def seen_view(self) -> View:
        """In which parts and saliency are measured and pictures are made; accuracy is of the test's."""
        return self.locate_view or self.test_view

    def shown(self) -> "ImageDataset":
        """All images as pictures show them, in the view that is searched for parts; with the rows that replace none."""
        dataset = self.dataset(self.seen_view)
        return dataset if self._prepared is None or self._replaces else dataset.with_rows(self._prepared, False)

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
        return self.eval_loader("fit", self.seen_view)

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

        in_memory = self.cache == "ram" or (self.cache == "device" and cached != "train")
        kept = self._kept(view, cached) if cached and in_memory else None
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
                    f"{self.name}: cache: {self.cache} needs {need / 1e9:.1f} GB for the {len(rows):,} images of the "
                    f"{split} split in {processes} processes, but {self._free / 1e9:.1f} GB of memory are free: "
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
