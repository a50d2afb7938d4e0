import math

import pytest
import torch

from fgbench.losses.distillation import distillation_loss


def test_it_is_the_sum_by_hand():
    student, teacher, t = [[1.0, 2.0, 0.5]], [[0.0, 3.0, -1.0]], 10.0
    p = [math.exp(z / t) for z in teacher[0]]
    q = [math.exp(z / t) for z in student[0]]
    expected = -sum(a / sum(p) * math.log(b / sum(q)) for a, b in zip(p, q, strict=True))
    assert float(distillation_loss(torch.tensor(student), torch.tensor(teacher), t, "class")) == pytest.approx(expected)


def test_it_is_the_divergence_plus_the_teachers_entropy_and_least_at_equality():
    student, teacher = torch.randn(3, 6), torch.randn(3, 6)
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    entropy = -(p * p.log()).sum(1).mean()
    torch.testing.assert_close(distillation_loss(student, teacher, 4.0, "class"), divergence + entropy)
    torch.testing.assert_close(distillation_loss(teacher, teacher, 4.0, "class"), entropy)


def test_equal_logits_give_the_logarithm_of_the_classes_and_no_square_of_the_temperature():
    for t in (1.0, 10.0):
        assert float(distillation_loss(torch.zeros(2, 200), torch.zeros(2, 200), t, "class")) == pytest.approx(
            math.log(200), abs=1e-5
        )


def test_attributes_are_binary():
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    expected = torch.nn.functional.binary_cross_entropy((student / 2).sigmoid(), (teacher / 2).sigmoid())
    torch.testing.assert_close(distillation_loss(student, teacher, 2.0, "attributes"), expected)
    huge = torch.full((1, 2), 1e4)
    assert bool(distillation_loss(huge, -huge, 1.0, "attributes").isfinite())


def test_gradients_reach_both():
    student, teacher = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    distillation_loss(student, teacher, 10.0, "class").backward()
    assert float(student.grad.abs().sum()) > 0
    assert float(teacher.grad.abs().sum()) > 0
