"""Which parts matter to a class: contributions, popularity, and the discriminative power d(p, c) of DP-Net."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

Weighting = Literal["log1p", "printed", "classic"]


def popularity(contribution: Float[Tensor, "k p"], top: int) -> Int[Tensor, " p"]:
    """f(p): how many classes have a part among the ``top`` that contribute most to them."""
    most = contribution.topk(min(top, contribution.shape[1]), dim=1).indices.flatten()
    # not ``bincount``, which asks a GPU for the largest number and waits for it; a test asks at every batch
    return most.new_zeros(contribution.shape[1]).index_add_(0, most, torch.ones_like(most))


def discriminative_power(
    contribution: Float[Tensor, "k p"], top: int, weighting: Weighting = "log1p"
) -> Float[Tensor, "k p"]:
    """d(p, c): what a part contributes to a class, over how popular it is; finite for every popularity.

    Args:
        contribution: sum (or mean) over a class's training images of v_cp b_p.
        top: of a class's parts are its most activated ones.
        weighting: ``printed`` divides by log f. At f = 1 that is zero: such parts come first, as the limit from above
            says, in the order of their contributions; parts with f = 0 are nobody's, and come last. ``log1p`` divides
            by log(1 + f), with f = 0 counted as 1; ``classic`` multiplies by log(k / f), likewise.
    """
    frequency = popularity(contribution, top)
    used = frequency.clamp(min=1).to(contribution.dtype)
    if weighting == "log1p":
        return contribution / torch.log1p(used)
    if weighting == "classic":
        return contribution * torch.log(len(contribution) / used)
    found = contribution / torch.log(used.clamp(min=2))
    # Parts of one class above all others, parts of none below: by one step that is larger than all values.
    step = 2 * found.abs().amax() + 1
    found = torch.where(frequency == 1, step + contribution, found)
    return torch.where(frequency == 0, found - 2 * step, found)


def spherical_kmeans(
    vectors: Float[Tensor, "n d"], groups: int, rounds: int = 10, start: Float[Tensor, "g d"] | None = None
) -> Float[Tensor, "g d"]:
    """Centres, of length one, of groups of directions; the same on every machine that adds in the same order.

    Args:
        vectors: to be grouped; their lengths do not count.
        groups: centres; with fewer vectors some centres are equal.
        rounds: of assignment and averaging.
        start: centres to begin with; None for vectors spread evenly over their list.
    """
    unit = normalize(vectors.float(), dim=1)
    if start is None:
        start = unit[torch.linspace(0, len(unit) - 1, groups, device=unit.device).round().long()]
    centres = normalize(start.float(), dim=1)
    for _ in range(rounds):
        nearest = (unit @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, unit)
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, normalize(sums, dim=1), centres)
    return centres
