"""Part consistency and part stability: does a part mark the same landmark in every image, and under noise?

*Source:* Huang et al., "Evaluation and Improvement of Interpretability for Self-Explainable Part-Prototype Networks",
ICCV 2023, and the authors' code, which gives the window, the thresholds and the noise.

*Definition.* A part's peak is its map's largest pixel in the resized map. The part marks a visible landmark that lies
in the square window of half a side ``36 / 224`` of the box's width and height around the peak, edges included.
``rate`` is the share, of a unit's images that show the landmark, in which it is marked. **Consistency** is the share
of units with a landmark of rate >= 0.8, in percent, higher is better. **Stability** is the share, over images and
units, whose set of marked landmarks stays the same when normally distributed noise of deviation 0.2, cut at +-0.25, is
added to the normalised image; percent, higher is better. The noise depends on the image's id and a seed only.

*Units.* Where parts belong to classes (channels or prototypes of the predicted class), a unit is a part of a class,
and its images are those of the class that are recognised: ``part_consistency``, ``part_stability``, the paper's. Where
they belong to no class, a unit is a part, its images all those of the split: ``part_consistency_agnostic``,
``part_stability_agnostic``, a column of its own, since marking the same landmark on all classes asks for more. A method
may have both (``Output.bound_parts`` beside ``parts``): ProtoPNet's prototypes, for which the paper defines the two
measures, and groups of them.

*Left out:* images without a valid box where the dataset's frame is a box (elsewhere the window is in the input's
sides); units without an image. A part that marks nothing in either image is stable: ``part_stability_blank`` is the
share of units and images for which the clean image's window holds no landmark. NaN: no unit.

*Floors* (consistency): ``image_centre``, ``box_centre`` (one point as the only part) and ``random_parts``. The box's
centre may well be consistent: some landmark is mostly near it. *Floor* (stability): ``redrawn``, random points drawn
anew for the noisy image. Points that look at nothing are perfectly stable; read stability beside consistency.

*Deviations:* the network sees the protocol's view, not a crop to the box squashed to 224 pixels; the window is the
same in units of the box. Maps are resized bilinearly, not bicubically, and windows are not cut to whole pixels.
Class-bound parts are those of the predicted class, hence recognised images only; the code takes the labelled class's
prototypes on all of its images. The code's noise is not seeded. Stability pools all pairs of unit and image; the code
takes each prototype's mean over its images first, then the mean of these, so that a class with few images (here: few
that are recognised) counts as much as any other. The two differ as much as classes differ in size and in stability.
Images of which no landmark is visible are left out of stability; in the code they are stable.

*Exact:* counts (int64); rates are compared with 0.8 in whole numbers.
"""

from typing import Literal

import torch
import torchmetrics
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fgbench.metrics import maps
from fgbench.metrics.base import BenchMetric, Points
from fgbench.metrics.landmark_error import frame_of
from fgbench.types import Batch, Output

HALF = 36 / 224  # half a window's side, in sides of the box
RATE = (4, 5)  # 0.8 as a ratio of whole numbers
DEVIATION, LIMIT = 0.2, 0.25  # of the noise, in units of normalised pixels
Field = Literal["parts", "bound_parts"]
UNITS = {"parts": "part_units", "bound_parts": "bound_part_units"}
BLANK = {"parts": "part_stability_blank", "bound_parts": "bound_part_stability_blank"}


def marked(
    peaks: Float[Tensor, "b p 2"], batch: Batch, in_boxes: bool
) -> tuple[Bool[Tensor, "b p l"], Bool[Tensor, " b"]]:
    """Which visible landmarks lie in the windows around peaks, and whether the image has a frame for windows."""
    if in_boxes:
        _, side, _, framed = frame_of(batch, "box")
    else:
        sides = [torch.full((), size, dtype=torch.float64, device=peaks.device) for size in batch.image.shape[:1:-1]]
        side = torch.stack(sides).expand(len(peaks), 1, 2)
        framed = torch.ones(len(peaks), dtype=torch.bool, device=peaks.device)
    offset = (batch.landmarks.double()[:, None] - peaks.double()[:, :, None]).abs()
    inside = (offset <= HALF * side[:, None]).all(-1)
    return inside & batch.visible[:, None], framed


class PartConsistency(BenchMetric):
    """``part_consistency``, or ``part_consistency_agnostic``.

    Args:
        landmarks: number of landmarks.
        parts: number of parts.
        classes: number of classes that parts belong to; 0 where they belong to none.
        in_boxes: windows are in units of boxes; else in those of the input.
        floors: by name, the number of points that stand in for the parts.
        field: of the Output, which has the parts.
    """

    higher_is_better = True
    needs = "parts"
    hits: Tensor
    seen: Tensor

    def __init__(
        self,
        landmarks: int,
        parts: int,
        classes: int = 0,
        in_boxes: bool = True,
        floors: dict[str, int] | None = None,
        field: Field = "parts",
    ) -> None:
        super().__init__()
        self.field = field
        self.name = "part_consistency" if classes else "part_consistency_agnostic"
        self.classes, self.in_boxes, self.floors = classes, in_boxes, {"": parts, **(floors or {})}
        groups, points = max(1, classes), sum(self.floors.values())
        self.add_state("hits", torch.zeros(groups, points, landmarks, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros(groups, landmarks, dtype=torch.int64), dist_reduce_fx="sum")

    def columns(self, output: Output, batch: Batch, floors: Points | None = None) -> dict[str, Tensor]:
        """``marked`` ``b n l`` for the points of method and floors, ``part_image`` ``b``: whether the image counts."""
        parts = getattr(output, self.field)
        if parts is None:
            raise ValueError(f"consistency: the method has no {self.field}; leave the metric out for this method")
        own = maps.peaks(parts, *batch.image.shape[2:])
        others = [(floors or {})[name][:, :count] for name, count in self.floors.items() if name]
        found, framed = marked(torch.cat([own, *others], dim=1), batch, self.in_boxes)
        if self.classes:
            framed = framed & (output.logits.argmax(1) == batch.target)
        return {"marked": found, "part_image": framed}

    def update(self, columns: dict[str, Tensor], batch: Batch) -> None:
        """Add an image's counts to its group."""
        counted = columns["part_image"]
        hits = (columns["marked"] & counted[:, None, None]).long()
        seen = (batch.visible & counted[:, None]).long()
        group = batch.target if self.classes else torch.zeros_like(batch.image_id)
        self.hits = self.hits.index_add(0, group, hits)
        self.seen = self.seen.index_add(0, group, seen)

    def compute(self) -> dict[str, Tensor]:
        """Percentages, and the number of the method's units."""
        above, below = RATE
        consistent = ((below * self.hits >= above * self.seen[:, None]) & (self.seen[:, None] > 0)).any(2)
        counted = (self.seen > 0).any(1)
        result, start = {}, 0
        for floor, count in self.floors.items():
            units = consistent[:, start : start + count][counted]
            start += count
            result[self.name + (f"/{floor}" if floor else "")] = 100 * units.double().mean()
        result[UNITS[self.field]] = counted.sum() * self.floors[""]
        return result


def noise(image: Float[Tensor, "b 3 h w"], image_id: Int64[Tensor, " b"], seed: int = 0) -> Float[Tensor, "b 3 h w"]:
    """Normally distributed, cut at ``LIMIT``; of each image, whatever its batch."""
    drawn = torch.stack(
        [
            torch.randn(image.shape[1:], generator=torch.Generator().manual_seed((int(number) << 8) + seed))
            for number in image_id.tolist()
        ]
    )
    return (drawn * DEVIATION).clamp(-LIMIT, LIMIT).to(image)


class PartStability(torchmetrics.Metric):
    """``part_stability``, or ``part_stability_agnostic``: counts of part and image pairs.

    Args:
        bound: whether parts belong to classes.
        in_boxes: as in ``PartConsistency``.
        field: as in ``PartConsistency``.
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor

    def __init__(self, bound: bool = False, in_boxes: bool = True, field: Field = "parts") -> None:
        super().__init__()
        self.field = field
        self.name = "part_stability" if bound else "part_stability_agnostic"
        self.bound, self.in_boxes = bound, in_boxes
        self.add_state("counts", torch.zeros(5, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, clean: Output, noisy: Output, batch: Batch, points: tuple[Tensor, Tensor]) -> None:
        """Add a batch: what the method says of it without and with noise, and two draws of random points."""
        found = []
        for said in (clean, noisy):
            parts = getattr(said, self.field)
            if parts is None:
                raise ValueError(f"stability: the method has no {self.field}; leave the metric out for this method")
            found.append(marked(maps.peaks(parts, *batch.image.shape[2:]), batch, self.in_boxes))
        (before, framed), (after, _) = found
        drawn = [marked(point, batch, self.in_boxes)[0] for point in points]
        counted = framed & batch.visible.any(1)
        if self.bound:
            counted = counted & (clean.logits.argmax(1) == batch.target)
        pairs = counted[:, None].expand(before.shape[:2])
        same = (before == after).all(2) & pairs
        blank = ~before.any(2) & pairs
        redrawn = (drawn[0] == drawn[1]).all(2) & counted[:, None]
        sums = [pairs.sum(), same.sum(), blank.sum(), redrawn.sum(), counted.sum() * redrawn.shape[1]]
        self.counts = self.counts + torch.stack(sums)

    def compute(self) -> dict[str, Tensor]:
        """Percentages."""
        pairs, same, blank, redrawn, points = self.counts.double().unbind()
        shares = {self.name: same / pairs, BLANK[self.field]: blank / pairs, f"{self.name}/redrawn": redrawn / points}
        return {name: 100 * share for name, share in shares.items()}
