"""Accuracy of the further logits that a method hands out: of its streams, and of ablations that need no training.

*Definition.* ``accuracy_<name>`` is the accuracy (see ``accuracy.py``, of classes or attributes) that the logits of
that name would have, over the same images. Percent, higher is better. Nothing is left out. NaN: no image seen.

*Exact:* states are integer counts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fgbench.metrics.accuracy import correct_attributes, correct_classes
from fgbench.metrics.base import BenchMetric, Points
from fgbench.types import Batch, Output, Target


class Streams(BenchMetric):
    """``accuracy_<name>`` of each of ``Output.streams``.

    Args:
        names: of the streams, in their order.
        target: what the dataset asks for.
    """

    higher_is_better = True
    name = "accuracy"
    correct: Tensor
    count: Tensor

    def __init__(self, names: Sequence[str], target: Target) -> None:
        super().__init__()
        self.names, self.target = tuple(names), target
        self.add_state("correct", torch.zeros(len(self.names), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def columns(self, output: Output, batch: Batch, floors: Points | None = None) -> dict[str, Tensor]:
        """``stream_correct``: right answers of each stream to ``stream_asked`` questions: one, or one per attribute."""
        if output.streams is None or output.streams.shape[1] != len(self.names):
            raise ValueError(f"streams: the method does not give the {len(self.names)} logits that it names")
        logits = output.streams.flatten(0, 1)
        target = batch.target.repeat_interleave(len(self.names), 0)
        right = correct_classes if self.target == "class" else correct_attributes
        found = right(logits, target).view(len(batch.target), len(self.names), -1)
        return {
            "stream_correct": found.sum(2),
            "stream_asked": torch.full_like(batch.target, found.shape[2], dtype=torch.int64).view(len(found), -1)[:, 0],
        }

    def update(self, columns: dict[str, Tensor], batch: Batch) -> None:
        """Count."""
        self.correct += columns["stream_correct"].sum(0)
        self.count += columns["stream_asked"].sum()

    def compute(self) -> dict[str, Tensor]:
        """Percentages."""
        shares = 100 * self.correct.double() / self.count
        return {f"accuracy_{name}": share for name, share in zip(self.names, shares, strict=True)}
