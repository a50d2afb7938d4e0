"""Losses of the angle between features and class weights, most with a margin in training.

Cosines and their functions are float32 (see ``Head``) and have finite values and gradients at both ends of the range.
No function takes an arc cosine: its gradient is infinite there.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fgbench.losses.heads import TINY, Head, Terms


class CosineHead(Head):
    """Logits are ``scale`` times the cosine between features and class weights; no bias."""

    scale: float

    def cosine(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Rounding may leave the range of cosines by 1e-7; nothing here minds."""
        return nn.functional.normalize(features) @ self.evidence().float().T

    def logits(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """The scaled cosines."""
        return self.scale * self.cosine(features)

    def evidence(self) -> Float[Tensor, "k d"]:
        """Directions of the classes."""
        return nn.functional.normalize(self.weight)


class COCO(CosineHead):
    """Cross-entropy of scaled cosines, without a margin: congenerous cosine loss.

    Paper: Liu et al., Rethinking Feature Discrimination and Polymerization for Large-scale Recognition, 2017
    (arXiv 1710.00870).

    Args:
        features: see ``Head``.
        classes: see ``Head``.
        scale: null takes the paper's bound for a loss of ``EPSILON`` at the best cosines: 7.25 with 200 classes.
    """

    EPSILON = 1e-4  # of that bound; the paper's

    def __init__(self, features: int, classes: int, scale: float | None = None) -> None:
        super().__init__(features, classes)
        self.scale = _positive("scale", 0.5 * math.log(max(classes - 1, 2) / self.EPSILON) if scale is None else scale)


class CosFace(CosineHead):
    """The target's cosine is lowered by a margin: large margin cosine loss (LMCL).

    Paper: Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition, CVPR 2018 (scale 64, margin 0.35).

    Args:
        features: see ``Head``.
        classes: see ``Head``.
        scale: of the logits. With few classes users report that 64 does not train; see experiments/losses.
        margin: of the cosine.
    """

    def __init__(self, features: int, classes: int, scale: float = 64.0, margin: float = 0.35) -> None:
        super().__init__(features, classes)
        self.scale, self.margin = _positive("scale", scale), margin

    def margin_logits(self, features: Float[Tensor, "b d"], target: Int[Tensor, " b"]) -> Float[Tensor, "b k"]:
        """The target's cosine minus the margin."""
        cosine = self.cosine(features)
        return self.scale * replace_target(cosine, target, at_target(cosine, target) - self.margin)


class ArcFace(CosineHead):
    """The target's angle is enlarged by a margin.

    Paper: Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019 (scale 64, margin
    0.5). Beyond pi - margin, where the cosine would rise again, the margin is ``margin * sin(margin)`` off the cosine,
    as in the authors' code.

    Args:
        features: see ``Head``.
        classes: see ``Head``.
        scale: of the logits; see ``CosFace``.
        margin: radians.
    """

    def __init__(self, features: int, classes: int, scale: float = 64.0, margin: float = 0.5) -> None:
        super().__init__(features, classes)
        if not 0 <= margin < math.pi / 2:
            raise ValueError(f"ArcFace: margin is {margin}; it is an angle in radians from 0 to below pi / 2")
        self.scale, self.margin = _positive("scale", scale), margin

    def margin_logits(self, features: Float[Tensor, "b d"], target: Int[Tensor, " b"]) -> Float[Tensor, "b k"]:
        """The cosine of the target's angle plus the margin."""
        cosine = self.cosine(features)
        return self.scale * replace_target(cosine, target, add_angle(at_target(cosine, target), self.margin))


class ASoftmax(Head):
    """The target's angle is multiplied by a margin; features keep their length: SphereFace.

    Paper: Liu et al., SphereFace: Deep Hypersphere Embedding for Face Recognition, CVPR 2017 (margin 4).
    The target's logit is a mean of the plain one and the one with a margin, and the weight of the plain one falls with
    the steps of training: max(5, 1500 / (1 + 0.1 step)), the schedule of clcarwin/sphereface_pytorch (MIT). From
    scratch the loss does not train without it (issues 30 and 40 of the authors' repository).

    Args:
        features: see ``Head``.
        classes: see ``Head``.
        margin: factor of the angle, a whole number.
        plain: weight of the plain logit at the start.
        decay: per step.
        least: weight of the plain logit at the end.
    """

    steps: Tensor

    def __init__(
        self,
        features: int,
        classes: int,
        margin: int = 4,
        plain: float = 1500.0,
        decay: float = 0.1,
        least: float = 5.0,
    ) -> None:
        super().__init__(features, classes)
        if margin < 1 or plain < 0 or decay < 0 or least < 0:
            raise ValueError(
                f"A-Softmax: margin={margin}, plain={plain}, decay={decay}, least={least}: "
                "need a margin of at least 1 and no negative weight"
            )
        self.margin, self.plain, self.decay, self.least = margin, plain, decay, least
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # on the device; goes into checkpoints

    def logits(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Length of the features times the cosine."""
        return nn.functional.linear(features, self.evidence().float())

    def margin_logits(self, features: Float[Tensor, "b d"], target: Int[Tensor, " b"]) -> Float[Tensor, "b k"]:
        """The target's logit with the margin, annealed."""
        logits, length = self.logits(features), features.norm(dim=1).clamp(min=TINY)
        plain = at_target(logits, target)
        strict = length * multiply_angle(plain / length, self.margin)
        weight = self.plain_weight()
        return replace_target(logits, target, (weight * plain + strict) / (1 + weight))

    def loss(
        self, features: Float[Tensor, "b d"], target: Int[Tensor, " b"], maps: Float[Tensor, "b n u v"] | None = None
    ) -> tuple[Float[Tensor, ""], Terms]:
        """Cross-entropy; counts the steps of training."""
        loss = super().loss(features, target)[0]
        terms = {"plain_weight": self.plain_weight()}
        if self.training:
            self.steps += 1
        return loss, terms

    def plain_weight(self) -> Float[Tensor, ""]:
        """Weight of the plain logit at this step."""
        return (self.plain / (1 + self.decay * self.steps)).clamp(min=self.least)

    def evidence(self) -> Float[Tensor, "k d"]:
        """Directions of the classes."""
        return nn.functional.normalize(self.weight)


class Circle(CosineHead):
    """Each cosine is weighed by how far it is from where it should be: circle loss on class weights.

    Paper: Sun et al., Circle Loss: A Unified Perspective of Pair Similarity Optimization, CVPR 2020, Eq. 6 with
    class-level labels (scale 256, margin 0.25 for faces; 80 and 0.4 for fine-grained retrieval).

    Args:
        features: see ``Head``.
        classes: see ``Head``.
        scale: of the logits.
        margin: of the cosine: the target's is wanted above 1 - margin, the others' below margin.
    """

    def __init__(self, features: int, classes: int, scale: float = 256.0, margin: float = 0.25) -> None:
        super().__init__(features, classes)
        self.scale, self.margin = _positive("scale", scale), margin

    def margin_logits(self, features: Float[Tensor, "b d"], target: Int[Tensor, " b"]) -> Float[Tensor, "b k"]:
        """Logits whose cross-entropy is the circle loss."""
        cosine = self.cosine(features)
        return self.scale * circle(cosine, target, self.margin)


def at_target(values: Float[Tensor, "b k"], target: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The value of each row's target."""
    return values.gather(1, target[:, None])[:, 0]


def replace_target(
    values: Float[Tensor, "b k"], target: Int[Tensor, " b"], new: Float[Tensor, " b"]
) -> Float[Tensor, "b k"]:
    """The values with another one at each row's target."""
    return values.scatter(1, target[:, None], new[:, None])


def add_angle(cosine: Float[Tensor, "*n"], margin: float) -> Float[Tensor, "*n"]:
    """cos(angle + margin), and from pi - margin on the cosine minus ``margin * sin(margin)``.

    >>> add_angle(torch.tensor(0.6), 0.5)
    tensor(0.1430)
    """
    sine = (1 - cosine * cosine).clamp(min=TINY).sqrt()
    added = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine > -math.cos(margin), added, cosine - margin * math.sin(margin))


def multiply_angle(cosine: Float[Tensor, "*n"], margin: int) -> Float[Tensor, "*n"]:
    """(-1)^j cos(margin * angle) - 2 j with j = floor(margin * angle / pi): falls from 1 to 1 - 2 margin.

    The cosine of a multiple is a Chebyshev polynomial of the cosine, which is as smooth at its ends as elsewhere.

    >>> multiply_angle(torch.tensor(1.2).cos(), 4)
    tensor(-2.0875)
    """
    before, multiple = torch.ones_like(cosine), cosine
    for _ in range(margin - 1):
        before, multiple = multiple, 2 * cosine * multiple - before
    turn = torch.zeros_like(cosine)
    for crossing in range(1, margin):
        turn = turn + (cosine <= math.cos(crossing * math.pi / margin))
    return (1 - 2 * (turn % 2)) * multiple - 2 * turn


def circle(cosine: Float[Tensor, "b k"], target: Int[Tensor, " b"], margin: float) -> Float[Tensor, "b k"]:
    """Logits over the scale: each cosine's distance from its margin times its weight, which has no gradient."""
    own = at_target(cosine, target)
    pull, push = (1 + margin - own.detach()).clamp(min=0), (cosine.detach() + margin).clamp(min=0)
    return replace_target(push * (cosine - margin), target, pull * (own - 1 + margin))


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}; it must be above 0")
    return value
