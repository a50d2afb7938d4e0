"""Distillation: one classifier's softened answer as the target of another."""

from jaxtyping import Float
from torch import Tensor

from fgbench.types import Target


def distillation_loss(
    student: Float[Tensor, "b k"], teacher: Float[Tensor, "b k"], temperature: float, kind: Target
) -> Float[Tensor, ""]:
    """Cross-entropy between ``softmax(teacher / T)`` and ``softmax(student / T)``, mean over images, in float32.

    Gradients reach both, unless the caller detaches one. No factor ``T ** 2``. For attributes: the mean over
    attributes of the binary cross-entropy between the two softened probabilities.

    >>> import torch
    >>> distillation_loss(torch.zeros(1, 4), torch.zeros(1, 4), 10.0, "class")  # ln 4
    tensor(1.3863)
    """
    s, t = student.float() / temperature, teacher.float() / temperature
    if kind == "class":
        return -(t.softmax(1) * s.log_softmax(1)).sum(1).mean()
    # -(p log sigmoid(s) + (1 - p) log sigmoid(-s)) = log(1 + e^s) - p s
    return (s.clamp(min=0) + (-s.abs()).exp().log1p() - t.sigmoid() * s).mean()
