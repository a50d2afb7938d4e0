"""Constraints on parts that are vectors, and on the layer that weighs them (DP-Net, Sicre et al., ICIP 2023).

Two of the three are printed in the paper with a form that does the opposite of, or more than, what its text says: the
orthogonality with a minus sign (minimised, it makes all parts parallel) and the class-specific term without an absolute
value (unbounded below). The defaults do what the text says; the printed forms are there by name.
"""

import math
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from fgbench.layers.distributed import gather
from fgbench.layers.regions import MEMORY, Regions, parts_gradient, region_scores

Scale = Literal["printed", "mean_normalised"]


def orthogonality(
    parts: Float[Tensor, "p d"], sign: Literal["plus", "printed"] = "plus", scale: Scale = "printed"
) -> Float[Tensor, ""]:
    """Squared cosines of all pairs of different parts, over p^2; ``mean_normalised``: over p, a sum for each part.

    The smaller of the two Gram matrices is formed: both have the same Frobenius norm.
    """
    with torch.autocast(parts.device.type, enabled=False):
        unit = normalize(parts.float(), dim=1)
        gram = unit @ unit.T if len(unit) <= unit.shape[1] else unit.T @ unit
        pairs = gram.square().sum() - len(unit)
    value = pairs / (len(unit) ** 2 if scale == "printed" else len(unit))
    return value if sign == "plus" else -value


def assignment_entropy(
    parts: Float[Tensor, "p d"], regions: Regions, temperature: float = 1.0, scale: Scale = "printed"
) -> Float[Tensor, ""]:
    """Entropy of each region's assignment to the parts (softmax over parts of unit length), summed over regions.

    The mean over images; ``mean_normalised``: over regions too, as a share of the largest entropy. In float32; no
    scores are kept for the gradient, which is found with the value.
    """
    if regions.cells.requires_grad:
        raise ValueError("the entropy of the assignment has no gradient for the map: it must be a frozen network's")
    with torch.autocast(parts.device.type, enabled=False):
        unit = normalize(parts.float(), dim=1)
        total: Tensor = _Entropy.apply(unit, *regions, temperature)  # type: ignore[no-untyped-call]
    images, count = len(regions.cells), regions.number
    return total / (images * (1 if scale == "printed" else count * math.log(max(2, len(parts)))))


class _Entropy(torch.autograd.Function):
    """Sum over images and regions of the entropy of softmax(scores / temperature) over parts.

    With p the shares and H a region's entropy, the derivative by a score is -p (log p + H) / temperature.
    """

    @staticmethod
    def forward(
        ctx: Any, unit: Tensor, cells: Tensor, boxes: Tensor | None, size: tuple[int, int], temperature: float
    ) -> Tensor:
        regions = Regions(cells, boxes, size)
        total, gradient = unit.new_zeros(()), torch.zeros_like(unit)
        step = max(1, MEMORY // (4 * regions.number * len(unit)))
        for start in range(0, len(cells), step):
            some = regions.some(slice(start, start + step))
            logarithm = (region_scores(unit, some) / temperature).log_softmax(2)
            shares = logarithm.exp()
            entropy = -(shares * logarithm).sum(2, keepdim=True)
            total += entropy.sum()
            if ctx.needs_input_grad[0]:
                slopes = logarithm.add_(entropy).mul_(shares).div_(-temperature)
                gradient += parts_gradient(slopes, some)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None, None, None


def assignment_balance(
    parts: Float[Tensor, "p d"], regions: Regions, temperature: float = 1.0, scale: Scale = "printed"
) -> Float[Tensor, ""]:
    """How unevenly the parts are used: log p less the entropy of the mean assignment, of all processes' regions.

    0 where all parts have as many regions. With it the entropy above cannot be low by giving one part everything: with
    weight w for this and w / regions for that, as printed, their sum is what regions do not tell of parts (negative
    mutual information), up to a constant. ``mean_normalised``: as a share of the largest value. Not in the paper.
    """
    with torch.autocast(parts.device.type, enabled=False):
        used = _uses(parts, regions, temperature)
        share = gather((used / (len(regions.cells) * regions.number))[None]).mean(0)
        uneven: Tensor = math.log(len(parts)) + torch.special.xlogy(share, share).sum()
    return uneven / (1 if scale == "printed" else math.log(max(2, len(parts))))


def _uses(parts: Tensor, regions: Regions, temperature: float) -> Float[Tensor, " p"]:
    """Shares of all regions that each part has, summed; their scores are not kept for the gradient but made again."""
    step = max(1, MEMORY // (4 * regions.number * len(parts)))

    def of(unit: Tensor, some: Regions) -> Tensor:
        return (region_scores(unit, some) / temperature).softmax(2).sum((0, 1))

    unit = normalize(parts.float(), dim=1)
    total = unit.new_zeros(len(unit))
    for start in range(0, len(regions.cells), step):
        some = regions.some(slice(start, start + step))
        total = total + (checkpoint(of, unit, some, use_reentrant=False) if unit.requires_grad else of(unit, some))
    return total


def others(classes: int, per_class: int, device: torch.device | None = None) -> Bool[Tensor, "k p"]:
    """Which parts are not a class's own; part ``j`` (counted from 0) belongs to class ``j // per_class``."""
    owner = torch.arange(classes * per_class, device=device) // per_class
    return owner != torch.arange(classes, device=device)[:, None]


def class_specificity(
    weights: Float[Tensor, "k p"],
    form: Literal["l1", "relu", "printed"] = "l1",
    scale: Scale = "printed",
) -> Float[Tensor, ""]:
    """Mean weight of the parts of other classes; ``mean_normalised``: over the parts, a sum over classes.

    Args:
        weights: of the classifier; as many parts for each class.
        form: of a weight: its absolute value, its positive part, or the weight itself as printed.
        scale: see above.
    """
    classes, parts = weights.shape
    if classes < 2:
        return weights.sum() * 0
    value = {"l1": torch.abs, "relu": torch.relu, "printed": torch.clone}[form](weights.float())
    total = (value * others(classes, parts // classes, weights.device)).sum()
    return total / (parts * (classes - 1) if scale == "printed" else parts)
