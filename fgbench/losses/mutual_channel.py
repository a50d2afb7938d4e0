"""The mutual-channel loss: each class owns some channels, which shall tell it from others and differ among themselves.

Paper: Chang et al., The Devil is in the Channels: Mutual-Channel Loss for Fine-Grained Image Classification, TIP 2020
(arXiv 2002.04264); Chang et al., arXiv 2102.00367, Eqs. 1 to 6. Code by the authors:
github.com/dongliangchang/Mutual-Channel-Loss (MIT), used as a reference only.

*Discriminality.* A random half of each class's channels is kept, the same for the whole batch; the mean over positions
of the largest kept channel is the class's logit; softmax cross-entropy. *Diversity.* Each channel's softmax over
positions, the largest of a class's channels at each position, summed: ``h`` is 1 where all channels of the class have
one map, and their number where no two overlap.

Differences from paper and code: the half is taken by leaving channels out, not by multiplying them with zero, which is
the same after a ReLU and right for signed maps. ``norm="size"`` minimises ``1 - h / size`` as the code does,
``norm="none"`` minimises ``-h`` as the paper writes; the second is ``size`` times as strong. Channels that do not
divide by the classes make two group sizes (the authors' deleted ResNet-50 script): the first classes have one channel
less. All classes are computed at once, and processes leave out the same channels.
"""

import math
import random
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fgbench.losses.heads import CrossEntropy, Terms

Norm = Literal["size", "none"]
BLOCK = (2**20, 2**24)  # elements of a map that are worked on at a time, on a CPU (its cache) and on a GPU

NO_MAP = "this method shows the loss no map whose channels it could deal out: take another LOSS, or METHOD=mc_loss"

Blocks = tuple[tuple[int, int], ...]


def group_blocks(channels: int, classes: int) -> Blocks:
    """How many classes have how many channels: ``(classes, channels of each)``, all channels in use.

    >>> group_blocks(600, 200), group_blocks(2048, 200)
    (((200, 3),), ((152, 10), (48, 11)))

    Raises:
        ValueError: there are fewer channels than classes.
    """
    size, more = divmod(channels, classes)
    if size < 1:
        raise ValueError(
            f"a map of {channels} channels cannot give each of {classes} classes a channel of its own; "
            "widen it (high: append, mid: side) or take a wider backbone"
        )
    return tuple((count, each) for count, each in ((classes - more, size), (more, size + 1)) if count)


def kept_channels(size: int, keep: float) -> int:
    """How many of a class's channels are kept: at least one.

    >>> [kept_channels(size, 0.5) for size in (1, 2, 3, 6, 9, 12, 15)]
    [1, 1, 2, 3, 5, 6, 8]
    """
    return max(1, math.ceil(keep * size - 1e-9))


class _PeaksOfClasses(torch.autograd.Function):
    """``z``, mean over positions of the largest kept channel, and ``h``, of each class.

    Written by hand for time and memory: backward needs the maps themselves and two bytes per class and position (four
    where a class has over 255 channels); autograd would keep the softmax, the kept channels and eight-byte indices.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, blocks: Blocks, *kept: Tensor) -> tuple[Tensor, Tensor]:
        flat = maps.flatten(2)
        images, classes = len(flat), sum(count for count, _ in blocks)
        exact = torch.float64 if maps.dtype == torch.float64 else torch.float32
        z, h = (torch.empty(images, classes, dtype=exact, device=maps.device) for _ in range(2))
        places = torch.uint8 if max(size for _, size in blocks) <= torch.iinfo(torch.uint8).max else torch.int16
        winners = torch.empty(2, images, classes, flat.shape[2], dtype=places, device=maps.device)
        for piece in _pieces(flat, blocks, kept):
            x = piece.of(flat)
            chosen = x if piece.kept.shape[1] == x.shape[2] else _pick(x, piece.kept)
            z[piece.rows, piece.classes] = _peak(chosen, winners[0, piece.rows, piece.classes]).to(exact).mean(-1)
            soft = x.softmax(-1, dtype=exact)
            h[piece.rows, piece.classes] = _peak(soft, winners[1, piece.rows, piece.classes]).sum(-1)
        ctx.blocks, ctx.exact = blocks, exact
        ctx.save_for_backward(maps, winners, *kept)
        return z, h

    @staticmethod
    @once_differentiable  # type: ignore[misc,untyped-decorator,unused-ignore]
    def backward(ctx: Any, to_z: Tensor, to_h: Tensor) -> tuple[Tensor | None, ...]:
        maps, winners, *kept = ctx.saved_tensors
        flat = maps.flatten(2)
        grad = torch.empty_like(maps)
        out = grad.flatten(2)
        for piece in _pieces(flat, ctx.blocks, kept):
            soft = piece.of(flat).softmax(-1, dtype=ctx.exact)
            winner = winners[1, piece.rows, piece.classes].long()[:, :, None]
            peak = soft.gather(2, winner)
            share = torch.zeros_like(soft[..., 0]).scatter_add_(2, winner[:, :, 0], peak[:, :, 0])
            wanted = to_h[piece.rows, piece.classes, None, None]
            soft.mul_(-(share[..., None] * wanted)).scatter_add_(2, winner, peak * wanted)
            winner = winners[0, piece.rows, piece.classes].long()
            winner = piece.kept.expand(len(soft), -1, -1).gather(2, winner)[:, :, None]
            each = (to_z[piece.rows, piece.classes] / soft.shape[-1])[..., None, None]
            soft.scatter_add_(2, winner, each.expand(winner.shape))
            out[piece.rows, piece.channels] = soft.flatten(1, 2).to(out.dtype)
        return (grad, None, *(None for _ in kept))


class _Piece(NamedTuple):
    """A part of a map that is worked on at a time: some images, some classes with equally many channels."""

    rows: slice
    classes: slice
    channels: slice
    size: int
    kept: Tensor

    def of(self, flat: Tensor) -> Tensor:
        """``images classes size positions``, whatever the map's layout in memory."""
        piece: Tensor = flat[self.rows, self.channels].unflatten(1, (-1, self.size))
        return piece.contiguous()


def _pieces(flat: Tensor, blocks: Blocks, kept: Sequence[Tensor]) -> list[_Piece]:
    """The whole map in pieces of about ``BLOCK`` elements."""
    limit = BLOCK[flat.device.type == "cuda"]
    pieces, class_, channel = [], 0, 0
    for (count, size), chosen in zip(blocks, kept, strict=True):
        each = size * flat.shape[2]
        step = min(count, max(1, limit // each))
        rows = max(1, limit // (step * each))
        for first in range(0, count, step):
            many = min(step, count - first)
            classes = slice(class_ + first, class_ + first + many)
            channels = slice(channel + first * size, channel + (first + many) * size)
            for row in range(0, len(flat), rows):
                own = chosen[first : first + many]
                pieces.append(_Piece(slice(row, row + rows), classes, channels, size, own))
        class_, channel = class_ + count, channel + count * size
    return pieces


def _pick(x: Tensor, kept: Tensor) -> Tensor:
    """The kept channels of each class."""
    first = torch.arange(len(kept), device=x.device)[:, None] * x.shape[2]
    picked: Tensor = x.flatten(1, 2).index_select(1, (first + kept).flatten())
    chosen: Tensor = picked.unflatten(1, kept.shape)
    return chosen


def _peak(x: Tensor, winner: Tensor) -> Tensor:
    """The largest over axis 2, and into ``winner`` the first position that has it; ``max`` itself is far slower."""
    peak = x.amax(2)
    rank = torch.arange(x.shape[2], 0, -1, dtype=winner.dtype, device=x.device)[:, None]
    first = x.shape[2] - ((x == peak[:, :, None]) * rank).amax(2)
    winner.copy_(first.clamp_(max=x.shape[2] - 1))  # a NaN equals nothing; its loss is reported, not an index
    return peak


def peaks_of_classes(
    maps: Float[Tensor, "b n u v"], blocks: Blocks, kept: tuple[Int[Tensor, "_ _"], ...]
) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Evidence ``z`` of each class by its kept channels, and overlap measure ``h`` of all its channels; float32.

    Args:
        maps: channels class by class.
        blocks: see ``group_blocks``.
        kept: for each block ``classes, kept``: positions of channels within their class.
    """
    z, h = _PeaksOfClasses.apply(maps, blocks, *kept)  # type: ignore[no-untyped-call]
    return z, h


def class_evidence(maps: Float[Tensor, "b n u v"], blocks: Blocks) -> Float[Tensor, "b k"]:
    """Mean over positions of each class's largest channel, none left out: what a test asks of the channels."""
    found, channel = [], 0
    for count, size in blocks:
        piece = maps[:, channel : channel + count * size].flatten(2).unflatten(1, (count, size))
        found.append(piece.amax(2).float().mean(-1))
        channel += count * size
    return torch.cat(found, 1)


class MutualChannelLoss(nn.Module):
    """Discriminality and diversity of a map whose channels belong to classes, class by class.

    Args:
        channels: of the map.
        classes: number of classes.
        keep: share of each class's channels that is kept in a step, rounded up: 0.5 from scratch, 0.6 in the authors'
            script for pretrained networks.
        norm: ``size`` minimises 1 - h / size (code), ``none`` minimises -h (paper).
        stage: a number of this map's own where a network has several: each draws its channels by itself.
    """

    def __init__(self, channels: int, classes: int, keep: float = 0.5, norm: Norm = "size", stage: int = 0) -> None:
        super().__init__()
        if not 0 < keep <= 1:
            raise ValueError(f"keep is {keep}; it is the share of a class's channels that is kept, above 0 and up to 1")
        self.blocks, self.keep, self.norm = group_blocks(channels, classes), keep, norm
        # The same stream in all processes, whatever they draw from torch's generator; the count goes into checkpoints.
        self.seed, self.stage, self.drawn = torch.initial_seed() % 2**63, stage, 0

    def draw(self, device: torch.device) -> tuple[Int[Tensor, "_ _"], ...]:
        """The channels that this step keeps, drawn on the device; all of them outside of a training."""
        if not self.training:
            return tuple(torch.arange(size, device=device).expand(count, -1) for count, size in self.blocks)
        # Hashed into 32 bits: a CPU's generator takes no more of a seed, and seeds shall not share their streams.
        mixed = random.Random(f"{self.seed} {self.stage} {self.drawn}").getrandbits(32)
        generator = torch.Generator(device).manual_seed(mixed)
        self.drawn += 1
        kept = []
        for count, size in self.blocks:
            order = torch.rand(count, size, generator=generator, device=device).argsort(1)
            kept.append(order[:, : kept_channels(size, self.keep)].sort(1).values)
        return tuple(kept)

    def forward(
        self, maps: Float[Tensor, "b n u v"], target: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Discriminality and diversity, both to be minimised and not weighted."""
        with torch.autocast(maps.device.type, enabled=False):
            z, h = peaks_of_classes(maps, self.blocks, self.draw(maps.device))
            return nn.functional.cross_entropy(z, target), self.spread(h).mean()

    def spread(self, h: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """What is minimised of ``h``: 0 is the best with ``norm="size"``, minus the group's size with ``none``."""
        if self.norm == "none":
            return -h
        parts = h.split([count for count, _ in self.blocks], 1)
        return torch.cat([1 - part / size for part, (_, size) in zip(parts, self.blocks, strict=True)], 1)

    def get_extra_state(self) -> Tensor:
        """Where the stream of kept channels stands."""
        return torch.tensor([self.seed, self.drawn])

    def set_extra_state(self, state: Tensor) -> None:
        """Go on there."""
        self.seed, self.drawn = (int(value) for value in state)


class MutualChannel(CrossEntropy):
    """Cross-entropy, and the mutual-channel loss of the map that the features were pooled from (``LOSS=mc_loss``).

    The map is the network's own, with as many channels per class as it has; ``METHOD=mc_loss`` also changes the
    network, as the paper does.

    Args:
        features: see ``Head``.
        classes: see ``Head``.
        discriminality: weight; 1.5 in the authors' scripts from scratch.
        diversity: weight; 20 there. Their script for a pretrained network has 0.0005 and 0.005.
        keep: see ``MutualChannelLoss``.
        norm: see ``MutualChannelLoss``.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        discriminality: float = 1.5,
        diversity: float = 20.0,
        keep: float = 0.5,
        norm: Norm = "size",
    ) -> None:
        super().__init__(features, classes)
        if discriminality < 0 or diversity < 0:
            raise ValueError(f"discriminality={discriminality}, diversity={diversity}: weights must be at least 0")
        self.discriminality, self.diversity, self.keep, self.norm = discriminality, diversity, keep, norm
        self.mutual: MutualChannelLoss | None = None

    def check_maps(self, channels: int | None, number: int = 0) -> None:
        """Make the groups of the map that ``loss`` will get."""
        if channels is None:
            raise ValueError(NO_MAP)
        self.mutual = MutualChannelLoss(channels, len(self.weight), self.keep, self.norm, stage=number)

    def loss(
        self, features: Float[Tensor, "b d"], target: Int[Tensor, " b"], maps: Float[Tensor, "b n u v"] | None = None
    ) -> tuple[Float[Tensor, ""], Terms]:
        """The sum, and its terms without their weights."""
        entropy = super().loss(features, target)[0]
        if self.mutual is None or maps is None:
            raise ValueError(NO_MAP)
        discriminality, diversity = self.mutual(maps, target)
        loss = entropy + self.discriminality * discriminality + self.diversity * diversity
        return loss, {"discriminality": discriminality.detach(), "diversity": diversity.detach()}
