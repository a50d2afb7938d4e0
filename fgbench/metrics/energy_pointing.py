"""Energy pointing game: how much of the saliency lies on the object?

*Source:* Wang et al., *Score-CAM*, CVPR workshops 2020.

*Definition.* The saliency is resized to the input (bilinear, pixel centres aligned); of its sum the share on pixels
whose centre lies in any of the image's boxes (edges included), mean over images. Percent, higher is better.
``energy_pointing_mask``: on pixels of true parts instead, where the dataset has masks.

*Left out:* images without a valid box that reaches into the input (without a pixel of the mask), counted in
``energy_left_out``. A map that sums to 0, or is NaN or infinite somewhere, says nothing and counts 0 (other suites
leave it out, which rewards silence). NaN: no image.

*Floors:* ``area``, the share of pixels that count, which a constant map reaches: print it beside the number, for on
large objects everything is near it. ``centre_map`` and ``random_map``: a Gaussian at the image's centre, and noise.

*Deviation:* the authors' code exchanges the axes of the box for maps stored row by row; the share is meant and
measured.

*Exact:* shares are summed as integers of 2^-30. The map is not resized: the share is linear in it, so the region's
pixels are handed down to the cells once.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from fgbench.metrics import maps
from fgbench.metrics.base import BenchMetric, Points
from fgbench.types import Batch, Output

FLOORS = ("centre_map", "random_map")


def weights(cells: int, pixels: int, device: torch.device) -> Float64[Tensor, "n c"]:
    """What each cell contributes to each pixel of a row that is resized."""
    position = ((torch.arange(pixels, dtype=torch.float64, device=device) + 0.5) * cells / pixels - 0.5).clamp(
        0, cells - 1
    )
    distance = (position[:, None] - torch.arange(cells, device=device)).abs()
    return (1 - distance).clamp(min=0)


class Region(NamedTuple):
    """Where saliency should lie: pixels, or rows and columns of a single box, which cost less."""

    rows: Float64[Tensor, "b h"]
    cols: Float64[Tensor, "b w"]
    pixels: Float64[Tensor, "b h w"] | None = None

    @property
    def area(self) -> Float64[Tensor, " b"]:
        """Its share of the input."""
        found: Tensor = self.rows.mean(1) * self.cols.mean(1) if self.pixels is None else self.pixels.mean((1, 2))
        return found

    def within(self, down: Float64[Tensor, "h u"], across: Float64[Tensor, "w v"]) -> Float64[Tensor, "b u v"]:
        """How much of each cell's weight lies in it."""
        if self.pixels is None:
            return (self.rows @ down)[:, :, None] * (self.cols @ across)[:, None]
        found: Tensor = down.T @ (self.pixels @ across)
        return found


def region_of(batch: Batch, masks: bool = False) -> Region:
    """Pixels of true parts, or those whose centre lies in any of an image's boxes, edges included."""
    height, width = batch.image.shape[2:]
    boxes = batch.boxes
    along = []
    for axis, pixels in ((1, height), (0, width)):
        centre = torch.arange(pixels, dtype=torch.float32, device=boxes.device) + 0.5
        inside = (centre >= boxes[..., axis, None]) & (centre <= boxes[..., axis + 2, None])
        along.append((inside & batch.box_valid[..., None]).double())
    rows, cols = (found[:, 0] if found.shape[1] else found.sum(1) for found in along)
    if masks:
        return Region(rows, cols, (maps.masks_of(batch) > 0).double())
    if boxes.shape[1] < 2:
        return Region(rows, cols)
    return Region(rows, cols, (torch.einsum("bnh,bnw->bhw", *along) > 0).double())


def energy(saliency: Float[Tensor, "b u v"], region: Region) -> Float64[Tensor, " b"]:
    """The share of the resized map's sum that lies in the region; 0 for a map without a sum."""
    sides = region.rows.shape[1], region.cols.shape[1]
    down, across = (weights(c, n, saliency.device) for c, n in zip(saliency.shape[1:], sides, strict=True))
    values = maps.finite(saliency[:, None])[:, 0]
    total = (values * (down.sum(0)[:, None] * across.sum(0))).sum((1, 2))
    inside = (values * region.within(down, across)).sum((1, 2))
    return torch.where(total > 0, inside / torch.where(total > 0, total, 1.0), 0.0).clamp(max=1)


class EnergyPointing(BenchMetric):
    """``energy_pointing``, or ``energy_pointing_mask``.

    Args:
        masks: measure on masks instead of boxes.
        floors: names of the maps that stand in for the saliency.
    """

    higher_is_better = True
    needs = "saliency"
    total: Tensor
    count: Tensor
    left_out: Tensor

    def __init__(self, masks: bool = False, floors: tuple[str, ...] = FLOORS) -> None:
        super().__init__()
        self.masks = masks
        self.name = "energy_pointing_mask" if masks else "energy_pointing"
        self.predictors = ("", *floors, "area")
        self.add_state("total", torch.zeros(len(self.predictors), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("left_out", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def columns(self, output: Output, batch: Batch, floors: Points | None = None) -> dict[str, Tensor]:
        """``<name>`` ``b s``: shares of method and floors, NaN where there is no region."""
        if output.saliency is None:
            raise ValueError("energy pointing: the method has no saliency; leave the metric out for this method")
        region = region_of(batch, self.masks)
        area = region.area
        found = [energy(output.saliency, region)]
        found += [energy((floors or {})[name], region) for name in self.predictors[1:-1]]
        shares = torch.stack([*found, area], dim=1)
        return {self.name: torch.where(area[:, None] > 0, shares, torch.nan)}

    def update(self, columns: dict[str, Tensor], batch: Batch) -> None:
        """Add shares."""
        shares = columns[self.name]
        counted = ~shares[:, -1].isnan()
        self.total = self.total + maps.share(shares, counted[:, None].expand_as(shares)).sum(0)
        self.count = self.count + counted.sum()
        self.left_out = self.left_out + (~counted).sum()

    def compute(self) -> dict[str, Tensor]:
        """Percentages."""
        means = 100 * self.total.double() / maps.UNIT / self.count
        names = [self.name + (f"/{floor}" if floor else "") for floor in self.predictors]
        suffix = "_mask" if self.masks else ""
        return {**dict(zip(names, means, strict=True)), f"energy_left_out{suffix}": self.left_out}
