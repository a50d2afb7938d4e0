"""The classification loss of each kind of target."""

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fgbench.types import Target


def classification_loss(
    logits: Float[Tensor, "b k"], target: Shaped[Tensor, "b ..."], kind: Target
) -> Float[Tensor, ""]:
    """Cross-entropy over classes; for attributes the mean over images and attributes of the binary cross-entropy.

    Computed in float32 whatever the network's precision.

    >>> import torch
    >>> classification_loss(torch.zeros(1, 4), torch.tensor([2]), "class")  # ln 4
    tensor(1.3863)
    >>> classification_loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), "attributes")  # ln 2
    tensor(0.6931)
    """
    if kind == "class":
        return nn.functional.cross_entropy(logits.float(), target)
    return nn.functional.binary_cross_entropy_with_logits(logits.float(), target.float())
