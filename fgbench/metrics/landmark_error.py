"""Landmark error: how well part centres tell where anatomical landmarks are (no landmark is used in training).

*Definition.* The centre of a part is the soft centroid of its whole map, not thresholded; cell ``(r, c)`` lies at
``((c + 0.5) w / v, (r + 0.5) h / u)``, and the centre of a map that sums to 0 is the image's centre. Per landmark,
one linear regressor maps the ``2 p`` coordinates of all parts' centres to the landmark's two; fitted on the images of
the fitting split in which the landmark is visible, inputs and targets standardised, no intercept, least norm where
there are fewer images than inputs (``regression.py``). The error is the mean L2 distance over all visible landmarks
of the evaluated split, pooled (not a mean of means), times 100. Percent of the frame's unit, lower is better. Frames:

* ``box``: centres and landmarks in coordinates of the ground-truth box, ``((x - x0) / w, (y - y0) / h)``, before the
  fit; the first valid box counts. Percent of the box's sides. The protocol of CUB-200-2011 in Huang and Li (CVPR
  2020).
* ``iod_prefit``: centres and landmarks in input pixels divided by the image's true inter-ocular distance (landmarks 0
  and 1) before the fit; percent of that distance. The code of Huang and Li for CelebA. It hands the true scale to the
  predictor.
* ``iod_residual``: centres and landmarks as fractions of the input's sides; the residual, in input pixels, divided by
  the inter-ocular distance. SCOPS (Hung et al., CVPR 2019); at one input size it equals a fit in pixels.

One regressor for all landmarks jointly (CelebA) is the same thing as one per landmark where every landmark is visible
in every image, since least squares treats each target by itself; so there is one implementation.

*Left out:* invisible landmarks; images without a valid box of positive area (``box``) or without two visible eyes
apart (``iod``); landmarks that no image of the fitting split shows. The number of visible landmarks left out for the
two latter reasons is ``landmarks_left_out``. NaN: nothing left. A single error counts at most ``LARGEST`` units, and
that much where a part map is NaN or infinite.

*Per class* (CUB-001, -002, -003 in the papers): with ``classes``, further regressors are fitted and evaluated on the
images of one class each; some of their landmarks are visible in 2 to 5 training images, so these numbers are noisy.

*Floors*, from the same sums: ``mean_landmark`` (regressors without inputs), and every set of points handed in
(image centre, box centre, random parts). In frame ``box`` the box's centre is constant, hence equals ``mean_landmark``.

*Deviations from the authors' code:* cell centres carry the half-cell offset (theirs start at 1: a constant, which
standardising removes for one input size); ``regression.py`` names two for directions without information.

*Exact:* errors are summed in fixed point (2**-32 of a unit), so the order of addition does not show. The moments of
the fit are float64 and merge in another order when the number of processes changes: that moves an error by about
1e-12 of a unit, so results are rounded to 6 decimals of a percent.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torchmetrics
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from fgbench.metrics import regression
from fgbench.metrics.base import BenchMetric, Points
from fgbench.types import Batch, Output

Frame = Literal["box", "iod_prefit", "iod_residual"]
FIXED = 2.0**32  # errors are summed as integers of 1 / FIXED units
LARGEST = 1000.0  # units; keeps the fixed-point sum of two million landmarks inside int64
MEAN = "mean_landmark"


def soft_centroids(parts: Float[Tensor, "b p u v"], height: int, width: int) -> Float64[Tensor, "b p 2"]:
    """Centres of mass of part maps, ``x y`` in input pixels; the image's centre where a map sums to 0."""
    along = [parts.sum(-2, dtype=torch.float64), parts.sum(-1, dtype=torch.float64)]  # b p v, b p u
    mass = along[0].sum(-1)
    cells = [(torch.arange(a.shape[-1], dtype=torch.float64, device=a.device) + 0.5) / a.shape[-1] for a in along]
    centres = [torch.where(mass == 0, 0.5, a @ c / mass) for a, c in zip(along, cells, strict=True)]
    return torch.stack([centres[0] * width, centres[1] * height], dim=-1)


def frame_of(
    batch: Batch, frame: Frame
) -> tuple[Float64[Tensor, "b 1 2"], Float64[Tensor, "b 1 2"], Float64[Tensor, "b 1 2"], Bool[Tensor, " b"]]:
    """The coordinates of a frame: ``(point - origin) / scale``, and a residual times ``unit`` is an error in units.

    Returns:
        origin, scale, unit, and whether the image has such a frame (else they are harmless placeholders).
    """
    if frame == "box":
        boxes = torch.nn.functional.pad(batch.boxes.double(), (0, 0, 0, 1))  # one that is not valid, in case of none
        first = torch.nn.functional.pad(batch.box_valid.to(torch.uint8), (0, 1)).argmax(1)
        box = boxes[torch.arange(len(first), device=first.device), first]
        extent = box[:, 2:] - box[:, :2]
        valid = batch.box_valid.any(1) & (extent > 0).all(1)
        scale = torch.where(valid[:, None], extent, 1.0)[:, None]
        return box[:, None, :2], scale, torch.ones_like(scale), valid
    eyes = batch.landmarks[:, :2].double()
    distance = (eyes[:, 0] - eyes[:, 1]).norm(dim=-1)
    valid = batch.visible[:, :2].all(1) & (distance > 0)
    distance = torch.where(valid, distance, 1.0)[:, None, None].expand(-1, 1, 2)
    # filled in on the device: copying a list there would wait for it at every step
    size = torch.stack([torch.full_like(distance[..., 0], side) for side in batch.image.shape[:1:-1]], dim=-1)
    origin = torch.zeros_like(distance)
    if frame == "iod_prefit":
        return origin, distance, torch.ones_like(distance), valid
    return origin, size, size / distance, valid


class Moments(torchmetrics.Metric):
    """The sums of a fit; ``compute`` joins the processes."""

    full_state_update = False
    sums: Tensor

    def __init__(self, groups: int, landmarks: int, inputs: int) -> None:
        super().__init__()
        side = inputs + 3  # a count, the inputs, two targets
        self.add_state(
            "sums", torch.zeros(groups, landmarks, side, side, dtype=torch.float64), dist_reduce_fx=regression.merge
        )

    def update(self, rows: Tensor, weights: Tensor) -> None:
        """Add the images of a batch, see ``regression.moments``."""
        self.sums = regression.merge(torch.stack([self.sums, regression.moments(rows, weights)]))

    def compute(self) -> Tensor:
        """Moments of the whole split."""
        return self.sums


class LandmarkError(BenchMetric):
    """Regressors from part centres to landmarks, their errors and those of the floors.

    Args:
        landmarks: number of landmarks ``l``.
        parts: number of parts ``p`` of the method.
        frame: coordinates and unit, see the head of this file.
        floors: by name, the number of points that stand in for the parts.
        classes: class indices for which regressors of their own are fitted and evaluated.
    """

    higher_is_better = False
    class_index: Tensor
    total: Tensor
    count: Tensor
    left_out: Tensor
    slopes: Tensor
    offsets: Tensor

    def __init__(
        self,
        landmarks: int,
        parts: int,
        frame: Frame = "box",
        floors: Mapping[str, int] | None = None,
        classes: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        floors = floors or {}
        self.frame, self.parts = frame, parts
        self.name = "landmark_error_iod_residual" if frame == "iod_residual" else "landmark_error"
        self.predictors = ("", *floors, MEAN)  # "" is the method
        edges = [0, 2 * parts]
        for points in floors.values():
            edges.append(edges[-1] + 2 * points)
        self.inputs = [slice(a, b) for a, b in zip([*edges, edges[-1]], [*edges[1:], edges[-1]], strict=False)]
        self.classes = classes
        self.register_buffer("class_index", torch.tensor(classes, dtype=torch.int64), persistent=False)
        groups = 1 + len(classes)
        self.moments = Moments(groups, landmarks, edges[-1])
        shape = (len(self.predictors), groups, landmarks)
        self.add_state("total", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape[1:], dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("left_out", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.register_buffer("slopes", torch.full((*shape, edges[-1], 2), torch.nan, dtype=torch.float64))
        self.register_buffer("offsets", torch.full((*shape, 2), torch.nan, dtype=torch.float64))

    def _inputs(self, output: Output, batch: Batch, floors: Points | None) -> Float64[Tensor, "b p 2"]:
        """Centres of all predictors one after another, input pixels."""
        if output.parts is None or output.parts.shape[1] != self.parts:
            found = "no part maps" if output.parts is None else f"{output.parts.shape[1]} part maps"
            raise ValueError(f"landmark error: {found}, {self.parts} expected; let the method's `parts` say how many")
        own = soft_centroids(output.parts, batch.image.shape[2], batch.image.shape[3])
        return torch.cat([own, *((floors or {})[name].double() for name in self.predictors[1:-1])], dim=1)

    def _weights(self, batch: Batch, framed: Bool[Tensor, " b"]) -> Bool[Tensor, "b g l"]:
        """Whether a landmark of an image counts, for all images and for those of each class."""
        counts = (batch.visible & framed[:, None])[:, None]
        if not self.classes:
            return counts
        of_class = batch.target[:, None] == self.class_index
        return torch.cat([counts, counts & of_class[:, :, None]], dim=1)

    def fit_update(self, output: Output, batch: Batch, floors: Points | None = None) -> None:
        """Add a batch of the fitting split."""
        origin, scale, _, framed = frame_of(batch, self.frame)
        inputs = ((self._inputs(output, batch, floors) - origin) / scale).flatten(1)
        targets = (batch.landmarks.double() - origin) / scale
        rows = torch.cat([inputs[:, None].expand(-1, targets.shape[1], -1), targets], dim=2)
        self.moments.update(rows, self._weights(batch, framed).double())

    def fit(self) -> None:
        """Join the processes' sums and solve; every process must call it.

        Raises:
            ValueError: part maps were NaN or infinite.
        """
        merged = self.moments.compute().cpu()  # once per split; on CPU, so that the solution depends on no device
        if not bool(merged.isfinite().all()):
            raise ValueError(
                "landmark error: part maps of the fitting split contain NaN or infinity; did training diverge?"
            )
        slopes, offsets = regression.solve(merged, self.inputs)
        self.slopes, self.offsets = slopes.to(self.total.device), offsets.to(self.total.device)
        self.moments.reset()

    def reset(self) -> None:
        """Forget the sums, those of the fit, and the fit."""
        super().reset()
        self.moments.reset()
        self.slopes, self.offsets = torch.full_like(self.slopes, torch.nan), torch.full_like(self.offsets, torch.nan)

    def columns(self, output: Output, batch: Batch, floors: Points | None = None) -> dict[str, Tensor]:
        """Errors in units of the frame, NaN where one does not count: ``landmark_errors`` ``b l`` is the method's."""
        origin, scale, unit, framed = frame_of(batch, self.frame)
        inputs = ((self._inputs(output, batch, floors) - origin) / scale).flatten(1)
        targets = (batch.landmarks.double() - origin) / scale
        predicted = torch.einsum("bx,sglxt->bsglt", inputs, self.slopes) + self.offsets
        errors = ((predicted - targets[:, None, None]) * unit[:, None, None]).norm(dim=-1)
        counted = self._weights(batch, framed)[:, None] & ~self.offsets[..., 0].isnan()
        errors = torch.where(counted, errors.nan_to_num(nan=torch.inf, posinf=torch.inf), torch.nan)
        return {"landmark_errors": errors[:, 0, 0].float(), "landmark_errors_all": errors}

    def update(self, columns: dict[str, Tensor], batch: Batch) -> None:
        """Add errors in fixed point."""
        errors = columns["landmark_errors_all"]
        counted = ~errors.isnan()
        self.total += ((errors.clamp(max=LARGEST) * FIXED).round().nan_to_num() * counted).to(torch.int64).sum(0)
        self.count += counted[:, 0].sum(0)
        self.left_out += batch.visible.sum() - counted[:, 0, 0].sum()

    def compute(self) -> dict[str, Tensor]:
        """Percentages, rounded to 6 decimals; those of class ``c`` as ``<name>_class_<c>``."""
        total, count = self.total.double() * (100 / FIXED), self.count.double()
        pooled = (total.sum(2) / count.sum(1)).round(decimals=6)
        each = (total[0, 0] / count[0]).round(decimals=6)
        result = {
            f"{self.name}_each": each,
            f"{self.name}_count_each": self.count[0],
            "landmarks_left_out": self.left_out,
        }
        for group, label in enumerate(("", *(f"_class_{index}" for index in self.classes))):
            for predictor, floor in enumerate(self.predictors):
                result[f"{self.name}{label}" + (f"/{floor}" if floor else "")] = pooled[predictor, group]
        return result
