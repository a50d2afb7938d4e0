"""Losses with a point per class in feature space: center loss, and large-margin Gaussian mixture loss."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fgbench.layers.distributed import gather
from fgbench.losses.heads import CrossEntropy, Head, Terms
from fgbench.losses.margins import at_target, replace_target


class Center(CrossEntropy):
    """Cross-entropy, and half the squared distance of each feature from the centre of its class.

    Paper: Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV 2016 (weight 0.003 and
    step 0.5 in its experiments). Centres move by the paper's own rule, Eq. 4, over the batch of all processes; no
    optimiser sees them, so nothing decays them. They start at zero (the paper does not say).

    Args:
        features: see ``Head``.
        classes: see ``Head``.
        weight: of the distance; the mean over images counts, not their sum.
        step: how far a centre moves towards the features of its class.
    """

    centres: Tensor

    def __init__(self, features: int, classes: int, weight: float = 0.003, step: float = 0.5) -> None:
        super().__init__(features, classes)
        if weight < 0 or not 0 <= step <= 1:
            raise ValueError(
                f"center loss: weight={weight}, step={step}: need a weight of at least 0, a step in [0, 1]"
            )
        self.distance_weight, self.step = weight, step
        self.register_buffer("centres", torch.zeros(classes, features))

    def loss(
        self, features: Float[Tensor, "b d"], target: Int[Tensor, " b"], maps: Float[Tensor, "b n u v"] | None = None
    ) -> tuple[Float[Tensor, ""], Terms]:
        """Both terms, with the centres before this batch; in training the centres move."""
        entropy = super().loss(features, target)[0]
        with torch.autocast(features.device.type, enabled=False):
            distance = 0.5 * ((features.float() - self.centres[target]) ** 2).sum(1).mean()
        if self.training:
            self.move(features.detach().float(), target)
        return entropy + self.distance_weight * distance, {"center": distance.detach()}

    @torch.no_grad()
    def move(self, features: Float[Tensor, "b d"], target: Int[Tensor, " b"]) -> None:
        """Each centre goes ``step`` times sum(feature - centre) / (1 + n) towards the n features of its class."""
        features, target = gather(features), gather_labels(target)
        change = torch.zeros_like(self.centres).index_add_(0, target, features - self.centres[target])
        count = torch.zeros_like(self.centres[:, :1]).index_add_(0, target, torch.ones_like(features[:, :1]))
        self.centres += self.step * change / (1 + count)


class LGM(Head):
    """Classes are Gaussians with one covariance, the identity; the target's distance is enlarged in training.

    Paper: Wan et al., Rethinking Feature Distribution for Loss Functions in Image Classification, CVPR 2018. The logit
    of a class is minus half the squared distance from its mean, Eq. 5; of the target ``1 + margin`` times that, Eq. 12;
    the likelihood term is half the squared distance from the target's mean, Eq. 9. The paper takes margins of 0.1
    to 0.3 on CIFAR-100 and weights of the likelihood of 0.01 to 0.1; 0.1 and 0.01 are the defaults of the authors'
    TensorFlow code (github.com/WeitaoVan/L-GM-loss), as are the means' first values.

    From scratch it starts badly: on long features a larger margin and a larger likelihood both ask for shorter ones
    first, and with all features and means in one point the cross-entropy has no gradient
    (``experiments/losses/lgm.yaml`` has two runs).

    Args:
        features: see ``Head``.
        classes: see ``Head``.
        margin: share by which the target's squared distance is enlarged.
        likelihood: weight of the likelihood term.
    """

    def __init__(self, features: int, classes: int, margin: float = 0.1, likelihood: float = 0.01) -> None:
        super().__init__(features, classes)
        if margin < 0 or likelihood < 0:
            raise ValueError(f"LGM: margin={margin}, likelihood={likelihood}; both must be at least 0")
        self.margin, self.likelihood = margin, likelihood
        nn.init.xavier_uniform_(self.weight)

    def logits(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Minus half the squared distance from each mean."""
        means = self.weight.float()
        cross = nn.functional.linear(features, means)
        return (cross - 0.5 * (features * features).sum(1, keepdim=True) - 0.5 * (means * means).sum(1)).clamp(max=0)

    def margin_logits(self, features: Float[Tensor, "b d"], target: Int[Tensor, " b"]) -> Float[Tensor, "b k"]:
        """The target's distance enlarged."""
        logits = self.logits(features)
        return replace_target(logits, target, (1 + self.margin) * at_target(logits, target))

    def loss(
        self, features: Float[Tensor, "b d"], target: Int[Tensor, " b"], maps: Float[Tensor, "b n u v"] | None = None
    ) -> tuple[Float[Tensor, ""], Terms]:
        """Cross-entropy with the margin, and the weighted likelihood term."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            entropy = nn.functional.cross_entropy(self.margin_logits(features, target), target)
            distance = 0.5 * ((features - self.weight.float()[target]) ** 2).sum(1).mean()
        return entropy + self.likelihood * distance, {"likelihood": distance.detach()}


def gather_labels(target: Int[Tensor, " b"]) -> Int[Tensor, " all_b"]:
    """The labels of all processes. They travel as float64, which holds every class index exactly."""
    return gather(target.double()).to(target.dtype)
