import math

import pytest
import torch

from fgbench.losses.classification import classification_loss


def test_classes_are_cross_entropy_by_hand():
    logits, target = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]), torch.tensor([1, 0])
    expected = 0.0
    for row, index in zip(logits.tolist(), target.tolist(), strict=True):
        expected -= math.log(math.exp(row[index]) / sum(math.exp(x) for x in row)) / 2
    assert float(classification_loss(logits, target, "class")) == pytest.approx(expected, rel=1e-6)


def test_attributes_are_the_mean_binary_cross_entropy_by_hand():
    logits, target = torch.tensor([[1.0, -2.0, 0.5], [0.0, -1.0, 3.0]]), torch.tensor([[1.0, 0, 0], [1, 1, 0]])
    terms = [
        -math.log(1 / (1 + math.exp(-x))) if y else -math.log(1 - 1 / (1 + math.exp(-x)))
        for row, labels in zip(logits.tolist(), target.tolist(), strict=True)
        for x, y in zip(row, labels, strict=True)
    ]
    assert float(classification_loss(logits, target, "attributes")) == pytest.approx(sum(terms) / 6, rel=1e-6)


@pytest.mark.parametrize("kind", ["class", "attributes"])
def test_half_precision_logits_are_summed_in_float32(kind):
    logits = torch.randn(4, 5).bfloat16()
    target = torch.randint(5, (4,)) if kind == "class" else torch.randint(2, (4, 5)).float()
    loss = classification_loss(logits, target, kind)
    assert loss.dtype == torch.float32
    assert float(loss) == float(classification_loss(logits.float(), target, kind))
