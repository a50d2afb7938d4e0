"""The small network that finds where to look: a pretrained trunk with a fine map, and dilated convolutions.

Zheng et al., CVPR 2019, section 3.1, and the authors' code: a ResNet-18 of which the strides of stages 2 and 4 are
removed, so that 224 pixels give 28 cells; two layers of dilated convolutions, the dilations of a layer sharing their
weights; a classifier. ``ssn`` uses the trunk too.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fgbench.backbones import ARCHITECTURES, Backbone
from fgbench.layers.dilated import SharedDilation
from fgbench.losses import MakeHead


class AttentionNet(nn.Module):
    """A trunk with a fine map, two layers of several dilations, and a classifier.

    Args:
        trunk: its last map has stride 8.
        channels: of the attention; None for those of the trunk.
        num_outputs: of the classifier.
        loss: last layer of the classifier, with its loss; None for a linear layer.
    """

    def __init__(self, trunk: Backbone, channels: int | None, num_outputs: int, loss: MakeHead | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.channels = channels or trunk.out_channels
        self.dilated = nn.Sequential(
            SharedDilation(trunk.out_channels, self.channels, (1, 2)),
            SharedDilation(self.channels, self.channels, (1, 2, 3)),
        )
        self.norm = nn.BatchNorm2d(self.channels)
        self.classifier = make_classifier(loss, self.channels, num_outputs, self.channels)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c u v"]:
        """The non-negative map that attention is made of."""
        features: Tensor = self.dilated(self.trunk(image))
        return features

    def classify(self, features: Float[Tensor, "b c u v"]) -> Float[Tensor, "b k"]:
        """Logits, the only thing the attention net learns from."""
        logits: Tensor = self.classifier(self.describe(features)[0])
        return logits

    def describe(self, features: Float[Tensor, "b c u v"]) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c u v"]]:
        """What the classifier sees, and the map that it is the mean of."""
        maps = self.norm(features).relu()
        return maps.mean((2, 3)), maps


def make_classifier(
    loss: MakeHead | None, features: int, num_outputs: int, channels: int, number: int = 0
) -> nn.Module:
    """A linear layer, or the head of a loss for features of a map of so many channels: see ``Head.check_maps``."""
    if loss is None:
        return nn.Linear(features, num_outputs)
    head = loss(features, num_outputs)
    head.check_maps(channels, number)
    return head


def attention_trunk(arch: str, weights: str | None, stages: int | None = None, stride: int = 8) -> Backbone:
    """A backbone that has no more than a stride: others are removed, of the last stage, the last but two, and so on.

    Raises:
        ValueError: what stays has more.
    """
    known = ARCHITECTURES[arch].strides[:stages] if arch in ARCHITECTURES else ()
    strides = known or (1,)  # of what there is not, Backbone knows what to say
    reached, number, chosen = strides[-1], len(strides) - 1, []
    while reached > stride and number > 0:
        if strides[number] > strides[number - 1]:
            chosen.append(number)
            reached //= strides[number] // strides[number - 1]
            number -= 1
        number -= 1
    if reached > stride:
        raise ValueError(f"attention_stride is {stride}; the least that {arch} can have with these stages is more")
    return Backbone(arch, weights, stages=stages, unstrided=tuple(sorted(chosen)))


def scaled(image: Float[Tensor, "b 3 h w"], short: int) -> tuple[int, int]:
    """Height and width in proportion to the image's, the shorter side of ``short`` pixels."""
    height, width = image.shape[2:]
    least = min(height, width)
    return round(height * short / least), round(width * short / least)
