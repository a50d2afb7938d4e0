"""The baseline: a network, global average pooling, one linear layer.

The evidence is the class activation map (CAM): the linear layer applied to each cell before pooling, for the predicted
class, cut at zero.

Paper: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016 (CAM). No code of theirs is used.

Differences from common use: VGG's fully connected layers are left out, as in the paper's VGG-GAP; the map is that of
conv5_3 (stride 16). The bias is no evidence of any cell and is left out of the map. For attributes the map is that of
the attribute with the largest logit; ``explain`` gives it for any other.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fgbench.backbones import Backbone
from fgbench.methods.base import Method, Optim
from fgbench.pretrained import Colour
from fgbench.types import Batch, Output, Target


def class_activation_map(
    features: Float[Tensor, "b d u v"], weight: Float[Tensor, "k d"], index: Int[Tensor, " b"]
) -> Float[Tensor, "b u v"]:
    """The linear layer's positive evidence for one class per image, cell by cell."""
    with torch.autocast(features.device.type, enabled=False):
        return torch.einsum("bd,bduv->buv", weight.float()[index], features.float()).relu()


class Baseline(Method):
    """Global average pooling and a linear layer on a backbone.

    Args:
        backbone: name of the network, a key of ``fgbench.backbones.ARCHITECTURES``.
        weights: null (from scratch), ``imagenet1k_v1`` or the path of a weights file.
        mean: normalisation of the network's input; null takes what the weights say.
        std: like ``mean``.
        num_outputs: see ``Method``.
        target: see ``Method``.
        optim: see ``Method``.
    """

    def __init__(
        self,
        num_outputs: int,
        target: Target,
        optim: Optim,
        backbone: str = "resnet101",
        weights: str | None = "imagenet1k_v1",
        mean: Colour | None = None,
        std: Colour | None = None,
    ) -> None:
        super().__init__(num_outputs, target, optim)
        self.backbone = Backbone(backbone, weights, mean=mean, std=std)
        self.classifier = nn.Linear(self.backbone.out_channels, num_outputs)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Logits and the CAM of the largest one."""
        features, logits = self._classify(image)
        return Output(logits, class_activation_map(features, self.classifier.weight, logits.argmax(1)))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The classification loss."""
        return self.classification_loss(self._classify(batch.image)[1], batch), {}

    def explain(self, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"]:
        """The CAM of any class or attribute."""
        return class_activation_map(self.backbone(image), self.classifier.weight, index)

    def _classify(self, image: Tensor) -> tuple[Float[Tensor, "b d u v"], Float[Tensor, "b k"]]:
        features = self.backbone(image)
        return features, self.classifier(features.mean((2, 3))).float()
