"""Trilinear attention: each channel of a map is averaged with the channels that respond at the same places.

With ``X`` the ``c x n`` matrix of a map's channels over its cells, the attention maps are the rows of
``M = N(N(X) X^T) X``, where ``N`` is the softmax over a matrix's second axis. Zheng et al., CVPR 2019, section 3.1; the
other normalisations are the rows of its Table 2. No parameters, and no gradient: attention is looked at, not trained.

The product ``M`` is not made unless it is asked for: the average of its rows, and any chosen rows, are products of a
few rows with ``X``.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Form = Literal["x", "xxx", "n(x)xx", "n(x)n(x)x", "n(xxx)", "n(xx)x", "n(n(x)x)x", "self"]
"""Rows of Table 2 in its order, and ``self``: the softmax of ``X^T X``, self-attention between cells."""

SAME = 1e-6  # relative difference of marks below which two maps are one
GOLDEN = (5**0.5 - 1) / 2  # its multiples, without their whole parts, are all different


class Maps(NamedTuple):
    """Attention maps as a product: ``M = weights @ base``.

    Attributes:
        weights: ``b m c``; None where ``base`` are the maps themselves.
        base: ``b c n``.
        size: rows and columns of a map; ``n`` is their product.
    """

    weights: Tensor | None
    base: Tensor
    size: tuple[int, int]

    def all(self) -> Float[Tensor, "b m u v"]:
        """Every map."""
        maps = self.base if self.weights is None else torch.bmm(self.weights, self.base)
        return maps.view(*maps.shape[:2], *self.size)

    def mixed(self, mix: Float[Tensor, "p m"] | Float[Tensor, "b p m"]) -> Float[Tensor, "b p u v"]:
        """Weighted sums of maps, without making the maps."""
        rows = mix.expand(len(self.base), -1, -1) if mix.dim() == 2 else mix
        rows = rows if self.weights is None else torch.bmm(rows, self.weights)
        maps = torch.bmm(rows, self.base)
        return maps.view(*maps.shape[:2], *self.size)

    def picked(self, index: Int[Tensor, "b s"]) -> Float[Tensor, "b s u v"]:
        """Chosen maps of each image."""
        source = self.base if self.weights is None else self.weights
        rows = source.gather(1, index[..., None].expand(-1, -1, source.shape[2]))
        maps = rows if self.weights is None else torch.bmm(rows, self.base)
        return maps.view(*maps.shape[:2], *self.size)

    def sums(self) -> Float[Tensor, "b m"]:
        """Each map's sum over the cells: its response."""
        return self._through(self.base.sum(2))

    def marks(self) -> Float[Tensor, "b m"]:
        """A number per map that only equal maps share: its sum with a weight for each cell, between 1 and 2.

        Plain sums do not tell maps apart that are a softmax over the cells: all of them sum to one.
        """
        cell = torch.arange(self.base.shape[2], dtype=torch.float64, device=self.base.device)
        return self._through(self.base @ (1 + cell * GOLDEN % 1).float())

    def _through(self, total: Float[Tensor, "b c"]) -> Float[Tensor, "b m"]:
        return total if self.weights is None else torch.bmm(self.weights, total[..., None])[..., 0]


def trilinear(features: Float[Tensor, "b c u v"], form: Form = "n(n(x)x)x", gain: float = 1.0) -> Maps:
    """Attention maps of a map's channels, in float32, without gradient.

    Args:
        features: non-negative, as they come from a ReLU.
        form: which normalisations.
        gain: factor on the features inside the spatial softmax (an inverse temperature).
    """
    size = (features.shape[2], features.shape[3])
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        x = features.detach().float().flatten(2)  # a view where they are float32, channels last or not
        if form == "x":
            return Maps(None, x, size)
        if form == "self":
            return Maps(None, _softmax(torch.bmm(x.transpose(1, 2), x).div_(x.shape[1] ** 0.5)), size)
        left = _softmax(x * gain) if form.startswith(("n(x)", "n(n(x)")) else x
        right = left if form == "n(x)n(x)x" else x
        relation = torch.bmm(left, right.transpose(1, 2))
        del left, right
        if form in ("n(xx)x", "n(n(x)x)x"):
            relation = _softmax(relation)
        if form == "n(xxx)":
            return Maps(None, _softmax(torch.bmm(relation, x)), size)
        return Maps(relation, x, size)


def _softmax(rows: Float[Tensor, "b m n"]) -> Float[Tensor, "b m n"]:
    """Over the last axis, in the memory of its argument."""
    rows.sub_(rows.amax(2, keepdim=True)).exp_()
    return rows.div_(rows.sum(2, keepdim=True))


def distinct(marks: Float[Tensor, "b m"]) -> Bool[Tensor, "b m"]:
    """One of each group of maps with the same mark: dead channels all give the same map, which counts once."""
    ordered, order = marks.sort(dim=1, stable=True)
    apart = ordered.diff(dim=1) > SAME * ordered[:, -1:].abs()
    first = torch.nn.functional.pad(apart, (1, 0), value=True)
    return torch.zeros_like(first).scatter(1, order, first)


def choose(
    sums: Float[Tensor, "b m"],
    noise: Float[Tensor, "b m"],
    count: int = 1,
    counted: Bool[Tensor, "b m"] | None = None,
    ranked: bool = False,
) -> Int[Tensor, "b {count}"]:
    """Maps drawn at random for each image, without repetition.

    Args:
        sums: the maps' responses.
        noise: uniform in [0, 1), one number per map.
        count: maps per image.
        counted: maps to draw among, as ``distinct`` finds them; None for all.
        ranked: draw a map with a probability proportional to its rank by response (the paper's comparison, which does
            not say how; ours), not uniformly.
    """
    # Largest of log(weight) + Gumbel noise: a draw proportional to the weight, and the next largest one without it.
    score = -torch.log(-torch.log(noise.clamp(1e-12, 1 - 1e-7)))
    if ranked:
        score = score + torch.log1p(sums.argsort(1).argsort(1).float())
    if counted is not None:
        score = torch.where(counted, score, score - 1e4)  # still there if too few differ
    return score.topk(count, dim=1).indices


def overlap(maps: Maps) -> Float[Tensor, "m m"]:
    """How far two channels attend to the same places: cosine of their maps' differences from the average, mean of b."""
    source = maps.base if maps.weights is None else maps.weights
    apart = source - source.mean(1, keepdim=True)  # before the product, and then in its memory: maps are large
    apart = apart if maps.weights is None else torch.bmm(apart, maps.base)
    apart.div_(torch.linalg.vector_norm(apart, dim=2, keepdim=True).clamp(min=1e-12))
    return torch.bmm(apart, apart.transpose(1, 2)).mean(0)


def group_channels(affinity: Float[Tensor, "m m"], groups: int, rounds: int = 20) -> Float[Tensor, "p m"]:
    """Spherical k-means of channels by whom they overlap with: weights that average the channels of each group.

    Deterministic: the first centre is the channel most like all others, each further one the channel least like those
    chosen. A group that runs empty keeps its centre's channel. Runs once per epoch.
    """
    rows = torch.nn.functional.normalize(affinity.double(), dim=1)
    similar = rows @ rows.T
    chosen = [int(similar.sum(1).argmax())]
    while len(chosen) < groups:
        nearest = similar[:, chosen].amax(1)
        nearest[chosen] = torch.inf
        chosen.append(int(nearest.argmin()))
    own = torch.zeros(groups, len(rows), dtype=torch.float64, device=rows.device)
    own[range(groups), chosen] = 1
    members = own
    for _ in range(rounds):
        centres = torch.nn.functional.normalize(members @ rows, dim=1)
        nearest = (centres @ rows.T).argmax(0)
        fresh = torch.nn.functional.one_hot(nearest, groups).T.double()
        fresh = torch.where(fresh.sum(1, keepdim=True) > 0, fresh, own)
        if torch.equal(fresh, members):
            break
        members = fresh
    return (members / members.sum(1, keepdim=True)).float()
