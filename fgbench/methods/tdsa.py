"""Top-down spatial attention loss: the mutual-channel loss at two stages, the earlier one gated by the last one's maps.

The evidence is that of ``mc_loss``, and the earlier channels of each part: finer maps within it.

Paper: Chang, Zheng, Ma, Du, Liang, arXiv 2102.00367 (2021).
Code by the authors: github.com/dongliangchang/Top-Down-Spatial-Attention-Loss (MIT; VGG-16 on CUB only), used as a
reference only.

The total loss, in one place (``TDSA.total``)::

    loss of the last layer (cross-entropy)
    +               discriminality * L_dis(high) + diversity * (1 - h / size)     the last map, MC_1
    + mid_weight * (discriminality * L_dis(mid') + diversity * (1 - h / size))    the earlier map times the gate, MC_2

``discriminality`` 1.5 is the paper's mu, ``diversity`` 15 its mu times lambda. What acts on ``h`` itself is
``diversity`` over the channels per class: 15 / 3 for the last map and 15 / (3 ``xi``) for the earlier one, 15 / 9 with
the paper's 3. Where a pretrained network's channels do not divide by the classes, each group has its own: ResNet-50
with 200 classes 15 / 10 and 15 / 11 for the last map, 15 / 5 and 15 / 6 for the earlier one. The paper's formula read
literally (``norm: none``) would be that many times as strong.

The gate is sigmoid(up-sampled last map); each of its channels gates ``xi`` neighbouring channels of its own class. It
feeds MC_2 only: neither the later layers nor a test see it. After a ReLU it is never below one half.

Differences from paper and from code, each with its reason:

* Eq. 6 sums over images where it must sum over classes; "C^h higher than C^l" is meant the other way round.
* ResNet-18 was not released. Its taps must be layer3 and layer4. Making all of layer3 1,800 channels wide would take
  111 M parameters, so ``mid: inline`` puts a 1 x 1 convolution, batch norm and ReLU behind it; ``widen`` and ``side``
  (for the loss only) can be had. The paper does not say whether layer4 is strided: ``last_stride: 1`` is the ResNet-18
  of the authors' mutual-channel script.
* Channels of a pretrained network that do not divide by the classes make two group sizes at each stage. Channel ``i``
  of a class's ``m`` is gated by channel ``i * n / m`` of its ``n``, rounded down, which is the paper's repetition where
  ``n`` divides ``m``. Ours: the paper trains from scratch only.
* With ``nearest`` the sigmoid is taken before up-sampling, which is the same and four times cheaper.
* The rest as in ``mc_loss``.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fgbench.layers.widen import conv_norm_relu, widen_input
from fgbench.losses import CrossEntropy, MakeHead
from fgbench.losses.mutual_channel import MutualChannelLoss, Norm, class_evidence
from fgbench.methods.base import Optim
from fgbench.methods.mc_loss import MCLoss, channel_table, take_channels
from fgbench.pretrained import Colour
from fgbench.types import Output, Target

Upsample = Literal["nearest", "bilinear", "bicubic"]


def gate_of(high: Float[Tensor, "b n u v"], size: tuple[int, int], mode: Upsample) -> Float[Tensor, "b n u2 v2"]:
    """Sigmoid of the up-sampled map (Eq. 7)."""
    if tuple(high.shape[2:]) == size:
        return high.sigmoid()
    if mode == "nearest":
        return nn.functional.interpolate(high.sigmoid(), size, mode=mode)
    return nn.functional.interpolate(high, size, mode=mode, align_corners=False).sigmoid()


def gating_channels(high: int, mid: int, classes: int) -> Int[Tensor, " m"]:
    """For each earlier channel the last one that gates it, of the same class.

    >>> gating_channels(4, 8, 2)
    tensor([0, 0, 1, 1, 2, 2, 3, 3])
    """
    last, earlier = channel_table(high, classes), channel_table(mid, classes)
    have, want = (last >= 0).sum(1, keepdim=True), (earlier >= 0).sum(1, keepdim=True)
    place = torch.arange(earlier.shape[1], device="cpu") * have // want
    return last.gather(1, place.clamp(max=last.shape[1] - 1))[earlier >= 0]


def finer_table(gating: Int[Tensor, " m"], high_table: Int[Tensor, "k p"]) -> Int[Tensor, "k p s"]:
    """The earlier channels that each last channel of each class gates; -1 where there are fewer than most have."""
    counts = torch.bincount(gating, minlength=int(high_table.max()) + 1)
    first = counts.cumsum(0) - counts
    place = torch.arange(int(counts.max()), device="cpu")
    of_channel = torch.where(place < counts[:, None], first[:, None] + place, -1)
    return torch.where(high_table[..., None] >= 0, of_channel[high_table.clamp(min=0)], -1)


def apply_gate(
    mid: Float[Tensor, "b m u v"], gate: Float[Tensor, "b n u v"], gating: Int[Tensor, " m"] | None
) -> Float[Tensor, "b m u v"]:
    """The earlier map times the gate; ``gating`` None repeats each of its channels equally often, without a copy."""
    if gating is None:
        repeated: Tensor = mid.unflatten(1, (gate.shape[1], -1)) * gate[:, :, None]
        return repeated.flatten(1, 2)
    return mid * gate[:, gating]


class TDSA(MCLoss):
    """The mutual-channel loss of the last map and of the gated map one stage before.

    Args:
        mid: where the earlier channels come from: ``own``, the network's; ``widen``, its stage is made as wide as
            needed; ``inline``, a 1 x 1 convolution between the two stages; ``side``, one that feeds the loss only.
        xi: earlier channels per last channel, 1 to 5 in the paper; not with ``own``.
        attention: false leaves the gate out (ablation).
        upsample: of the gate to the size of the earlier map.
        mid_weight: of the earlier map's losses; 0 is ``mc_loss`` on this network.
        num_outputs: see ``Method``.
        target: see ``Method``.
        optim: see ``Method``.
        backbone: see ``MCLoss``, as all that follow.
        weights: see there.
        mean: see there.
        std: see there.
        high: see there.
        high_channels: see there.
        last_stride: see there.
        cells: see there.
        features: see there.
        discriminality: see there.
        diversity: see there.
        keep: see there.
        norm: see there.
        loss: see there.
    """

    class_stages = 2
    gating: Tensor
    finer: Tensor

    def __init__(
        self,
        num_outputs: int,
        target: Target,
        optim: Optim,
        backbone: str = "resnet50",
        weights: str | None = "imagenet1k_v1",
        mean: Colour | None = None,
        std: Colour | None = None,
        high: Literal["own", "widen", "append"] = "own",
        high_channels: int = 3,
        mid: Literal["own", "widen", "inline", "side"] = "own",
        xi: int = 3,
        attention: bool = True,
        upsample: Upsample = "nearest",
        mid_weight: float = 1.0,
        last_stride: Literal[1, 2] = 2,
        cells: int = 1,
        features: int = 512,
        discriminality: float = 1.5,
        diversity: float = 15.0,
        keep: float = 0.5,
        norm: Norm = "size",
        loss: MakeHead = CrossEntropy,
    ) -> None:
        network = (backbone, weights, mean, std, high, high_channels, last_stride, cells, features)
        super().__init__(num_outputs, target, optim, *network, discriminality, diversity, keep, norm, loss)
        if xi < 1 or mid_weight < 0:
            raise ValueError(f"xi={xi}, mid_weight={mid_weight}: need at least 1 channel and no negative weight")
        if mid == "side" and not mid_weight * (discriminality + diversity):
            raise ValueError("mid: side is a layer for the loss only, and nothing weighs that loss: take mid: inline")
        self.attention, self.upsample, self.mid_weight = attention, upsample, mid_weight
        channels, last = self._widen(mid, xi), self.high_table.numel() - int((self.high_table < 0).sum())
        self.mid_loss = MutualChannelLoss(channels, num_outputs, keep, norm, stage=1)
        gating = gating_channels(last, channels, num_outputs)
        self.repeats = torch.equal(gating, torch.arange(last, device="cpu").repeat_interleave(channels // last))
        self.register_buffer("gating", gating, persistent=False)
        self.register_buffer("finer", finer_table(gating, self.high_table), persistent=False)

    def _widen(self, mid: str, xi: int) -> int:
        """Make the earlier stage as wide as asked; its channels."""
        own = self.backbone.channels[-2]
        wide = own if mid == "own" else xi * int((self.high_table >= 0).sum())
        self.inline = conv_norm_relu(own, wide) if mid == "inline" else None
        self.side = conv_norm_relu(own, wide) if mid == "side" else None
        if mid == "widen":
            self.widen_before(wide)
        if mid == "inline":
            widen_input(self.backbone.stages[-1], wide)  # type: ignore[arg-type]
            self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return wide

    @property
    def loss_weights(self) -> dict[str, float]:
        """Times its weight each, the terms are the total."""
        weights = super().loss_weights
        if self.mid_weight and len(weights) > 1:
            pair = {"mid_discriminality": self.discriminality, "mid_diversity": self.diversity}
            weights |= {name: self.mid_weight * weight for name, weight in pair.items()}
        return weights

    def total(
        self, loss: Tensor, terms: dict[str, Tensor], maps: tuple[Tensor, ...], target: Int[Tensor, " b"]
    ) -> Tensor:
        """The classification loss, and the weighted losses of both maps; adds their values to ``terms``."""
        loss = super().total(loss, terms, maps, target)
        if self.mid_weight:
            loss = loss + self.mid_weight * self.weighted("mid", self.mid_loss, self.gated(*maps), target, terms)
        return loss

    def gated(self, high: Float[Tensor, "b n _ _"], mid: Float[Tensor, "b m u v"]) -> Float[Tensor, "b m u v"]:
        """The earlier map as MC_2 sees it."""
        if not self.attention:
            return mid
        gate = gate_of(high, (mid.shape[2], mid.shape[3]), self.upsample)
        return apply_gate(mid, gate, None if self.repeats else self.gating)

    def stages(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b _ _ _"], ...]:
        """The last map and the one of the stage before, not gated."""
        for stage in self.backbone.stages[:-1]:
            image = stage(image)
        mid = image if self.inline is None else self.inline(image)
        high = self.backbone.stages[-1](mid)
        return high if self.append is None else self.append(high), mid if self.side is None else self.side(mid)

    def evidence(self, logits: Tensor, maps: tuple[Tensor, ...], index: Int[Tensor, " b"]) -> Output:
        """What the channels of a class show at both stages, and what those of each say."""
        output = super().evidence(logits, maps[:1], index)
        scores = class_evidence(maps[1], self.mid_loss.blocks)
        both = torch.stack([output.scores[:, 0], scores], 1) if output.scores is not None else None
        return output._replace(scores=both, finer=take_channels(maps[1], self.finer[index]))
