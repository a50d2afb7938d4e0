"""Channels that belong to classes: do they, do they differ within a class, and do finer maps lie within coarser ones?

Numbers for the claims that the mutual-channel papers make with pictures (Chang et al., arXiv 2102.00367, Figs. 3 and
6). Percent. Stage ``high`` is the last of the network, ``mid`` the one before it where a method has two.

*Definition, alignment.* ``channel_alignment_<stage>``: share of images for which the channels of the labelled class say
more (mean over positions of the largest of a class's channels) than those of any other class; the first of equal ones
counts. The finer maps (``mid``) are those before the gate, which training aligns behind it. Higher is better. Floor
``chance``: one over the number of classes.

*Definition, overlap.* Each map of the predicted class is divided by its sum; of two maps the sum over positions of the
smaller value, which is one minus their total variation; ``channel_overlap_<stage>`` is the mean over all pairs of a
class's maps and over images. Lower means that the channels see different places. Left out: maps that are zero
everywhere, their pairs, and images without a pair. It is not what the diversity term lowers: that one compares maps
after a softmax over positions. Here networks trained with it overlap more than those with cross-entropy only (last map,
rows of November 2026: 41 to 64 percent against 24 to 31).

*Definition, containment.* ``channel_containment``: of the sum of a finer map the share that lies where the map that it
was searched in (bilinearly resized to the finer map's cells, half-pixel centres) is above half of its own maximum; mean
over an image's finer maps, then over images. Higher is better. Floor ``area``: the share of cells that lie there, which
is what a constant map would reach. The finer maps are those before the gate. Left out: maps that are zero everywhere,
finer or coarser.

NaN: nothing seen. Not a metric of right or wrong: a class may be predicted wrongly and its channels be contained.

*Exact:* states are integer counts, and sums of shares in units of 2^-30.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from fgbench.metrics.base import BenchMetric, Points
from fgbench.types import Batch, Output

UNIT = 2.0**30
STAGES = ("high", "mid")


def pairwise_overlap(maps: Float[Tensor, "b p u v"]) -> Float64[Tensor, " b"]:
    """Mean over pairs of non-empty maps of the mass that they share; NaN without a pair."""
    mass = maps.double().flatten(2)
    total = mass.sum(2)
    seen = total > 0
    share = mass / total.clamp(min=torch.finfo(torch.float64).tiny)[..., None]
    count = maps.shape[1]
    first, second = torch.triu_indices(count, count, 1, device=maps.device)
    shared = torch.minimum(share[:, first], share[:, second]).sum(2)
    both = seen[:, first] & seen[:, second]
    return (shared * both).sum(1) / both.sum(1)  # 0 / 0 is NaN


def containment(
    coarse: Float[Tensor, "b p u v"], finer: Float[Tensor, "b p s u2 v2"]
) -> tuple[Float64[Tensor, " b"], Float64[Tensor, " b"]]:
    """Share of the finer maps' mass within their coarse map's upper half, and that half's share of the cells."""
    size = (finer.shape[3], finer.shape[4])
    large = torch.nn.functional.interpolate(coarse.double(), size, mode="bilinear", align_corners=False)
    peak = large.amax((2, 3), keepdim=True)
    inside = (large > 0.5 * peak)[:, :, None]
    mass = finer.double()
    total = mass.sum((3, 4))
    seen = (total > 0) & (peak[:, :, :, 0] > 0)
    share = (mass * inside).sum((3, 4)) / total.clamp(min=torch.finfo(torch.float64).tiny)
    area = inside.double().mean((3, 4)).expand_as(share)
    count = seen.sum((1, 2))
    return (share * seen).sum((1, 2)) / count, (area * seen).sum((1, 2)) / count


class Channels(BenchMetric):
    """Alignment, overlap and containment of channels that belong to ``num_outputs`` classes.

    Args:
        num_outputs: classes.
        stages: how many stages of the network have such channels, 1 or 2.
    """

    higher_is_better = True
    name = "channel_alignment_high"
    aligned: Tensor
    images: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, num_outputs: int, stages: int) -> None:
        super().__init__()
        self.num_outputs, self.stages = num_outputs, STAGES[:stages]
        shares = [f"channel_overlap_{stage}" for stage in self.stages]
        self.shares = (*shares, *(("channel_containment", "channel_containment/area") if stages > 1 else ()))
        self.add_state("aligned", torch.zeros(stages, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        for state in ("sums", "counts"):
            self.add_state(state, torch.zeros(len(self.shares), dtype=torch.int64), dist_reduce_fx="sum")

    def columns(self, output: Output, batch: Batch, floors: Points | None = None) -> dict[str, Tensor]:
        """``channel_aligned`` per stage, and a share of each kind per image; NaN where it is not defined."""
        if output.scores is None or output.parts is None or (output.finer is None) != (len(self.stages) == 1):
            raise ValueError("channels: the method has no channels that belong to classes at these stages")
        columns = {
            "channel_aligned": output.scores.argmax(2) == batch.target[:, None],
            "channel_overlap_high": pairwise_overlap(output.parts),
        }
        if output.finer is not None:
            columns["channel_overlap_mid"] = pairwise_overlap(output.finer.flatten(1, 2))
            inside, area = containment(output.parts, output.finer)
            columns |= {"channel_containment": inside, "channel_containment/area": area}
        return columns

    def update(self, columns: dict[str, Tensor], batch: Batch) -> None:
        """Add."""
        self.aligned += columns["channel_aligned"].sum(0)
        self.images += len(batch.target)
        values = torch.stack([columns[name] for name in self.shares])
        self.counts += values.isfinite().sum(1)
        self.sums += (values.nan_to_num() * UNIT).round().to(torch.int64).sum(1)

    def compute(self) -> dict[str, Tensor]:
        """Percentages."""
        means = 100 * self.sums.double() / UNIT / self.counts
        result = dict(zip(self.shares, means, strict=True))
        for index, stage in enumerate(self.stages):
            result[f"channel_alignment_{stage}"] = 100 * self.aligned[index].double() / self.images
            chance = torch.tensor(100 / self.num_outputs, dtype=torch.float64)
            result[f"channel_alignment_{stage}/chance"] = chance
        return result
