"""Ranking: how sure one stream is of the truth, compared with another."""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fgbench.types import Target

RankMode = Literal["off", "printed", "racnn", "prose"]
MARGINS = {"printed": 0.5, "racnn": 0.05, "prose": -0.5}
"""What is added to ``p_global - p_local`` before it is cut at zero. ``printed``: the thesis' formula and margin;
``racnn``: the same with the margin of Fu et al., CVPR 2017, which the formula is from; ``prose``: the thesis' sentence,
by which the global stream may be surer by the margin."""


def truth_probability(
    logits: Float[Tensor, "b k"], target: Shaped[Tensor, "b ..."], kind: Target
) -> Float[Tensor, "b a"]:
    """Probability of the true class (``a`` is 1), or of the true answer to each attribute; float32."""
    if kind == "class":
        return logits.float().softmax(1).gather(1, target[:, None])
    return torch.where(target > 0.5, logits.float(), -logits.float()).sigmoid()


def ranking_loss(
    coarse: Float[Tensor, "b a"], fine: Float[Tensor, "b a"], mode: RankMode, margin: float | None = None
) -> Float[Tensor, ""]:
    """``max(0, p_global - p_local + margin)``, mean over images (and attributes).

    Args:
        coarse: probability of the truth, by the global stream.
        fine: the same by the local stream.
        mode: which reading; ``off`` gives zero.
        margin: null takes that of the mode; of ``prose`` it is subtracted.

    >>> sure, unsure = torch.tensor([[0.9]]), torch.tensor([[0.6]])
    >>> [round(ranking_loss(sure, unsure, mode).item(), 3) for mode in ("printed", "racnn", "prose", "off")]
    [0.8, 0.35, 0.0, 0.0]
    """
    if mode == "off":
        return coarse.new_zeros(())
    added = MARGINS[mode] if margin is None else -margin if mode == "prose" else margin
    return (coarse - fine + added).clamp(min=0).mean()
