"""Accuracy: top-1 per image and per class, and per attribute.

*Definition, classes.* ``accuracy`` is the share of images whose largest logit is the target's (the first of equal
ones); ``class_accuracy`` is the mean over classes of that share among the class's images (the mean recall). Percent,
higher is better. ``group_accuracy_each`` is ``accuracy`` among the images of each group of classes (a super-category of
iNaturalist, as in TASN's Table 10); over the groups, weighted by their images, it is ``accuracy``. Left out: classes
without an image in the split do not enter ``class_accuracy``, groups without one have no number. An image with a
logit that is NaN or infinite counts as wrong. NaN: no image seen.

*Definition, attributes.* Attribute ``a`` of an image is right iff (logit > 0) equals (target > 0.5); ``accuracy`` is
the mean over attributes of the share of right images. Percent, higher is better. This is what the CelebA literature
calls "average class accuracy"; it is not balanced over positives and negatives. The code of Huang and Li (2020)
compares the raw logit, not its probability, with 0.5; ``accuracy_logit_half`` is that variant. ``class_accuracy`` is
not defined.

*Floors.* ``accuracy/largest_class``: always answering the split's most frequent class; with attributes
``accuracy/majority``: the split's more frequent answer to each attribute.

*Exact:* states are integer counts.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fgbench.metrics.base import BenchMetric, Points
from fgbench.types import Batch, Output

TOP = 5  # classes per image in the predictions file


def correct_classes(logits: Float[Tensor, "b k"], target: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
    """Whether the largest logit is the target's; False where a logit is NaN or infinite."""
    return (logits.argmax(1) == target) & logits.isfinite().all(1)


def correct_attributes(
    logits: Float[Tensor, "b a"], target: Float[Tensor, "b a"], threshold: float = 0.0
) -> Bool[Tensor, "b a"]:
    """Whether an attribute's logit lies on the target's side of the threshold."""
    return ((logits > threshold) == (target > 0.5)) & logits.isfinite()


class Accuracy(BenchMetric):
    """``accuracy`` and ``class_accuracy`` of ``num_outputs`` exclusive classes.

    Args:
        num_outputs: classes.
        groups: for each class the group that it belongs to; empty without groups.
    """

    higher_is_better = True
    name = "accuracy"
    correct: Tensor
    seen: Tensor

    def __init__(self, num_outputs: int, groups: Sequence[str] = ()) -> None:
        super().__init__()
        if len(groups) not in (0, num_outputs):
            raise ValueError(f"accuracy: {len(groups)} groups for {num_outputs} classes; give one for each, or none")
        self.group_names = tuple(dict.fromkeys(groups))
        self._group = torch.tensor([self.group_names.index(group) for group in groups], dtype=torch.int64)
        for state in ("correct", "seen"):
            self.add_state(state, torch.zeros(num_outputs, dtype=torch.int64), dist_reduce_fx="sum")

    def columns(self, output: Output, batch: Batch, floors: Points | None = None) -> dict[str, Tensor]:
        """``predicted``, ``correct``, and the five largest logits with their classes, largest first."""
        top = output.logits.topk(min(TOP, output.logits.shape[1]), dim=1)
        return {
            "predicted": output.logits.argmax(1),
            "correct": correct_classes(output.logits, batch.target),
            "top5_classes": top.indices,
            "top5_logits": top.values.float(),
        }

    def update(self, columns: dict[str, Tensor], batch: Batch) -> None:
        """Count images and hits per class."""
        self.seen.index_add_(0, batch.target, torch.ones_like(batch.target))
        self.correct.index_add_(0, batch.target, columns["correct"].to(torch.int64))

    def compute(self) -> dict[str, Tensor]:
        """Percentages; ``recall_each`` is NaN for a class without an image."""
        recall = 100 * self.correct.double() / self.seen
        count = self.seen.sum()
        numbers = {
            "accuracy": 100 * self.correct.sum().double() / count,
            "class_accuracy": recall.nanmean(),
            "recall_each": recall,
            "accuracy/largest_class": 100 * self.seen.max().double() / count,
        }
        if self.group_names:
            group = self._group.to(self.seen.device)
            right, all_of = (
                state.new_zeros(len(self.group_names)).index_add_(0, group, state)
                for state in (self.correct, self.seen)
            )
            numbers["group_accuracy_each"] = 100 * right.double() / all_of
        return numbers


class AttributeAccuracy(BenchMetric):
    """``accuracy`` of ``num_outputs`` yes/no attributes."""

    higher_is_better = True
    name = "accuracy"
    correct: Tensor
    correct_logit_half: Tensor
    positive: Tensor
    count: Tensor

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        for state in ("correct", "correct_logit_half", "positive"):
            self.add_state(state, torch.zeros(num_outputs, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def columns(self, output: Output, batch: Batch, floors: Points | None = None) -> dict[str, Tensor]:
        """``predicted`` (0 or 1) and ``correct`` per attribute, and ``correct_logit_half``."""
        return {
            "predicted": (output.logits > 0).to(torch.uint8),
            "correct": correct_attributes(output.logits, batch.target),
            "correct_logit_half": correct_attributes(output.logits, batch.target, 0.5),
        }

    def update(self, columns: dict[str, Tensor], batch: Batch) -> None:
        """Count images, positives and hits per attribute."""
        self.count += len(batch.target)
        self.positive += (batch.target > 0.5).sum(0)
        self.correct += columns["correct"].sum(0)
        self.correct_logit_half += columns["correct_logit_half"].sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Percentages."""
        each = 100 * self.correct.double() / self.count
        majority = torch.maximum(self.positive, self.count - self.positive)
        return {
            "accuracy": each.mean(),
            "accuracy_logit_half": (100 * self.correct_logit_half.double() / self.count).mean(),
            "accuracy_each": each,
            "accuracy/majority": (100 * majority.double() / self.count).mean(),
        }
