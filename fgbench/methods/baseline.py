"""The baseline: a network, global average pooling, one linear layer; any loss of ``fgbench.losses`` (``LOSS=<name>``).

The evidence is the class activation map (CAM): the linear layer applied to each cell before pooling, for the predicted
class, cut at zero. Losses of angles or distances show the direction or the mean of the class instead of the weights.

Paper: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016 (CAM). No code of theirs is used.

Differences from common use: VGG's fully connected layers are left out, as in the paper's VGG-GAP; the map is that of
conv5_3 (stride 16). The bias is no evidence of any cell and is left out of the map. For attributes the map is that of
the attribute with the largest logit; ``explain`` gives it for any other.

With ``head: isqrt_*`` the pooling is that of iSQRT-COV (``layers.isqrt_cov``), and the last stage keeps the size of its
map, as in that paper: covariances want many cells. No cell's share in such a descriptor is a sum, so there is no map.
``flip_test`` averages the probabilities of an image and its mirror image, as that paper does.

``embedding`` puts the classifier of the mutual-channel papers between map and last layer, for their comparison of
losses: maxima of ``cells`` rows and columns, batch norm, a layer of so many features, batch norm, ELU. There is no CAM
then, and so no saliency.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fgbench.backbones import Backbone
from fgbench.layers.embedding import Embedding
from fgbench.layers.flip import flip_average
from fgbench.layers.isqrt_cov import Head, make_pool
from fgbench.losses import CrossEntropy, MakeHead, check_target
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
        head: Head = "average",
        flip_test: bool = False,
        loss: MakeHead = CrossEntropy,
        embedding: int | None = None,
        cells: int = 1,
    ) -> None:
        super().__init__(num_outputs, target, optim)
        if embedding is not None and head != "average":
            raise ValueError(f"head {head} and embedding {embedding} are two descriptors of one map: choose one")
        unstrided = () if head == "average" else (-1,)
        self.backbone = Backbone(backbone, weights, unstrided=unstrided, mean=mean, std=std)
        channels = self.backbone.out_channels
        pool = make_pool(head, channels)
        self.pool = pool if embedding is None else Embedding(channels, cells, embedding)
        self.classifier = loss(embedding or pool.outputs, num_outputs)
        self.classifier.check_maps(channels)
        self.has_map, self.flip_test = head == "average" and embedding is None, flip_test
        check_target(self.classifier, target)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Logits and the CAM of the largest one."""
        maps, features = self._features(image)
        logits: Tensor = self.classifier(features)
        if self.flip_test and not self.training:
            logits = flip_average(logits, self.classifier(self._features(image.flip(3))[1]), self.target)
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

    def linear_evidence(self) -> Float[Tensor, "k d"] | None:
        """Of a head on the map's mean."""
        return self.classifier.evidence() if self.has_map else None

    def _cam(self, maps: Float[Tensor, "b d u v"], index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"] | None:
        return class_activation_map(maps, self.classifier.evidence(), index) if self.has_map else None

    def _features(self, image: Tensor) -> tuple[Float[Tensor, "b d u v"], Float[Tensor, "b f"]]:
        maps = self.backbone(image)
        return maps, self.pool(maps)
