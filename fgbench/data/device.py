"""A split's resized images in the memory of the device that trains, where each batch is cut, mirrored and brightened.

The random choices are those of ``augment.py``, drawn where they always are, and the batch is the same, byte for byte,
as if the pixels had come from there. What travels per image is five numbers.
"""

import sys
import time
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from fgbench.data.augment import Chosen
from fgbench.data.cache import free_memory
from fgbench.data.text import DataError

REPORT_EVERY = 10.0  # seconds between two lines of progress


def pack_choices(place: int, chosen: Chosen) -> Float[Tensor, "5"]:
    """For ``DeviceImages``: place, first column, step along a row (-1 in a mirror, else 1), first row, brightness."""
    a, _, c, _, _, f = chosen.move()
    return torch.tensor([place, c if a > 0 else c - 1, a, f, chosen.brightness], dtype=torch.float64)


def places_of(rows: Int[ndarray, " r"], shapes: Int[ndarray, "r 2"], count: int, name: str) -> Int[ndarray, " n"]:
    """The place of each of ``count`` images on the device, -1 for those that are not there.

    Args:
        rows: the images that are there, in order.
        shapes: height and width of each of them, resized.
        count: images of the listing.
        name: of the dataset, for messages.

    Raises:
        DataError: they are of several shapes.
    """
    if len(np.unique(shapes, axis=0)) > 1:
        raise DataError(
            f"{name}: cache: device keeps images of one shape, and train_view resizes them to several; use a view with "
            "resize: squash, or set data.init_args.cache to ram"
        )
    places = np.full(count, -1, np.int64)
    places[rows] = np.arange(len(rows))
    return places


class DeviceImages:
    """Resized images of one shape on a device.

    Args:
        pixels: ``n h w 3``, on the device.
        shape: height and width of the network's input.
    """

    def __init__(self, pixels: UInt8[Tensor, "n h w 3"], shape: tuple[int, int]) -> None:
        self.pixels = pixels
        self._rows = torch.arange(shape[0], device=pixels.device)
        self._columns = torch.arange(shape[1], device=pixels.device)

    def __call__(self, choices: Float[Tensor, "b 5"]) -> UInt8[Tensor, "b 3 h2 w2"]:
        """The batch; black where a padded image was cut beyond its border. Channels-last memory."""
        place, first, step, top = choices[:, :4].long().unbind(1)
        rows = top[:, None] + self._rows
        columns = first[:, None] + step[:, None] * self._columns
        height, width = self.pixels.shape[1:3]
        there = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        image = self.pixels[place[:, None, None], rows[:, :, None], columns[:, None]]
        bright = (image.float() * choices[:, 4].float()[:, None, None, None]).clamp(max=255).to(torch.uint8)
        return (bright * there[..., None]).permute(0, 3, 1, 2)


def load(
    batches: Iterable[UInt8[Tensor, "b 3 h w"]], count: int, shape: tuple[int, int], device: torch.device, name: str
) -> UInt8[Tensor, "n h w 3"]:
    """All images of a split on the device, read once; says how far it is.

    Args:
        batches: of resized images, in order.
        count: of all of them.
        shape: height and width of each.
        device: where to.
        name: of the dataset, for messages.

    Raises:
        DataError: they do not fit into the device's free memory.
    """
    need = 3 * count * shape[0] * shape[1]
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    if need > free:
        raise DataError(
            f"{name}: cache: device needs {need / 1e9:.1f} GB on {device} for {count:,} images of {shape[0]} x "
            f"{shape[1]}, but {free / 1e9:.1f} GB are free: set data.init_args.cache to ram or none"
        )
    pixels = torch.empty(count, *shape, 3, dtype=torch.uint8, device=device)
    done, said = 0, time.monotonic()
    for batch in batches:
        pixels[done : done + len(batch)] = batch.permute(0, 2, 3, 1).to(device, non_blocking=True)
        done += len(batch)
        if time.monotonic() - said > REPORT_EVERY:
            print(f"{name}: {done:,} of {count:,} images on {device}", file=sys.stderr, flush=True)
            said = time.monotonic()
    return pixels
