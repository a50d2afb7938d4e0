"""The last layer of a classifier together with the loss that it is trained with: what ``LOSS=<name>`` chooses.

A head maps features to logits; ``loss`` may add a margin to the logits of training, ``forward`` never does: a margin
needs the label. A method is told which head to make (``loss`` in its configuration) and makes it with its own numbers
of features and classes, so that any method with one linear classifier of exclusive classes takes any of them.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fgbench.types import Target

Terms = dict[str, Tensor]
TINY = 1e-6  # of one minus a probability or a squared cosine: less is float32's rounding


class Head(nn.Module):
    """One weight vector per class, cross-entropy of what ``margin_logits`` says.

    Everything is computed in float32 whatever the precision of the network.

    Args:
        features: length ``d`` of the vectors that enter.
        classes: number of classes ``k``.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Linear(features, classes, bias=False).weight  # as torch initialises a linear layer

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Logits without any margin: those of a test."""
        with torch.autocast(features.device.type, enabled=False):
            return self.logits(features.float())

    def loss(
        self, features: Float[Tensor, "b d"], target: Int[Tensor, " b"], maps: Float[Tensor, "b n u v"] | None = None
    ) -> tuple[Float[Tensor, ""], Terms]:
        """The loss of a batch, and its terms (detached) where it has several.

        Args:
            features: what ``forward`` takes.
            target: class of each image.
            maps: what the features were pooled from, for losses of whole maps.
        """
        with torch.autocast(features.device.type, enabled=False):
            return nn.functional.cross_entropy(self.margin_logits(features.float(), target), target), {}

    def logits(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Of float32 features."""
        return nn.functional.linear(features, self.weight.float())

    def margin_logits(self, features: Float[Tensor, "b d"], target: Int[Tensor, " b"]) -> Float[Tensor, "b k"]:
        """The logits that training sees: here those of the test."""
        return self.logits(features)

    def evidence(self) -> Float[Tensor, "k d"]:
        """What a feature speaks for each class, up to a positive factor: the weights of a class activation map."""
        return self.weight

    def check_maps(self, channels: int | None, number: int = 0) -> None:
        """Refuse maps that the loss cannot take, before any data is read; most losses ignore them.

        Args:
            channels: of the maps that ``loss`` will get; None for a method whose features are pooled from no map.
            number: of this head among those of its method, from 0: losses that draw do so each by itself.
        """


def check_target(head: Head, target: Target) -> None:
    """Refuse a loss of exclusive classes for attributes, which have a linear layer and binary cross-entropy.

    Raises:
        ValueError: says what to do.
    """
    if target == "attributes" and type(head) is not CrossEntropy:
        raise ValueError(
            f"the loss {type(head).__name__} is of exclusive classes, the dataset asks for attributes: leave LOSS out"
        )


MakeHead = Callable[[int, int], Head]
"""Features and classes in, a head out: a head's class, with its hyper-parameters given."""


class CrossEntropy(Head):
    """A linear layer and cross-entropy: the reference of all others, and the default."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        linear = nn.Linear(features, classes)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Logits; in the network's precision, since nothing here needs more."""
        return nn.functional.linear(features, self.weight, self.bias).float()

    def loss(
        self, features: Float[Tensor, "b d"], target: Int[Tensor, " b"], maps: Float[Tensor, "b n u v"] | None = None
    ) -> tuple[Float[Tensor, ""], Terms]:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self(features), target), {}


class Focal(CrossEntropy):
    """Cross-entropy that counts an image the less the surer the network is of it.

    Paper: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, Eq. 4; here over a softmax of exclusive classes
    (theirs is over independent sigmoids, which is another loss). No weights of classes: the datasets are balanced.

    Args:
        features: see ``Head``.
        classes: see ``Head``.
        gamma: exponent; 2 is the paper's best (its Table 1b); 0 is cross-entropy.
    """

    def __init__(self, features: int, classes: int, gamma: float = 2.0) -> None:
        super().__init__(features, classes)
        if gamma < 0:
            raise ValueError(f"focal loss: gamma is {gamma}; it must be at least 0")
        self.gamma = gamma

    def loss(
        self, features: Float[Tensor, "b d"], target: Int[Tensor, " b"], maps: Float[Tensor, "b n u v"] | None = None
    ) -> tuple[Float[Tensor, ""], Terms]:
        """Mean of -(1 - p)^gamma log p; both factors have a gradient."""
        with torch.autocast(features.device.type, enabled=False):
            log_p = self(features.float()).log_softmax(1).gather(1, target[:, None])[:, 0]
            return focal(log_p, self.gamma).mean(), {}


def focal(log_p: Float[Tensor, "*n"], gamma: float) -> Float[Tensor, "*n"]:
    """-(1 - p)^gamma log p.

    >>> focal(torch.tensor(0.25).log(), 2.0)
    tensor(0.7798)
    """
    if gamma == 0:
        return -log_p
    return -((-torch.expm1(log_p)).clamp(min=TINY) ** gamma) * log_p
