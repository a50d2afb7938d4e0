"""Mutual-channel loss: the last channels of the network belong to the classes, and say where each class is seen.

The evidence is the map of the predicted class's own channels: their maximum is the saliency, each of them is a part.

Paper: Chang et al., The Devil is in the Channels: Mutual-Channel Loss for Fine-Grained Image Classification, TIP 2020
(arXiv 2002.04264).
Code by the authors: github.com/dongliangchang/Mutual-Channel-Loss (MIT), used as a reference only.

The total loss, in one place (``MCLoss.total``)::

    loss of the last layer (cross-entropy)
    + discriminality * softmax cross-entropy of the kept channels' peaks
    + diversity      * (1 - h / size)             norm: size, the code's; or
    + diversity      * (-h)                       norm: none, the paper's, size times as strong

In the paper's symbols ``discriminality`` is mu and ``diversity`` is mu times lambda. What acts on ``h`` itself is
``diversity / size`` with the code's norm: 20 / 3 from scratch.

Differences from paper and from code, each with its reason:

* Weights from scratch are 1.5 and 20, those of the code's last version; the paper's lambda of 10 would make it 15. Its
  script for a pretrained ResNet-50 has 0.0005 and 0.005, which adds 0.003 to the loss: nearly nothing.
* See ``fgbench.losses.mutual_channel`` for channels that do not divide by the classes, masks of signed maps, and the
  norm.
* ``last_stride: 1`` is the authors' ResNet-18, whose last stage is not strided (and not dilated either).
* The layer before a batch norm in the classifier has no bias: the norm subtracts it.
* The pretrained network's classifier is the one of the ResNet-18 script: of the deleted script only the losses, rates
  and images are known to us.
* ``high: append`` and the fixed number of pooled cells are ours: they make every backbone and image size usable.
* Saliency and parts are of the predicted class, never of the label. The parts that the landmark error sees are its
  channels in their own order: channel one of two classes need not mean the same, which this metric then shows.

Not defined for attributes: a channel belongs to one of several exclusive classes.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fgbench.backbones import Backbone
from fgbench.layers.embedding import Embedding
from fgbench.layers.widen import conv_norm_relu, keep_resolution, widen_input, widen_stage
from fgbench.losses import CrossEntropy, MakeHead, MutualChannel
from fgbench.losses.mutual_channel import MutualChannelLoss, Norm, class_evidence, group_blocks
from fgbench.methods.base import Method, Optim
from fgbench.pretrained import Colour
from fgbench.types import Batch, Output, Target


def channel_table(channels: int, classes: int) -> Int[Tensor, "k p"]:
    """The channels of each class; -1 where a class has one less than others. Made on the CPU, whatever the default.

    >>> channel_table(5, 2)
    tensor([[ 0,  1, -1],
            [ 2,  3,  4]])
    """
    blocks = group_blocks(channels, classes)
    widest, rows, first = max(size for _, size in blocks), [], 0
    for count, size in blocks:
        block = torch.full((count, widest), -1, device="cpu")
        block[:, :size] = first + torch.arange(count * size, device="cpu").view(count, size)
        rows.append(block)
        first += count * size
    return torch.cat(rows)


def take_channels(maps: Float[Tensor, "b n u v"], index: Int[Tensor, "b ..."]) -> Float[Tensor, "b ... u v"]:
    """Some channels of each image, cut at zero, float32; zeros for -1."""
    image = torch.arange(len(index), device=index.device).view(-1, *[1] * (index.ndim - 1))
    taken = maps[image, index.clamp(min=0)].float().relu()
    return taken * (index >= 0)[..., None, None]


class MCLoss(Method):
    """A network whose last map has channels for each class, a small classifier on it, and the mutual-channel loss.

    Args:
        backbone: name of the network, a key of ``fgbench.backbones.ARCHITECTURES``.
        weights: null (from scratch), ``imagenet1k_v1`` or the path of a weights file.
        mean: normalisation of the network's input; null takes what the weights say.
        std: like ``mean``.
        high: where the channels of the last map come from: ``own``, the network's; ``widen``, its last stage is made
            as wide as needed (VGG and basic residual blocks); ``append``, a 1 x 1 convolution after it.
        high_channels: channels per class, but with ``own``; 3 in the paper.
        last_stride: 1 keeps the last stage of a ResNet from halving the map.
        cells: rows and columns that the last map is pooled to for the classifier: 7 of VGG-16, 1 of ResNets.
        features: of the classifier's hidden layer.
        discriminality: weight; see above.
        diversity: weight; see above.
        keep: share of a class's channels that a step keeps.
        norm: see above.
        loss: last layer and its loss.
        before_channels: channels per class of the map one stage before, which no loss sees: 3 in the authors' VGG-16;
            null leaves that stage as it is.
        num_outputs: see ``Method``.
        target: see ``Method``.
        optim: see ``Method``.
    """

    undefined_for: ClassVar[Mapping[Target, str]] = {"attributes": "a channel belongs to one of exclusive classes"}
    class_stages = 1
    no_contributions = "the classifier has a hidden layer, which mixes all channels"
    high_table: Tensor

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
        last_stride: Literal[1, 2] = 2,
        cells: int = 1,
        features: int = 512,
        discriminality: float = 1.5,
        diversity: float = 20.0,
        keep: float = 0.5,
        norm: Norm = "size",
        loss: MakeHead = CrossEntropy,
        before_channels: int | None = None,
    ) -> None:
        super().__init__(num_outputs, target, optim)
        if before_channels is not None and before_channels < 1:
            raise ValueError(f"before_channels is {before_channels}; it is at least 1, or null")
        if high_channels < 1 or discriminality < 0 or diversity < 0:
            raise ValueError(
                f"high_channels={high_channels}, discriminality={discriminality}, diversity={diversity}: "
                "need at least 1 channel and no negative weight"
            )
        self.backbone = Backbone(backbone, weights, mean=mean, std=std)
        self.discriminality, self.diversity, self.norm = discriminality, diversity, norm
        channels = self.backbone.out_channels if high == "own" else high_channels * num_outputs
        if last_stride == 1:
            keep_resolution(self.backbone.stages[-1])  # type: ignore[arg-type]
        if high == "widen":
            widen_stage(self.backbone.stages[-1], channels)  # type: ignore[arg-type]
            self.backbone.channels = (*self.backbone.channels[:-1], channels)
            self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if before_channels is not None:
            self.widen_before(before_channels * num_outputs)
        self.append = conv_norm_relu(self.backbone.out_channels, channels) if high == "append" else None
        self.high_loss = MutualChannelLoss(channels, num_outputs, keep, norm)
        self.register_buffer("high_table", channel_table(channels, num_outputs), persistent=False)
        self.parts = self.high_table.shape[1]
        self.embedding = Embedding(channels, cells, features)
        self.classifier = loss(features, num_outputs)
        self.classifier.check_maps(channels)
        if isinstance(self.classifier, MutualChannel) and (discriminality or diversity):
            raise ValueError(
                f"{type(self).__name__} has the mutual-channel loss on its channels already, and LOSS=mc_loss would "
                "count it twice: leave LOSS out, or take METHOD=baseline"
            )

    def widen_before(self, channels: int) -> None:
        """Make the map one stage before the last that wide."""
        before, after = self.backbone.stages[-2:]
        widen_stage(before, channels)  # type: ignore[arg-type]
        widen_input(after, channels)  # type: ignore[arg-type]
        self.backbone.channels = (*self.backbone.channels[:-2], channels, self.backbone.channels[-1])
        self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Logits, the map of the predicted class's channels, and each of them."""
        maps = self.stages(image)
        logits: Tensor = self.classifier(self.embedding(maps[0]))
        return self.evidence(logits, maps, logits.argmax(1))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and its terms without their weights."""
        maps = self.stages(batch.image)
        loss, terms = self.classifier.loss(self.embedding(maps[0]), batch.target, maps[0])
        terms = {"classification": loss.detach(), **terms}
        if self.discriminality or self.diversity:
            loss = self.total(loss, terms, maps, batch.target)
        return loss, terms

    @property
    def loss_weights(self) -> dict[str, float]:
        """Times its weight each, the terms are the total."""
        weights = {"high_discriminality": self.discriminality, "high_diversity": self.diversity}
        return {"classification": 1.0} | (weights if any(weights.values()) else {})

    def show(self, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"]) -> Output:
        """All evidence for any class of each image."""
        maps = self.stages(image)
        return self.evidence(self.classifier(self.embedding(maps[0])), maps, index)

    def explain(self, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"]:
        """The map of any class's channels."""
        return take_channels(self.stages(image)[0], self.high_table[index]).amax(1)

    def total(
        self, loss: Tensor, terms: dict[str, Tensor], maps: tuple[Tensor, ...], target: Int[Tensor, " b"]
    ) -> Tensor:
        """The classification loss, and the weighted losses of the channels; adds their values to ``terms``."""
        return loss + self.weighted("high", self.high_loss, maps[0], target, terms)

    def weighted(
        self, stage: str, channels: MutualChannelLoss, maps: Tensor, target: Int[Tensor, " b"], terms: dict[str, Tensor]
    ) -> Tensor:
        """Both losses of one map with their weights."""
        discriminality, diversity = channels(maps, target)
        terms |= {f"{stage}_discriminality": discriminality.detach(), f"{stage}_diversity": diversity.detach()}
        loss: Tensor = self.discriminality * discriminality + self.diversity * diversity
        return loss

    def stages(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b _ _ _"], ...]:
        """The maps whose channels belong to classes, the last one first."""
        maps: Tensor = self.backbone(image)
        return (maps if self.append is None else self.append(maps),)

    def evidence(self, logits: Tensor, maps: tuple[Tensor, ...], index: Int[Tensor, " b"]) -> Output:
        """What the channels of a class show, and what those of each say."""
        parts = take_channels(maps[0], self.high_table[index])
        scores = class_evidence(maps[0], self.high_loss.blocks)[:, None]
        return Output(logits, parts.amax(1), parts, scores)
