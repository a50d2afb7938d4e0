"""Focus: does a method that looks again and again over one frame look at less and less of it?

The thesis of Shroff (2020) shows with pictures that Grad-CAM of later steps is finer. These are numbers for it, from
``Output.steps``, the Grad-CAM maps of each step in the frame they have in common (a patch). Where several patches of an
image are averaged (``test_patch: mean_all``), maps are of the first patch alone, and weights means over all of them.

*Definition, area.* ``step_area``: share of the frame where a step's map, bilinearly resized to eight times its rows and
columns (half-pixel centres), is above half of its own maximum. Percent.

*Definition, entropy.* ``step_entropy``: of the map, cell by cell and divided by its sum: ``-sum p log p`` over the
logarithm of the number of cells. Percent; 100 is a constant map, 0 a single cell.

*Definition, overlap.* ``step_overlap``: cosine between the maps of a step and of the step before it. Percent; 100 is
the same map at another scale.

*Definition, weight.* ``step_weight``: what a step counts in the decision (``Output.step_weights``), in percent of all
steps where they sum to one.

Each is the mean over images, for each step (``details``; overlap from the second on). ``step_area_change`` and
``step_entropy_change`` are means over images of the last step's less the first one's, in percentage points: below zero
means that attention gets finer; ``step_overlap`` is the mean over steps and images. Left out: maps that are zero
everywhere, and differences and cosines with one of them. NaN: nothing left.

*Exact:* integer counts, and sums of shares in units of 2^-30.
"""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from fgbench.metrics.base import BenchMetric, Points
from fgbench.types import Batch, Output

UNIT = 2.0**30
LARGER = 8


def half_area(maps: Float[Tensor, "b t u v"]) -> Float64[Tensor, "b t"]:
    """Share of the resized map above half of its maximum; NaN for a map of zeros."""
    size = (LARGER * maps.shape[2], LARGER * maps.shape[3])
    large = interpolate(maps.double(), size, mode="bilinear", align_corners=False)
    peak = large.amax((2, 3), keepdim=True)
    return _unless_zero((large > 0.5 * peak).double().mean((2, 3)), maps)


def entropy(maps: Float[Tensor, "b t u v"]) -> Float64[Tensor, "b t"]:
    """In units of that of a constant map; NaN for a map of zeros."""
    cells = maps.double().flatten(2)
    share = cells / cells.sum(2, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    found = -torch.xlogy(share, share).sum(2) / math.log(max(2, cells.shape[2]))
    return _unless_zero(found, maps)


def neighbours(maps: Float[Tensor, "b t u v"]) -> Float64[Tensor, "b s"]:
    """Cosine between each map and the one before it; NaN where one of them is zero."""
    cells = maps.double().flatten(2)
    found = cosine_similarity(cells[:, 1:], cells[:, :-1], dim=2, eps=0.0)
    there = (cells[:, 1:].amax(2) > 0) & (cells[:, :-1].amax(2) > 0)
    return torch.where(there, found, torch.nan)


def _unless_zero(values: Tensor, maps: Tensor) -> Tensor:
    return torch.where(maps.amax((2, 3)) > 0, values, torch.nan)


class Focus(BenchMetric):
    """Area, entropy and overlap of ``steps`` maps.

    Args:
        steps: how many.
    """

    higher_is_better = False
    name = "step_area_change"
    sums: Tensor
    counts: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.lengths = [steps - 1, steps, 1, steps, 1, steps]  # overlap, area, its change, entropy, its change, weight
        values = sum(self.lengths)
        for state in ("sums", "counts"):
            self.add_state(state, torch.zeros(values, dtype=torch.int64), dist_reduce_fx="sum")

    def columns(self, output: Output, batch: Batch, floors: Points | None = None) -> dict[str, Tensor]:
        """``step_area``, ``_entropy``, ``_overlap`` and ``_weight`` of each image, NaN where not defined."""
        maps, weights = output.steps, output.step_weights
        if maps is None or weights is None or not maps.shape[1] == weights.shape[1] == self.steps:
            raise ValueError(f"focus: the method does not give the maps and weights of its {self.steps} steps")
        return {
            "step_area": half_area(maps),
            "step_entropy": entropy(maps),
            "step_overlap": neighbours(maps),
            "step_weight": weights.double(),
        }

    def update(self, columns: dict[str, Tensor], batch: Batch) -> None:
        """Add."""
        found = [columns["step_overlap"]]
        for name in ("step_area", "step_entropy"):
            found += [columns[name], columns[name][:, -1:] - columns[name][:, :1]]
        values = torch.cat([*found, columns["step_weight"]], 1)
        self.counts += values.isfinite().sum(0)
        self.sums += (values.nan_to_num() * UNIT).round().to(torch.int64).sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Percentages."""
        means = 100 * self.sums.double() / UNIT / self.counts
        overlap, area, area_change, entropies, entropy_change, weight = means.split(self.lengths)
        pairs = self.sums[: self.steps - 1].sum().double() / self.counts[: self.steps - 1].sum()
        return {
            "step_area_change": area_change[0],
            "step_entropy_change": entropy_change[0],
            "step_overlap": 100 * pairs / UNIT,
            "step_area_each": area,
            "step_entropy_each": entropies,
            "step_overlap_each": overlap,
            "step_weight_each": weight,
        }
