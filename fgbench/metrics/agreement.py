"""NMI and ARI: do parts divide images as landmarks or true parts do?

Two labels of the same places are compared, the part of a place and what truly is there, over all places of the split
together (not a mean over images). Percent, higher is better, 100 for labels that agree up to their names.

*Definition, NMI.* Mutual information over the arithmetic mean of the two entropies. *Definition, ARI.* The Rand index
over all pairs of places, adjusted for chance: 0 in expectation for labels dealt at random, negative if worse (Hubert
and Arabie, 1985). A single label on both sides is agreement: 100. NaN: no place.

*Conventions*, which must be named, since a method's numbers differ between them:

* ``nmi_landmarks``, ``ari_landmarks``: a place is a visible landmark, its truth is which one it is (left and right
  apart), its part that of the pixel it lies in. So in the evaluations after SCOPS: Choudhury et al. (NeurIPS 2021),
  PDiscoNet (ICCV 2023). A part that stands for the background counts like any other ("full" in Choudhury et al.).
* ``nmi_landmarks_foreground``, ``ari_landmarks_foreground``: of these, only landmarks that lie in some part: after
  "foreground" in Choudhury et al., who also crop to the box. Equal to the former where a map is positive everywhere;
  who leaves out what is hard gains, so it is read beside the former. Without floor: random points leave nothing out.
* ``nmi_pixels``, ``ari_pixels`` (``masks.py``): a place is a pixel, and the background is one more true part;
  PDiscoNet on PartImageNet.
* ``nmi_foreground``, ``ari_foreground`` (``masks.py``): only pixels of true parts. Ours: it needs masks, and is not
  what Choudhury et al. call foreground.

How maps become parts of places stands in ``maps.py``. *Floors:* ``random_parts``, as many points as there are parts,
to the nearest of which a place belongs.

*Deviations:* places where no part map is above 0 form a part of their own (the codes take the first; their maps are
positive everywhere); the whole image is seen, not a crop to the box; PDiscoNet calls pixels background where all maps
are below 0.1, which has no meaning for maps that are no probabilities, and is not done here.

*Exact:* the state is a table of counts (int64); NMI is made from it in float64 and ARI in whole numbers of any size
(products of pair counts leave int64 from about 80,000 places on).
"""

import math

import torch
from jaxtyping import Int64
from torch import Tensor

from fgbench.metrics import maps
from fgbench.metrics.base import BenchMetric, Points
from fgbench.types import Batch, Output


def nmi(table: Int64[Tensor, "p t"]) -> float:
    """Normalised mutual information of two labels, from how often they meet; NaN without a place."""
    counts = table.double().cpu()
    total = counts.sum()
    if not total > 0:
        return math.nan
    joint, first, second = counts / total, counts.sum(1) / total, counts.sum(0) / total
    entropies = [float(-torch.xlogy(share, share).sum()) for share in (first, second)]
    if max(entropies) <= 0:
        return 1.0
    information = float(torch.xlogy(joint, joint).sum()) + sum(entropies)
    return min(1.0, max(0.0, 2 * information / sum(entropies)))


def ari(table: Int64[Tensor, "p t"]) -> float:
    """Adjusted Rand index of two labels, from how often they meet; NaN without a place."""
    rows = table.tolist()
    total = sum(map(sum, rows))
    if not total:
        return math.nan
    together = sum(n * (n - 1) // 2 for row in rows for n in row)
    first = sum(n * (n - 1) // 2 for n in map(sum, rows))
    second = sum(n * (n - 1) // 2 for n in map(sum, zip(*rows, strict=True)))
    pairs = total * (total - 1) // 2
    # (together - expected) / (mean - expected), with expected = first * second / pairs, as a ratio of whole numbers
    above = 2 * (together * pairs - first * second)
    below = (first + second) * pairs - 2 * first * second
    return 1.0 if below == 0 else above / below


class LandmarkAgreement(BenchMetric):
    """NMI and ARI of parts against landmarks.

    Args:
        landmarks: number of landmarks.
        parts: number of parts.
        floors: names of the points that stand in for parts.
    """

    higher_is_better = True
    name = "nmi_landmarks"
    needs = "parts"
    table: Tensor

    def __init__(self, landmarks: int, parts: int, floors: tuple[str, ...] = ("random_parts",)) -> None:
        super().__init__()
        self.landmarks, self.parts, self.predictors = landmarks, parts, ("", *floors)
        shape = (len(self.predictors), parts + 1, landmarks)
        self.add_state("table", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def columns(self, output: Output, batch: Batch, floors: Points | None = None) -> dict[str, Tensor]:
        """``landmark_parts`` ``b s l``: the part of each landmark for method and floors, -1 where it is not visible."""
        if output.parts is None:
            raise ValueError("agreement: the method has no parts; leave the metric out for this method")
        values = maps.values_at(output.parts, batch.landmarks, *batch.image.shape[2:])
        others = [maps.nearest((floors or {})[name], batch.landmarks) for name in self.predictors[1:]]
        labels = torch.stack([maps.labels_of(values), *others], dim=1)
        return {"landmark_parts": torch.where(batch.visible[:, None], labels, -1)}

    def update(self, columns: dict[str, Tensor], batch: Batch) -> None:
        """Count how often part and landmark meet."""
        part = torch.arange(self.parts + 1, device=self.table.device)[:, None]
        self.table = self.table + (columns["landmark_parts"][:, :, None] == part).sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Percentages."""
        inside = agreement(self.table[:1, :-1], ("",), "landmarks_foreground")
        return agreement(self.table, self.predictors, "landmarks") | inside


def agreement(table: Int64[Tensor, "s p t"], predictors: tuple[str, ...], places: str) -> dict[str, Tensor]:
    """NMI and ARI, in percent, of each predictor's table."""
    result = {}
    for index, floor in enumerate(predictors):
        for name, measure in (("nmi", nmi), ("ari", ari)):
            value = torch.tensor(100 * measure(table[index]), dtype=torch.float64)
            result[f"{name}_{places}" + (f"/{floor}" if floor else "")] = value
    return result
