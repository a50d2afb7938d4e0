"""The phase before ``fit``: what a method wants of a frozen network is computed for every image once, and stored.

Only for methods with a ``Preparation``. Several processes share the images exactly; a killed one resumes at the first
image that has no row. The images are seen in the test view, in float32, whatever the precision of training.

May import: data, methods, stores. Must not import: run, bench, cli. Reads: images, stores. Writes: the folder
``stores`` of the datasets' root.
"""

import contextlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from lightning import LightningModule, Trainer
from numpy import ndarray
from torch.utils.data import DataLoader

from fgbench.data.base import BenchDataModule
from fgbench.data.listing import Split
from fgbench.data.view import written
from fgbench.layers.boxes import to_original
from fgbench.methods import Method, Preparation
from fgbench.stores import StoreError, StoreReader, StoreWriter, hold, name_of
from fgbench.types import Batch


def say(text: str) -> None:
    """One line to a person."""
    print(text, file=sys.stderr, flush=True)


def key_of(preparation: Preparation, data: BenchDataModule) -> dict[str, Any]:
    """Everything that can change a stored value."""
    view = written(asdict(data.test_view))
    return {**preparation.key, "dtype": preparation.dtype, "data": data.name, "digest": data.digest(), "view": view}


def folder_of(preparation: Preparation, data: BenchDataModule) -> Path:
    """Where the rows are, or will be."""
    return data.root / "stores" / name_of(preparation.name, key_of(preparation, data))


def wanted_rows(data: BenchDataModule) -> Int64[ndarray, " r"]:
    """The images that any loader shows in the test view."""
    splits: tuple[Split, ...] = ("train", "val", "test") if data.locate_view else ("train", "val", "test", "fit")
    found: ndarray = np.unique(np.concatenate([data.listing.rows(split) for split in splits]))
    return found


class Preparer(LightningModule):
    """Fills a store; ``trainer.test`` drives it.

    Args:
        method: whose backbone normalises the images.
        preparation: what is computed.
        data: prepared and set up.
        cap_gb: most that all stores may take.
    """

    def __init__(self, method: Method, preparation: Preparation, data: BenchDataModule, cap_gb: float) -> None:
        super().__init__()
        self.backbone, self.module = method.backbone, preparation.module
        self.preparation, self.data, self.cap_gb = preparation, data, cap_gb
        self.folder = folder_of(preparation, data)

    def setup(self, stage: str) -> None:
        """Make the store, in one process; agree on what is missing before anybody writes."""
        if self.trainer.is_global_zero:
            self._create()
        self.trainer.strategy.barrier()
        self.writer = StoreWriter(self.folder, self.trainer.global_rank)
        self.missing = self.writer.reader.missing(wanted_rows(self.data))
        self.trainer.strategy.barrier()
        # every process needs one image at least: where fewer are missing, others are looked at again, but not written
        few = max(0, self.trainer.world_size - len(self.missing))
        spare = np.setdiff1d(wanted_rows(self.data), self.missing)[:few]
        self.shown = np.concatenate([self.missing, spare])

    def _create(self) -> None:
        if (self.folder / "key.json").exists():
            return
        view, listing = self.data.test_view, self.data.listing
        shapes = np.unique(view.shapes(listing.stored_sizes()[wanted_rows(self.data)]), axis=0)
        if len(shapes) > 1:
            raise StoreError(
                f"{self.data.name}: the test view makes inputs of {len(shapes)} shapes, {shapes[0].tolist()} for one; "
                "a store has rows of one shape: set data.init_args.test_view to resize: squash, or crop"
            )
        height, width = shapes[0].tolist()
        self.module.eval()
        with torch.no_grad():
            row = self.preparation.compute(torch.zeros(1, 3, height, width))
        shape, dtype = tuple(row.shape[1:]), np.dtype(self.preparation.dtype)
        key, advice = key_of(self.preparation, self.data), self.preparation.advice
        StoreWriter.create(self.folder, key, len(listing.names), shape, dtype, self.cap_gb, advice)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The images without a row, each once, dealt out exactly."""
        return self.data.loader_of(self.shown, self.data.test_view)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise on the device."""
        return batch._replace(image=self.backbone.normalise(batch.image))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Compute and write the rows of a batch."""
        made = self.preparation.compute(batch.image)
        found = (to_original(made, batch.frame) if self.preparation.boxes else made).cpu().numpy()
        rows = self.data.rows_of(batch.image_id.cpu().numpy())
        new = np.isin(rows, self.missing)
        self.writer.write(rows[new], found[new])

    def teardown(self, stage: str) -> None:
        """Close the files."""
        if hasattr(self, "writer"):
            self.writer.close()


def prepare(data: BenchDataModule, method: Method, trainer: Trainer, cap_gb: float) -> None:
    """Fill the method's store, if it has one; what is there already stays.

    Raises:
        StoreError: it cannot be filled; says why.
    """
    preparation = method.preparation()
    if preparation is None:
        return
    data.prepare_data()
    data.setup("test")
    module = Preparer(method, preparation, data, cap_gb)
    alone = hold(module.folder, say) if trainer.is_global_zero else contextlib.nullcontext()
    with alone:
        if trainer.world_size == 1 and _is_filled(module.folder, data):
            say(f"{module.folder}: all {len(wanted_rows(data)):,} images are there")
            return
        trainer.test(module, verbose=False)
        trainer.strategy.barrier()


def _is_filled(folder: Path, data: BenchDataModule) -> bool:
    return (folder / "key.json").exists() and not len(StoreReader(folder).missing(wanted_rows(data)))


def attach(data: BenchDataModule, method: Method) -> None:
    """Let the loaders hand on what was prepared for the method.

    Raises:
        StoreError: it is not there, not whole, or damaged.
    """
    preparation = method.preparation()
    if preparation is None:
        return
    data.prepare_data()
    data.setup("test")
    reader = StoreReader(folder_of(preparation, data))
    if len(left := reader.missing(wanted_rows(data))):
        raise StoreError(
            f"{reader.folder}: {len(left):,} images have no row; give the run's command: `prepare` goes on"
        )
    data.attach(reader, preparation.replaces_image)
