"""Parts and saliency against masks of true parts: pixels' NMI and ARI, part IoU, part pointing, saliency's IoU.

Only where a dataset has masks of parts (``Batch.mask``). Percent, higher is better.

*Definitions.* ``nmi_pixels``, ``ari_pixels``, ``nmi_foreground``, ``ari_foreground``: see ``agreement.py``.

``part_iou``: over all pixels of the split, the intersection over the union of a part's pixels and a true part's; one
part for one true part at most, dealt out so that the sum is largest (Kuhn and Munkres); mean over true parts. A true
part without a part counts 0, so ``p`` parts reach ``100 p / t`` at most: compare methods at equal ``p``.

``part_pointing``: the part-level pointing game. A part points at its map's largest pixel. One part for one true part
at most, dealt out so that the sum is largest; the share, of images that show the true part, in which its part points
at a pixel of it; mean over true parts. The same limit holds.

``mask_iou``: of the saliency, resized and cut at half of its maximum (at least half counts), with the pixels of all
true parts; mean over images. A map without a value above 0, or with NaN or infinity, counts 0. Half the maximum is a
convention (ours, as for containment in ``channels.py``): the threshold is not tuned on the masks.

*Left out:* true parts that no image of the split shows; from ``mask_iou`` images without a pixel of any, counted in
``images_without_mask``. NaN: nothing left.

*Floors:* ``random_parts`` (a pixel belongs to the nearest random point, which also is what a part points at), dealt
out with the same freedom; for ``mask_iou`` ``centre_map``, ``random_map``, and ``area``, the whole image.

*Source:* matching after the evaluation of unsupervised segmentation; ours, since no code of the field scores parts of
classifiers against part masks one to one.

*Exact:* counts of pixels (int64); ratios summed as integers of 2^-30.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fgbench.metrics import maps
from fgbench.metrics.agreement import agreement
from fgbench.metrics.base import BenchMetric, Points
from fgbench.types import Batch, Output

HALF_MAXIMUM = 0.5
FLOORS = ("centre_map", "random_map")


def matched(scores: Float64[Tensor, "p t"]) -> float:
    """The largest sum of scores, one part for one true part at most, over the number of true parts; NaN without any."""
    if not scores.shape[1]:
        return float("nan")
    table = scores.cpu().numpy()
    rows, cols = linear_sum_assignment(table, maximize=True)
    return float(np.sort(table[rows, cols]).sum() / table.shape[1])


def part_iou(table: Int64[Tensor, "p t"]) -> float:
    """From how often part and true part meet: the last row is no part, the first column no true part."""
    both = table[:-1, 1:].double()
    either = table.sum(1)[:-1, None] + table.sum(0)[None, 1:] - table[:-1, 1:]
    shown = table.sum(0)[1:] > 0
    return matched((both / either.clamp(min=1))[:, shown])


class MaskedParts(BenchMetric):
    """NMI and ARI over pixels, part IoU and part pointing.

    Args:
        parts: number of parts.
        true_parts: number of true parts, which are 1 and more in masks.
    """

    higher_is_better = True
    name = "part_iou"
    needs = "parts"
    table: Tensor
    pointed: Tensor
    shown: Tensor

    def __init__(self, parts: int, true_parts: int) -> None:
        super().__init__()
        self.parts, self.true_parts = parts, true_parts
        self.predictors = ("", "random_parts")
        shape = (len(self.predictors), parts + 1, true_parts + 1)
        self.add_state("table", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("pointed", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("shown", torch.zeros(true_parts, dtype=torch.int64), dist_reduce_fx="sum")

    def columns(self, output: Output, batch: Batch, floors: Points | None = None) -> dict[str, Tensor]:
        """``part_pixels`` ``b s n``: parts of all pixels; ``part_peaks`` ``b s p``: true parts under peaks."""
        if output.parts is None:
            raise ValueError("masks: the method has no parts; leave the metric out for this method")
        mask = maps.masks_of(batch)
        height, width = mask.shape[1:]
        points = (floors or {})["random_parts"]
        places = maps.pixel_centres(height, width, mask.device)
        own = maps.labels_of(maps.resized(output.parts, height, width).flatten(2))
        peaks = torch.stack([maps.peaks(output.parts, height, width), points.double()], dim=1)
        col, row = peaks.floor().long().unbind(-1)
        index = row.clamp(0, height - 1) * width + col.clamp(0, width - 1)
        true = mask.flatten(1).long()[:, None].expand(-1, 2, -1).gather(2, index)
        empty = maps.finite(output.parts).amax((2, 3)) <= 0
        true = torch.where(torch.stack([empty, torch.zeros_like(empty)], dim=1), 0, true)  # they point at nothing
        return {
            "part_pixels": torch.stack([own, maps.nearest(points, places.expand(len(mask), -1, -1))], dim=1),
            "part_peaks": true,
        }

    def update(self, columns: dict[str, Tensor], batch: Batch) -> None:
        """Count how often parts and true parts meet."""
        mask = maps.masks_of(batch).flatten(1).long()[:, None]
        width, device = self.true_parts + 1, self.table.device
        offset = torch.arange(len(self.predictors), device=device)[:, None] * (self.parts + 1)
        own = torch.arange(self.parts, device=device)
        where = (columns["part_pixels"] + offset) * width + mask
        self.table = self.table + _counts(where, self.table)
        self.pointed = self.pointed + _counts((own + offset) * width + columns["part_peaks"], self.pointed)
        true = torch.arange(1, width, device=device)[:, None]
        self.shown = self.shown + (mask == true).any(2).sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Percentages."""
        result = agreement(self.table, self.predictors, "pixels")
        result |= agreement(self.table[:, :, 1:], self.predictors, "foreground")
        seen = self.shown > 0
        rates = (self.pointed[:, :-1, 1:].double() / self.shown.clamp(min=1))[:, :, seen]
        for index, floor in enumerate(self.predictors):
            numbers = {"part_iou": part_iou(self.table[index]), "part_pointing": matched(rates[index])}
            for name, number in numbers.items():
                key = name + (f"/{floor}" if floor else "")
                result[key] = torch.tensor(100 * number, dtype=torch.float64)
        return result


def _counts(index: Int64[Tensor, "*n"], like: Int64[Tensor, "*m"]) -> Int64[Tensor, "*m"]:
    """How often each entry of a table of this shape is named."""
    flat = torch.zeros(like.numel(), dtype=torch.int64, device=like.device)
    return flat.scatter_add(0, index.flatten(), torch.ones_like(index.flatten())).view_as(like)


def saliency_iou(saliency: Float[Tensor, "b u v"], region: Bool[Tensor, "b h w"]) -> Float64[Tensor, " b"]:
    """Of the map cut at half of its maximum with a region."""
    found = maps.resized(saliency[:, None], *region.shape[1:])[:, 0]
    largest = found.amax((1, 2), keepdim=True)
    cut = (found >= HALF_MAXIMUM * largest) & (largest > 0)
    both, either = (cut & region).flatten(1).sum(1), (cut | region).flatten(1).sum(1)
    return both.double() / either.clamp(min=1)


class MaskIoU(BenchMetric):
    """``mask_iou``."""

    higher_is_better = True
    name = "mask_iou"
    needs = "saliency"
    total: Tensor
    count: Tensor
    without: Tensor

    def __init__(self, floors: tuple[str, ...] = FLOORS) -> None:
        super().__init__()
        self.predictors = ("", *floors, "area")
        self.add_state("total", torch.zeros(len(self.predictors), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("without", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def columns(self, output: Output, batch: Batch, floors: Points | None = None) -> dict[str, Tensor]:
        """``mask_iou`` ``b s`` of method and floors, NaN without a mask."""
        if output.saliency is None:
            raise ValueError("mask IoU: the method has no saliency; leave the metric out for this method")
        region = maps.masks_of(batch) > 0
        found = [saliency_iou(output.saliency, region)]
        found += [saliency_iou((floors or {})[name], region) for name in self.predictors[1:-1]]
        area = region.flatten(1).double().mean(1)
        return {"mask_iou": torch.where(area[:, None] > 0, torch.stack([*found, area], dim=1), torch.nan)}

    def update(self, columns: dict[str, Tensor], batch: Batch) -> None:
        """Add ratios."""
        values = columns["mask_iou"]
        counted = ~values[:, -1].isnan()
        self.total = self.total + maps.share(values, counted[:, None].expand_as(values)).sum(0)
        self.count = self.count + counted.sum()
        self.without = self.without + (~counted).sum()

    def compute(self) -> dict[str, Tensor]:
        """Percentages."""
        means = 100 * self.total.double() / maps.UNIT / self.count
        names = [self.name + (f"/{floor}" if floor else "") for floor in self.predictors]
        return {**dict(zip(names, means, strict=True)), "images_without_mask": self.without}
