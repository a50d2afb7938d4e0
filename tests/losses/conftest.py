"""Plain loops in float64: what a loss says of features, weights and labels, one number at a time."""

import math

import pytest
import torch


def loop_cross_entropy(logits, target):
    total = 0.0
    for row, label in zip(logits, target, strict=True):
        top = max(row)
        total += top + math.log(sum(math.exp(z - top) for z in row)) - row[label]
    return total / len(target)


def loop_cosines(features, weight):
    def cosine(x, w):
        dot = sum(a * b for a, b in zip(x, w, strict=True))
        return dot / math.sqrt(sum(a * a for a in x)) / math.sqrt(sum(b * b for b in w))

    return [[cosine(x, w) for w in weight] for x in features]


@pytest.fixture
def few():
    """Eight features of length five, and labels of four classes."""
    return torch.randn(8, 5) * 2, torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
