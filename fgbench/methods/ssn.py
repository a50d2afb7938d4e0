"""SSN: a saliency map learned from the label alone decides which parts of a large image are seen large.

The evidence is that map (``saliency``): a small network gives one value per cell, a softmax makes it a map, and the
classifying network sees the image resampled towards it. Unlike in TASN the map learns through the sampling: the
classification's gradient reaches it.

Paper: Recasens, Kellnhofer, Stent, Matusik & Torralba, Learning to Zoom: a Saliency-Based Sampling Layer for Neural
Networks, ECCV 2018; compared with by Zheng et al., CVPR 2019, Tables 5 and 10. No code of the authors is used.

Differences from paper and from code, each with its reason:

* The saliency network's trunk is the one of ``tasn``'s attention net (stride 8), not a ResNet-18 cut after its third
  stage: both methods then look with the same eyes, and any pretrained backbone will do.
* The saliency is continued beyond the border by its border, and displacements, not positions, are interpolated:
  constant saliency then is the identity exactly.
* The blurring of the classifier's input in the first epochs, which pushes the map to sharpen, is left out.
* The convolution that gives the map starts small: training starts near the plain resize.
* The width of the Gaussian is that of the authors' code, 13 of 31 cells at half maximum (the paper: about a third of
  the map's side).
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fgbench.backbones import Backbone
from fgbench.layers import attention_sampler
from fgbench.layers.ssn_sampler import SIGMA, ssn_grid
from fgbench.losses import CrossEntropy, MakeHead, check_target
from fgbench.methods.attention_net import attention_trunk, scaled
from fgbench.methods.base import Method, Optim
from fgbench.pretrained import Colour
from fgbench.types import Batch, Output, Target

START = 0.01  # spread of the saliency's first weights


class SSN(Method):
    """Saliency-based sampling network.

    Args:
        backbone: the network that classifies, a key of ``fgbench.backbones.ARCHITECTURES``.
        weights: null (from scratch), ``imagenet1k_v1`` or the path of a weights file.
        mean: normalisation of the network's input; null takes what the weights say.
        std: like ``mean``.
        attention_backbone: trunk of the saliency network; null for the backbone's architecture and weights.
        attention_weights: of ``attention_backbone``.
        attention_stages: of the trunk; null for all.
        attention_stride: of the trunk's map: 8 is the paper's ResNet-18 with two strides removed.
        attention_size: short side at which the saliency network sees the image, pixels.
        sampled: short side of the sampled image, pixels.
        sigma: of the Gaussian, in sides of the map.
        loss: last layer and loss of exclusive classes; see ``Baseline``.
        num_outputs: see ``Method``.
        target: see ``Method``.
        optim: see ``Method``.
    """

    figures = ("sampling",)

    def __init__(
        self,
        num_outputs: int,
        target: Target,
        optim: Optim,
        backbone: str = "resnet50",
        weights: str | None = "imagenet1k_v1",
        mean: Colour | None = None,
        std: Colour | None = None,
        attention_backbone: str | None = None,
        attention_weights: str | None = None,
        attention_stages: int | None = None,
        attention_stride: int = 8,
        attention_size: int = 224,
        sampled: int = 224,
        sigma: float = SIGMA,
        loss: MakeHead = CrossEntropy,
    ) -> None:
        super().__init__(num_outputs, target, optim)
        if attention_weights is not None and attention_backbone is None:
            raise ValueError(
                "attention_weights are those of attention_backbone, which is null: the backbone's are used"
            )
        if min(attention_size, sampled) < 16 or not 0 < sigma <= 1:
            raise ValueError(
                f"attention_size={attention_size}, sampled={sampled}, sigma={sigma}: need 16 pixels, and a sigma "
                "above 0 and up to 1"
            )
        self.backbone = Backbone(backbone, weights, mean=mean, std=std)
        arch, own = (attention_backbone, attention_weights) if attention_backbone else (backbone, weights)
        self.trunk = attention_trunk(arch, own, attention_stages, attention_stride)
        self.norm = nn.BatchNorm2d(self.trunk.out_channels)
        # No bias: the softmax over cells would subtract it.
        self.score = nn.Conv2d(self.trunk.out_channels, 1, 1, bias=False)
        nn.init.normal_(self.score.weight, std=START)
        self.classifier = loss(self.backbone.out_channels, num_outputs)
        self.classifier.check_maps(self.backbone.out_channels)
        check_target(self.classifier, target)
        self.attention_size, self.sampled, self.sigma = attention_size, sampled, sigma

    def pretrained(self) -> list[nn.Module]:
        """Both networks start from weights."""
        return [self.backbone, self.trunk]

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Logits and the saliency."""
        saliency = self._saliency(image)
        logits: Tensor = self.classifier(self._maps(image, saliency).mean((2, 3)))
        return Output(logits.float(), saliency)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The classification loss of the sampled image."""
        maps = self._maps(batch.image, self._saliency(batch.image))
        features = maps.mean((2, 3))
        if self.target == "attributes":
            return self.classification_loss(self.classifier(features), batch), {}
        return self.classifier.loss(features, batch.target, maps)

    def _saliency(self, image: Tensor) -> Float[Tensor, "b u v"]:
        small = nn.functional.interpolate(
            image, scaled(image, self.attention_size), mode="bilinear", align_corners=False
        )
        scores = self.score(self.norm(self.trunk(small)).relu())[:, 0].float()
        saliency: Tensor = scores.flatten(1).softmax(1).view_as(scores)
        return saliency

    def _maps(self, image: Tensor, saliency: Tensor) -> Float[Tensor, "b d u v"]:
        sampled = attention_sampler.read(image, self._grid(image, saliency))
        maps: Tensor = self.backbone(sampled)
        return maps

    def _grid(self, image: Tensor, saliency: Tensor) -> Float[Tensor, "b oh ow 2"]:
        return ssn_grid(saliency, scaled(image, self.sampled), self.sigma)

    def linear_evidence(self) -> Float[Tensor, "k d"]:
        """Of the head on the mean of the sampled image's map."""
        evidence: Tensor = self.classifier.evidence()
        return evidence

    def over_image(self, maps: Float[Tensor, "b n u v"], image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n u2 v2"]:
        """Each sampled pixel's value back at the place that it was read from."""
        return attention_sampler.write_back(maps, self._grid(image, self._saliency(image)), image)

    @torch.no_grad()
    def figure(self, name: str, batch: Batch) -> Mapping[str, Tensor]:
        """The map, the points and the sampled image."""
        image = batch.image
        saliency = self._saliency(image)
        grid = self._grid(image, saliency)
        seen = self.backbone.to_bytes(attention_sampler.read(image, grid))[0]
        return attention_sampler.panels(image, saliency, grid) | {"sampled": seen}
