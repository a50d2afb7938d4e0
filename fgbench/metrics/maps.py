"""Part maps and saliency on the input's pixels, as every metric of parts reads them.

A map is resized bilinearly with pixel centres aligned (``align_corners=False``), in float64. A pixel belongs to the
part whose map is largest there, the first of equal ones; where no map is above 0 it belongs to no part, which is a
part of its own, the last. A map with NaN or infinity is read as zero everywhere. A floor's points stand for parts,
too: a pixel then belongs to the nearest of them.
"""

import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor

from fgbench.metrics.pointing_game import most_salient
from fgbench.types import Batch

UNIT = 2.0**30  # shares are summed as integers of 1 / UNIT, so that the order of addition does not show


def finite(maps: Float[Tensor, "b p u v"]) -> Float64[Tensor, "b p u v"]:
    """Non-negative maps in float64, zero where they are NaN or infinite anywhere."""
    found = maps.double().clamp(min=0)
    return torch.where(found.isfinite().all(-1).all(-1)[..., None, None], found, 0.0)


def resized(maps: Float[Tensor, "b p u v"], height: int, width: int) -> Float64[Tensor, "b p h w"]:
    """Maps on all pixels."""
    found: Tensor = torch.nn.functional.interpolate(finite(maps), (height, width), mode="bilinear", align_corners=False)
    return found


def peaks(maps: Float[Tensor, "b p u v"], height: int, width: int) -> Float64[Tensor, "b p 2"]:
    """The centre ``x y`` of each map's largest pixel, the first in reading order of equal ones."""
    found = most_salient(finite(maps).flatten(0, 1), height, width)
    return found.view(*maps.shape[:2], 2)


def values_at(
    maps: Float[Tensor, "b p u v"], points: Float[Tensor, "b l 2"], height: int, width: int
) -> Float64[Tensor, "b p l"]:
    """The resized maps at the pixels that points lie in (nearest to, outside), without resizing the rest."""
    cells = finite(maps)
    corners, weights = [], []
    for axis, pixels, count in ((1, height, maps.shape[2]), (0, width, maps.shape[3])):
        pixel = points[..., axis].double().floor().clamp(0, pixels - 1)
        position = ((pixel + 0.5) * count / pixels - 0.5).clamp(0, count - 1)
        before = position.floor()
        corners.append([before.long(), (before.long() + 1).clamp(max=count - 1)])
        weights.append([1 - (position - before), position - before])
    total = torch.zeros(*maps.shape[:2], points.shape[1], dtype=torch.float64, device=maps.device)
    flat = cells.flatten(2)
    for row, down in zip(corners[0], weights[0], strict=True):
        for col, across in zip(corners[1], weights[1], strict=True):
            index = (row * maps.shape[3] + col)[:, None].expand(-1, maps.shape[1], -1)
            total = total + flat.gather(2, index) * (down * across)[:, None]
    return total


def labels_of(values: Float64[Tensor, "b p ..."]) -> Int64[Tensor, "b ..."]:
    """The part of each place: the largest, or ``p``, none, where no value is above 0."""
    largest, part = values.max(1)
    return torch.where(largest > 0, part, values.shape[1])


def nearest(points: Float[Tensor, "b p 2"], places: Float[Tensor, "b n 2"]) -> Int64[Tensor, "b n"]:
    """The nearest of a floor's points to each place."""
    offset = points.double()[:, :, None] - places.double()[:, None]
    return offset.square().sum(-1).argmin(1)


def pixel_centres(height: int, width: int, device: torch.device) -> Float64[Tensor, "n 2"]:
    """``x y`` of all pixels' centres, in reading order."""
    rows = torch.arange(height, dtype=torch.float64, device=device) + 0.5
    cols = torch.arange(width, dtype=torch.float64, device=device) + 0.5
    return torch.stack([cols.expand(height, width), rows[:, None].expand(height, width)], dim=-1).flatten(0, 1)


def masks_of(batch: Batch) -> UInt8[Tensor, "b h w"]:
    """The true parts of each pixel.

    Raises:
        ValueError: the batch has none.
    """
    if batch.mask.ndim != 3:
        raise ValueError(
            "the batch has no masks; take the loaders of a datamodule whose mask_names say that it has some"
        )
    return batch.mask


def share(values: Float64[Tensor, "*n"], counted: Bool[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    """Shares as integers of ``1 / UNIT``, zero where they do not count."""
    return torch.where(counted, (values.nan_to_num() * UNIT).round(), 0.0).to(torch.int64)
