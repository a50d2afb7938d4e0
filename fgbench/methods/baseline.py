"""The baseline: a network, global average pooling, one linear layer.

The evidence is the class activation map (CAM): the linear layer applied to each cell before pooling, for the predicted
class, cut at zero.

Paper: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016 (CAM). No code of theirs is used.

Differences from common use: VGG's fully connected layers are left out, as in the paper's VGG-GAP; the map is that of
conv5_3 (stride 16). The bias is no evidence of any cell and is left out of the map. For attributes the map is that of
the attribute with the largest logit; ``explain`` gives it for any other.

With ``head: isqrt_*`` the pooling is that of iSQRT-COV (``layers.isqrt_cov``), and the last stage keeps the size of its
map, as in that paper: covariances want many cells. No cell's share in such a descriptor is a sum, so there is no map.
``flip_test`` averages the probabilities of an image and its mirror image, as that paper does.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fgbench.backbones import Backbone
from fgbench.layers.flip import flip_average
from fgbench.layers.isqrt_cov import Head, make_pool
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
    """Pooling (the average, by default) and a linear layer on a backbone.

    Args:
        backbone: name of the network, a key of ``fgbench.backbones.ARCHITECTURES``.
        weights: null (from scratch), ``imagenet1k_v1`` or the path of a weights file.
        mean: normalisation of the network's input; null takes what the weights say.
        std: like ``mean``.
        head: descriptor of the map.
        flip_test: average the probabilities with those of the mirrored image.
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
        head: Head = "average",
        flip_test: bool = False,
    ) -> None:
        super().__init__(num_outputs, target, optim)
        unstrided = () if head == "average" else (-1,)
        self.backbone = Backbone(backbone, weights, unstrided=unstrided, mean=mean, std=std)
        self.pool = make_pool(head, self.backbone.out_channels)
        self.classifier = nn.Linear(self.pool.outputs, num_outputs)
        self.head, self.flip_test = head, flip_test

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Logits and the CAM of the largest one."""
        features, logits = self._classify(image)
        if self.flip_test and not self.training:
            logits = flip_average(logits, self._classify(image.flip(3))[1], self.target)
        return Output(logits, self._evidence(features, logits.argmax(1)))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The classification loss."""
        return self.classification_loss(self._classify(batch.image)[1], batch), {}

    def explain(self, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"] | None:
        """The CAM of any class or attribute."""
        return self._evidence(self.backbone(image), index)

    def _evidence(self, features: Tensor, index: Tensor) -> Float[Tensor, "b u v"] | None:
        return class_activation_map(features, self.classifier.weight, index) if self.head == "average" else None

    def _classify(self, image: Tensor) -> tuple[Float[Tensor, "b d u v"], Float[Tensor, "b k"]]:
        features = self.backbone(image)
        return features, self.classifier(self.pool(features)).float()
