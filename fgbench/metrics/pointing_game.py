"""Pointing game: does the most salient point lie on the object?

*Definition.* The saliency is resized to the input, bilinear with pixel centres aligned (``align_corners=False``); the
centre of its largest pixel, the first in reading order of equal ones, is mapped to pixels of the original file. A hit
lies in any of the image's boxes, edges included. The error is the share of images without a hit, over images with a
box. Percent, lower is better. Huang and Li (CVPR 2020) on iNaturalist 2017. ``pointing_error_<t>px`` also accepts a
point within ``t`` original pixels of a box (Euclidean distance, ``<= t``), after Zhang et al. (2016), who take 15.

*Left out:* images without a valid box (``images_without_box``). NaN: no image with a box. A saliency with NaN or
infinity is a miss; a constant one points at the first pixel.

*Floors:* every set of points handed in (image centre, box centre, random point; the first point of each counts). The
box's centre always hits: it is the ceiling.

*Deviations:* TorchRay averages over classes and accepts ``< 15`` from a mask's pixels; here all images weigh the
same, boxes are continuous intervals, and ``SLACK`` forgives what float32 does to the edges of boxes.

*Exact:* states are integer counts; the resized map is evaluated in float64.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from fgbench.metrics.base import BenchMetric, Points
from fgbench.types import Batch, Output

SLACK = 1e-3  # original pixels


@lru_cache(maxsize=512)  # one entry per side length and map size; without a crop there are some hundred lengths
def _samples(
    cells: int, pixels: int, device: torch.device
) -> tuple[Int64[Tensor, " s"], Int64[Tensor, " s"], Int64[Tensor, " s"], Float64[Tensor, " s"]]:
    """The pixels where a resized map can be largest: the first and the last between two neighbouring cell centres.

    Between cell centres the resized map is linear along an axis, so it is largest at an end; and where it is
    constant, the first pixel in reading order is an end, too. A map of 14 cells needs 28 of 448 pixels.

    Returns:
        Their index, the cells before and after, and the weight of the cell after, which is a whole number out of
        ``2 * pixels``: products and sums of float32 values and such weights are exact in float64 (as long as the values
        are of similar size), so that equal pixels are equal, on a plateau and in symmetric peaks.
    """
    with torch.inference_mode(False):
        position = ((2 * torch.arange(pixels) + 1) * cells - pixels).clamp(0, 2 * pixels * (cells - 1))
        before = position // (2 * pixels)
        changes = before[1:] != before[:-1]
        edge = torch.ones(1, dtype=torch.bool)
        keep = torch.cat([edge, changes]) | torch.cat([changes, edge])
        after = (before + 1).clamp(max=cells - 1)
        weight = (position - 2 * pixels * before).double()
        found = (torch.arange(pixels), before, after, weight)
        return tuple(tensor[keep].to(device) for tensor in found)  # type: ignore[return-value]


def most_salient(saliency: Float[Tensor, "b u v"], height: int, width: int) -> Float64[Tensor, "b 2"]:
    """Centre ``x y``, in input pixels, of the largest pixel of a saliency map resized to ``height width``."""
    rows, above, below, down = _samples(saliency.shape[1], height, saliency.device)
    cols, left, right, across = _samples(saliency.shape[2], width, saliency.device)
    values = saliency.double()  # b u v -> b rows v -> b rows cols
    values = values[:, above] * (2 * height - down)[:, None] + values[:, below] * down[:, None]
    values = values[:, :, left] * (2 * width - across) + values[:, :, right] * across
    first = values.flatten(1).argmax(1)
    return torch.stack([cols[first % len(cols)], rows[first // len(cols)]], dim=-1).double() + 0.5


def to_original(points: Float[Tensor, "b n 2"], frame: Float[Tensor, "b 6"]) -> Float64[Tensor, "b n 2"]:
    """Points in input pixels as points in pixels of the original file."""
    affine = frame.double().view(-1, 2, 3)
    return points.double() @ affine[:, :, :2].mT + affine[:, None, :, 2]


def distance_to_boxes(
    points: Float[Tensor, "b p 2"], boxes: Float[Tensor, "b n 4"], box_valid: Bool[Tensor, "b n"]
) -> Float64[Tensor, "b p"]:
    """Distance of each point to the nearest valid box, 0 inside, infinite without a box."""
    corners = boxes.double().unflatten(-1, (2, 2))
    low, high = corners.amin(2)[:, None], corners.amax(2)[:, None]  # a flip exchanges the corners
    outside = torch.maximum(low - points[:, :, None], points[:, :, None] - high).clamp(min=0)
    distances = torch.where(box_valid[:, None], outside.norm(dim=-1), torch.inf)
    return torch.nn.functional.pad(distances, (0, 1), value=torch.inf).amin(2)


class PointingGame(BenchMetric):
    """``pointing_error`` and its variants with a tolerance, beside those of the floors.

    Args:
        tolerances: original pixels; the first must be 0.
        floors: names of the points that stand in for the most salient one.
    """

    higher_is_better = False
    name = "pointing_error"
    needs = "saliency"
    limits: Tensor
    hits: Tensor
    count: Tensor
    without_box: Tensor

    def __init__(self, tolerances: Sequence[float] = (0.0, 15.0), floors: Sequence[str] = ()) -> None:
        super().__init__()
        if tuple(tolerances[:1]) != (0,):
            raise ValueError(f"pointing game: the first of the tolerances must be 0, got {list(tolerances)}")
        self.predictors = ("", *floors)
        self.tolerances = tuple(tolerances)
        self.register_buffer("limits", torch.tensor(self.tolerances, dtype=torch.float64) + SLACK, persistent=False)
        shape = (len(self.predictors), len(self.tolerances))
        self.add_state("hits", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("without_box", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def columns(self, output: Output, batch: Batch, floors: Points | None = None) -> dict[str, Tensor]:
        """``hit``: 1 or 0, NaN without a box; ``pointing_distance``: original pixels to a box, per predictor."""
        if output.saliency is None:
            raise ValueError("pointing game: the method has no saliency; leave the metric out for this method")
        own = most_salient(output.saliency, batch.image.shape[2], batch.image.shape[3])
        points = torch.stack([own, *((floors or {})[name][:, 0].double() for name in self.predictors[1:])], dim=1)
        boxes = to_original(batch.boxes.double().unflatten(-1, (2, 2)).flatten(1, 2), batch.frame)
        boxes = boxes.unflatten(1, (-1, 2)).flatten(2)
        distance = distance_to_boxes(to_original(points, batch.frame), boxes, batch.box_valid)
        distance[:, 0] = torch.where(output.saliency.isfinite().flatten(1).all(1), distance[:, 0], torch.inf)
        hit = torch.where(batch.box_valid.any(1), (distance[:, 0] <= SLACK).float(), torch.nan)
        return {"hit": hit, "pointing_distance": distance}

    def update(self, columns: dict[str, Tensor], batch: Batch) -> None:
        """Count hits."""
        boxed = batch.box_valid.any(1)
        hits = (columns["pointing_distance"][..., None] <= self.limits) & boxed[:, None, None]
        self.hits += hits.sum(0)
        self.count += boxed.sum()
        self.without_box += (~boxed).sum()

    def compute(self) -> dict[str, Tensor]:
        """Percentages."""
        errors = 100 * (self.count - self.hits).double() / self.count
        result = {"images_without_box": self.without_box, "images_with_box": self.count}
        for index, tolerance in enumerate(self.tolerances):
            name = self.name if tolerance == 0 else f"{self.name}_{tolerance:g}px"
            for predictor, floor in enumerate(self.predictors):
                result[name + (f"/{floor}" if floor else "")] = errors[predictor, index]
        return result
