"""What holds for every loss of a linear classifier, and cross-entropy with its focal variant."""

import math

import pytest
import torch
from torch import nn

from fgbench import losses
from fgbench.cells import EXPERIMENTS, available, read_yaml
from fgbench.losses import CrossEntropy, Focal
from fgbench.losses.heads import focal

HEADS = {
    name: spec for name, spec in vars(losses).items() if isinstance(spec, type) and issubclass(spec, losses.Head)
    and spec is not losses.Head
}  # fmt: skip


def make(name, features=5, classes=4):
    head = HEADS[name](features, classes)
    head.check_maps(8)
    return head


def maps_of(features):
    return torch.rand(len(features), 8, 3, 3)


def test_every_loss_has_a_file_in_the_experiments_and_no_file_is_of_anything_else():
    named = [read_yaml(EXPERIMENTS / "losses" / f"{name}.yaml") for name in available("losses")]
    paths = [content["method"]["init_args"]["loss"]["class_path"] for content in named]
    assert sorted(paths) == sorted(f"fgbench.losses.{name}" for name in HEADS)


@pytest.mark.parametrize("name", HEADS)
def test_logits_of_a_test_know_no_label_and_no_mode(name, few):
    head = make(name)
    with torch.no_grad():
        before = head.train()(few[0])
        assert torch.equal(before, head.eval()(few[0]))
    assert before.shape == (8, 4)
    assert before.dtype == torch.float32


@pytest.mark.parametrize("name", HEADS)
def test_a_head_learns_to_tell_separable_features_apart(name):
    features = torch.eye(4).repeat(3, 1) + 0.05 * torch.randn(12, 4)
    target = torch.arange(4).repeat(3)
    head = make(name, features=4)
    optimizer = torch.optim.Adam(head.parameters(), 0.05)
    first = None
    for _ in range(60):
        loss, terms = head.loss(features, target, maps_of(features))
        first = float(loss.detach()) if first is None else first
        assert not any(term.requires_grad for term in terms.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < first
    assert torch.equal(head(features).argmax(1), target)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_values_and_gradients_are_finite_at_both_ends_of_the_cosine(name, side, scale):
    head = make(name)
    features = (side * scale * head.evidence().detach()).requires_grad_()
    loss, _ = head.loss(features, torch.arange(4), maps_of(features))
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", HEADS)
def test_half_precision_features_are_measured_in_single_precision(name, few):
    head, target = make(name).eval(), few[1]
    half = few[0].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = head.loss(half, target, maps_of(half) * 0)
        logits = head(half)
    assert loss.dtype == logits.dtype == torch.float32
    if name not in ("CrossEntropy", "Focal", "Center", "MutualChannel"):  # these keep the network's precision
        assert torch.equal(logits, head(half.float()))


@pytest.mark.parametrize("name", HEADS)
def test_a_class_activation_map_ranks_classes_as_the_head_does(name):
    head = make(name)
    features = nn.functional.normalize(head.evidence().detach())  # each class's own direction
    assert torch.equal((features @ head.evidence().T).argmax(1), torch.arange(4))


def test_cross_entropy_is_torchs_linear_layer_and_loss(few):
    features, target = few
    torch.manual_seed(1)
    head = CrossEntropy(5, 4)
    torch.manual_seed(1)
    nn.Linear(5, 4, bias=False)  # what every head draws first
    plain = nn.Linear(5, 4)
    torch.testing.assert_close(head(features), plain(features))
    torch.testing.assert_close(head.loss(features, target)[0], nn.functional.cross_entropy(plain(features), target))
    assert set(head.state_dict()) == set(plain.state_dict())


def test_focal_loss_is_the_worked_example_and_cross_entropy_at_zero(few):
    assert float(focal(torch.tensor(0.25).log(), 2.0)) == pytest.approx(0.7797906, abs=1e-6)
    head = Focal(5, 4, gamma=0.0)
    assert float(head.loss(*few)[0]) == pytest.approx(float(CrossEntropy.loss(head, *few)[0]), rel=1e-6)


def test_focal_loss_has_the_gradient_of_both_factors(few):
    features, target = few
    head = Focal(5, 4, gamma=2.0)
    step, grad = 1e-4, torch.autograd.grad(head.loss(features, target)[0], head.bias)[0]

    def value(shift):
        z = (features.double() @ head.weight.double().T + head.bias.double() + shift).detach()
        p = [math.exp(row[t]) / sum(map(math.exp, row)) for row, t in zip(z.tolist(), target.tolist(), strict=True)]
        return sum(-((1 - q) ** 2) * math.log(q) for q in p) / len(p)

    for k in range(4):
        shift = torch.zeros(4, dtype=torch.float64)
        shift[k] = step
        assert float(grad[k]) == pytest.approx((value(shift) - value(-shift)) / (2 * step), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "bad", "says"),
    [
        ("Focal", {"gamma": -1.0}, "gamma"),
        ("CosFace", {"scale": 0.0}, "scale is 0.0"),
        ("ArcFace", {"margin": 2.0}, "radians"),
        ("ASoftmax", {"margin": 0}, "margin=0"),
        ("Center", {"step": 2.0}, "step=2.0"),
        ("LGM", {"margin": -0.1}, "margin=-0.1"),
        ("MutualChannel", {"diversity": -1.0}, "diversity=-1.0"),
    ],
)
def test_an_impossible_value_is_refused_by_name(name, bad, says):
    with pytest.raises(ValueError, match=says):
        HEADS[name](5, 4, **bad)
