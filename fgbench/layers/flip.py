"""Averaging over an image and its mirror image at test."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fgbench.types import Target


def flip_average(logits: Float[Tensor, "b k"], mirrored: Float[Tensor, "b k"], kind: Target) -> Float[Tensor, "b k"]:
    """Logits whose probabilities are the mean of both probabilities.

    >>> both = flip_average(torch.tensor([[0.0, 0.0]]), torch.tensor([[9.0, 9.0]]), "class")
    >>> both.softmax(1)
    tensor([[0.5000, 0.5000]])
    """
    if kind == "class":
        return torch.logaddexp(logits.log_softmax(1), mirrored.log_softmax(1)) - math.log(2)
    log = torch.nn.functional.logsigmoid
    return torch.logaddexp(log(logits), log(mirrored)) - torch.logaddexp(log(-logits), log(-mirrored))
