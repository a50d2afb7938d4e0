"""Prepared rows of the training split in the memory of the device that trains: read once, then handed out by place.

What travels per image is one number. Batches are the same as if the rows had come from the disk.
"""

import sys
import time
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, Shaped
from numpy import ndarray
from torch import Tensor

from fgbench.data.cache import free_memory
from fgbench.data.device import REPORT_EVERY
from fgbench.data.text import DataError
from fgbench.stores import StoreReader

SHARE = 0.5  # of a GPU's free memory that rows may take unasked; the rest is for training
AT_ONCE = 64  # rows sent together


@runtime_checkable
class Rows(Protocol):
    """What a dataset asks of a store."""

    def read(self, row: int) -> Shaped[ndarray, "..."]:
        """What was prepared for an image."""


class Places:
    """In place of each row of a split its place on the device.

    Args:
        rows: of the listing, in the order in which they lie on the device.
        count: images of the listing.
    """

    def __init__(self, rows: Int[ndarray, " n"], count: int) -> None:
        self.places = np.full(count, -1, np.int64)
        self.places[rows] = np.arange(len(rows))

    def read(self, row: int) -> Int[ndarray, ""]:
        """The place of an image."""
        return self.places[row : row + 1].reshape(())


def fits(reader: StoreReader, count: int, device: torch.device, asked: bool, name: str) -> bool:
    """Whether rows are to lie on the device: always where that is asked for, on a GPU where there is room.

    Raises:
        DataError: it is asked for, and there is no room.
    """
    if not asked and device.type != "cuda":
        return False  # the memory map is as near
    need = count * reader.row_bytes
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    if asked and need > free:
        raise DataError(
            f"{name}: cache: device needs {need / 1e9:.1f} GB on {device} for the prepared rows of {count:,} images, "
            f"but {free / 1e9:.1f} GB are free: set data.init_args.cache to none"
        )
    return asked or need <= SHARE * free


def load_rows(
    reader: StoreReader, rows: Int[ndarray, " n"], device: torch.device, name: str
) -> Shaped[Tensor, "n ..."]:
    """The rows, in order, on the device; says how far it is."""
    dtype = torch.from_numpy(np.empty(0, reader.dtype)).dtype
    found = torch.empty(len(rows), *reader.shape, dtype=dtype, device=device)
    said = time.monotonic()
    for start in range(0, len(rows), AT_ONCE):
        some = np.stack([reader.read(row) for row in rows[start : start + AT_ONCE].tolist()])
        found[start : start + len(some)] = torch.from_numpy(some).to(device)
        if time.monotonic() - said > REPORT_EVERY:
            print(f"{name}: {start:,} of {len(rows):,} prepared rows on {device}", file=sys.stderr, flush=True)
            said = time.monotonic()
    return found
