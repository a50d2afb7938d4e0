"""The baseline: a network, global average pooling, one linear layer; any loss of ``fgbench.losses`` (``LOSS=<name>``).

The evidence is the class activation map (CAM): the linear layer applied to each cell before pooling, for the predicted
class, cut at zero. Losses of angles or distances show the direction or the mean of the class instead of the weights.

Paper: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016 (CAM). No code of theirs is used.

Differences from common use: VGG's fully connected layers are left out, as in the paper's VGG-GAP; the map is that of
conv5_3 (stride 16). The bias is no evidence of any cell and is left out of the map. For attributes the map is that of
the attribute with the largest logit; ``explain`` gives it for any other.

``embedding`` puts the classifier of the mutual-channel papers between map and last layer, for their comparison of
losses: maxima of ``cells`` rows and columns, batch norm, a layer of so many features, batch norm, ELU. There is no CAM
then, and so no saliency.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fgbench.backbones import Backbone
from fgbench.layers.embedding import Embedding
from fgbench.losses import CrossEntropy, MakeHead
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
        loss: last layer and loss of exclusive classes; attributes have a linear layer and binary cross-entropy.
        embedding: features between map and last layer; null for global average pooling alone.
        cells: with ``embedding``: rows and columns that the map is pooled to.
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
        loss: MakeHead = CrossEntropy,
        embedding: int | None = None,
        cells: int = 1,
    ) -> None:
        super().__init__(num_outputs, target, optim)
        self.backbone = Backbone(backbone, weights, mean=mean, std=std)
        channels = self.backbone.out_channels
        self.embedding = Embedding(channels, cells, embedding) if embedding is not None else None
        self.classifier = loss(embedding or channels, num_outputs)
        self.classifier.check_maps(channels)
        if target == "attributes" and type(self.classifier) is not CrossEntropy:
            raise ValueError(
                f"the loss {type(self.classifier).__name__} is of exclusive classes, the dataset asks for attributes: "
                "leave LOSS out"
            )

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Logits and the CAM of the largest one."""
        maps, features = self._features(image)
        logits: Tensor = self.classifier(features)
        return Output(logits, self._cam(maps, logits.argmax(1)))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The classification loss."""
        maps, features = self._features(batch.image)
        if self.target == "attributes":
            return self.classification_loss(self.classifier(features), batch), {}
        return self.classifier.loss(features, batch.target, maps)

    def explain(self, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"] | None:
        """The CAM of any class or attribute."""
        return self._cam(self.backbone(image), index)

    def _cam(self, maps: Float[Tensor, "b d u v"], index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"] | None:
        return None if self.embedding is not None else class_activation_map(maps, self.classifier.evidence(), index)

    def _features(self, image: Tensor) -> tuple[Float[Tensor, "b d u v"], Float[Tensor, "b f"]]:
        maps = self.backbone(image)
        return maps, maps.mean((2, 3)) if self.embedding is None else self.embedding(maps)
