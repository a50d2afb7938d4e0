"""Sanity check: does the saliency change when what the network learned is taken from it?

*Source:* Adebayo et al., *Sanity Checks for Saliency Maps*, NeurIPS 2018: weights are replaced by random ones from the
output down, and the maps before and after compared.

*Definition.* ``sanity_rank``: Spearman's rank correlation between the cells of the map of the trained network and of
the network with fresh weights everywhere, equal values sharing their mean rank; mean over images. ``sanity_ssim``:
structural similarity (Wang et al., 2004; Gaussian window of deviation 1.5) of the two maps, each moved and scaled to
[0, 1], resized to 64 x 64. Both explain the class that the trained network predicts. Percent, nearer 0 is better: a
map that stays (100) shows the image, not what was learned. The cascade is in ``sanity_rank/<level>`` and
``sanity_ssim/<level>``: fresh weights outside of the backbone (``head``), then in its last stage too, and so on down
to ``all``, which is the number itself.

*Left out:* from ``sanity_rank`` images of which a map is constant, NaN or infinite, counted in ``sanity_constant``; a
constant map is 0 everywhere in ``sanity_ssim``. NaN: no image.

*Floors* are explainers: ``centre`` and ``random_map`` look at no network, and stay at 100.

*Deviations:* one draw of fresh weights, as training would start from scratch (the run's seed), not as many as the
paper averages; maps are compared in their own cells, not after resizing (ranks of a resized map mostly compare
neighbours).

*Exact:* sums of integers of 2^-30.
"""

import torch
import torchmetrics
from jaxtyping import Float, Float64
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from fgbench.metrics import maps

SIDE = 64  # cells in which structure is compared


def mean_ranks(values: Float[Tensor, "b n"]) -> Float64[Tensor, "b n"]:
    """Rank of each value among those of its row; equal values share their mean rank."""
    ordered = values.double().sort(1).values
    below = torch.searchsorted(ordered, values.double().contiguous())
    upto = torch.searchsorted(ordered, values.double().contiguous(), right=True)
    return (below + upto - 1).double() / 2


def rank_correlation(first: Float[Tensor, "b u v"], second: Float[Tensor, "b u v"]) -> Float64[Tensor, " b"]:
    """Spearman's, NaN where a map is constant, NaN or infinite."""
    ranked = [mean_ranks(m.flatten(1)) for m in (first, second)]
    centred = [rank - rank.mean(1, keepdim=True) for rank in ranked]
    norms = [rank.norm(dim=1) for rank in centred]
    known = first.isfinite().flatten(1).all(1) & second.isfinite().flatten(1).all(1) & (norms[0] * norms[1] > 0)
    product = (centred[0] * centred[1]).sum(1) / torch.where(known, norms[0] * norms[1], 1.0)
    return torch.where(known, product.clamp(-1, 1), torch.nan)


def structure(first: Float[Tensor, "b u v"], second: Float[Tensor, "b u v"]) -> Float64[Tensor, " b"]:
    """SSIM of two maps, each scaled to [0, 1]."""
    scaled = []
    for one in (first, second):
        values = maps.resized(one[:, None], SIDE, SIDE)
        low, high = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
        scaled.append((values - low) / torch.where(high > low, high - low, 1.0))
    found: Tensor = structural_similarity_index_measure(scaled[0], scaled[1], data_range=1.0, reduction="none")  # type: ignore[assignment]
    return found.double().view(-1)


class SanityCheck(torchmetrics.Metric):
    """Similarities at each level of the cascade; the last level is the number.

    Args:
        levels: names of the levels.
    """

    full_state_update = False
    total: Tensor
    count: Tensor
    constant: Tensor

    def __init__(self, levels: tuple[str, ...]) -> None:
        super().__init__()
        self.levels = levels
        for state in ("total", "count"):
            self.add_state(state, torch.zeros(2, len(levels), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("constant", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, before: Float[Tensor, "b u v"], after: list[Float[Tensor, "b u v"]]) -> None:
        """Add a batch: the trained network's maps, and those of each level."""
        found = [torch.stack([rank_correlation(before, one), structure(before, one)]) for one in after]
        values = torch.stack(found, dim=1)  # 2 levels b
        counted = ~values.isnan()
        self.total = self.total + maps.share(values, counted).sum(2)
        self.count = self.count + counted.sum(2)
        self.constant = self.constant + (~counted[0, -1]).sum()

    def compute(self) -> dict[str, Tensor]:
        """Percentages; those of the levels as ``<name>/<level>``."""
        means = 100 * self.total.double() / maps.UNIT / self.count
        result = {"sanity_constant": self.constant}
        for name, values in zip(("sanity_rank", "sanity_ssim"), means, strict=True):
            result[name] = values[-1]
            result |= {f"{name}/{level}": value for level, value in zip(self.levels, values, strict=True)}
        return result
