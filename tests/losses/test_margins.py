"""Losses of angles against loops in float64, worked examples, and what they become without their margins."""

import math

import pytest
import torch

from fgbench.losses import COCO, ArcFace, ASoftmax, Circle, CosFace
from fgbench.losses.margins import add_angle, circle, multiply_angle

from .conftest import loop_cosines, loop_cross_entropy


def angles_and_values(head, few):
    features, target = few
    return loop_cosines(features.double().tolist(), head.weight.double().tolist()), target.tolist()


def psi(angle, margin):
    turn = min(math.floor(margin * angle / math.pi), margin - 1)
    return (-1) ** turn * math.cos(margin * angle) - 2 * turn


@pytest.mark.parametrize(("margin", "scale"), [(0.35, 64.0), (0.0, 8.0), (0.1, 30.0)])
def test_cosface_lowers_the_targets_cosine(few, margin, scale):
    head = CosFace(5, 4, scale, margin)
    cosines, target = angles_and_values(head, few)
    logits = [[scale * (c - margin * (k == t)) for k, c in enumerate(row)] for row, t in zip(cosines, target)]  # noqa: B905
    assert float(head.loss(*few)[0]) == pytest.approx(loop_cross_entropy(logits, target), rel=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5])
def test_arcface_enlarges_the_targets_angle(few, margin):
    head = ArcFace(5, 4, 20.0, margin)
    cosines, target = angles_and_values(head, few)
    logits = []
    for row, t in zip(cosines, target, strict=True):
        angle = math.acos(row[t])
        far = row[t] - margin * math.sin(margin)
        row[t] = math.cos(angle + margin) if angle + margin < math.pi else far
        logits.append([20 * c for c in row])
    assert float(head.loss(*few)[0]) == pytest.approx(loop_cross_entropy(logits, target), rel=1e-5)


def test_arcface_is_the_worked_example_and_falls_with_the_angle():
    assert float(add_angle(torch.tensor(0.6), 0.5)) == pytest.approx(0.1430091, abs=1e-6)
    cosine = torch.linspace(-1, 1, 4001)
    assert (add_angle(cosine, 0.5).diff() > 0).all()


@pytest.mark.parametrize("step", [0, 10**6])
def test_a_softmax_is_the_annealed_loop(few, step):
    head = ASoftmax(5, 4).eval()
    head.steps.fill_(step)
    cosines, target = angles_and_values(head, few)
    weight = max(5.0, 1500 / (1 + 0.1 * step))
    logits = []
    for x, row, t in zip(few[0].double().tolist(), cosines, target, strict=True):
        length = math.sqrt(sum(a * a for a in x))
        mixed = (weight * row[t] + psi(math.acos(row[t]), 4)) / (1 + weight)
        logits.append([length * (mixed if k == t else c) for k, c in enumerate(row)])
    assert float(head.loss(*few)[0]) == pytest.approx(loop_cross_entropy(logits, target), rel=1e-5)


def test_a_softmax_counts_steps_of_training_only_and_keeps_the_count(few):
    head = ASoftmax(5, 4)
    weights = [float(head.loss(*few)[1]["plain_weight"]) for _ in range(3)]
    assert weights == pytest.approx([1500, 1500 / 1.1, 1500 / 1.2])
    head.eval().loss(*few)
    other = ASoftmax(5, 4)
    other.load_state_dict(head.state_dict())
    assert int(other.steps) == 3


@pytest.mark.parametrize("margin", [1, 2, 3, 4, 5])
def test_the_multiplied_angle_is_continuous_and_falls_from_one(margin):
    angle = torch.linspace(0, math.pi, 4001, dtype=torch.float64)
    values = multiply_angle(angle.cos(), margin)
    for x, value in zip(angle.tolist()[::97], values.tolist()[::97], strict=True):
        assert value == pytest.approx(psi(x, margin), abs=1e-9)
    assert (values.diff() <= 1e-12).all()
    assert values.diff().abs().max() < 1.01 * margin * math.pi / 4000  # no jump where the branch changes
    assert values[[0, -1]].tolist() == pytest.approx([1, 1 - 2 * margin])
    assert float(multiply_angle(torch.tensor(1.2).double().cos(), 4)) == pytest.approx(-2.0874990, abs=1e-6)


def test_losses_fall_together_where_their_margins_vanish(few):
    coco = COCO(5, 4, 16.0)
    for head in (CosFace(5, 4, 16.0, 0.0), ArcFace(5, 4, 16.0, 0.0)):
        head.load_state_dict(coco.state_dict())
        torch.testing.assert_close(head.loss(*few)[0], coco.loss(*few)[0])
    strict = ASoftmax(5, 4, margin=1)
    strict.load_state_dict(coco.state_dict(), strict=False)
    plain = torch.nn.functional.cross_entropy(strict(few[0]), few[1])
    torch.testing.assert_close(strict.loss(*few)[0], plain)


def test_coco_takes_the_papers_bound_for_its_scale():
    found = [COCO(5, classes).scale for classes in (200, 100, 102, 196)]
    assert found == pytest.approx([7.25, 6.90, 6.91, 7.24], abs=0.006)


@pytest.mark.parametrize(("own", "others", "expected"), [(0.8, (0.1, -0.2), 0.0293670), (0.3, (0.5, 0.2), 49.2000)])
def test_circle_loss_is_the_worked_example_and_the_papers_formula(own, others, expected):
    cosine, target, m, g = torch.tensor([[own, *others]], dtype=torch.float64), torch.tensor([0]), 0.25, 80.0
    entropy = float(torch.nn.functional.cross_entropy(g * circle(cosine, target, m), target))
    pull, push = max(1 + m - own, 0), [max(s + m, 0) for s in others]
    negatives = sum(math.exp(g * a * (s - m)) for a, s in zip(push, others, strict=True))
    formula = math.log1p(negatives * math.exp(-g * pull * (own - 1 + m)))
    assert entropy == pytest.approx(formula, rel=1e-9)
    assert entropy == pytest.approx(expected, abs=1e-4)


def test_the_weights_of_circle_loss_have_no_gradient():
    cosine = torch.tensor([[0.5, 0.2, -0.1]], requires_grad=True)
    circle(cosine, torch.tensor([0]), 0.25).sum().backward()
    assert cosine.grad[0].tolist() == pytest.approx([1.25 - 0.5, 0.45, 0.15])


@pytest.mark.parametrize("make", [CosFace, ArcFace, Circle, COCO])
def test_the_length_of_a_feature_does_not_count(make, few):
    head = make(5, 4)
    torch.testing.assert_close(head.loss(few[0] * 7, few[1])[0], head.loss(*few)[0], rtol=1e-4, atol=1e-5)
