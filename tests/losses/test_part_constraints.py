"""Constraints on parts: values by hand, directions of one step, printed forms that do the opposite."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from fgbench.layers.regions import Regions, draw_boxes, regions_of
from fgbench.losses.part_constraints import (
    assignment_balance,
    assignment_entropy,
    class_specificity,
    orthogonality,
    others,
)

PARTS = torch.tensor([[1.0, 0], [0.6, 0.8]])
REGIONS = Regions(torch.tensor([[[1.0, 0], [0, 2], [1, 1]]]), None)


def cosines(parts):
    unit = normalize(parts, dim=1)
    gram = unit @ unit.T
    return (gram - gram.diag().diag()).abs().sum() / (len(parts) * (len(parts) - 1))


def test_values_by_hand():
    assert float(orthogonality(PARTS)) == pytest.approx(0.18)
    assert float(orthogonality(5 * PARTS, scale="mean_normalised")) == pytest.approx(0.36)
    assert float(assignment_entropy(3 * PARTS, REGIONS)) == pytest.approx(1.7997517)
    share = 1.7997517 / (3 * math.log(2))
    assert float(assignment_entropy(PARTS, REGIONS, scale="mean_normalised")) == pytest.approx(share)


@pytest.mark.parametrize("shape", [(8, 16), (16, 8)])
def test_orthogonality_is_the_mean_over_pairs_whichever_gram_is_smaller(shape):
    parts = torch.randn(shape)
    unit = normalize(parts.double(), dim=1)
    pairs = sum(float(unit[i] @ unit[j]) ** 2 for i in range(len(unit)) for j in range(len(unit)) if i != j)
    assert float(orthogonality(parts)) == pytest.approx(pairs / len(unit) ** 2, rel=1e-4)


def test_orthogonal_parts_cost_nothing_and_parallel_ones_all_but_one_share():
    assert float(orthogonality(torch.eye(6))) == pytest.approx(0, abs=1e-6)
    assert float(orthogonality(torch.ones(8, 1) * torch.randn(1, 16))) == pytest.approx(1 - 1 / 8)


@pytest.mark.parametrize(("sign", "falls"), [("plus", True), ("printed", False)])
def test_a_step_parts_the_parts_and_with_the_printed_sign_joins_them(sign, falls):
    parts = torch.randn(8, 16, requires_grad=True)
    orthogonality(parts, sign).backward()
    assert (cosines(parts.detach() - 5 * parts.grad) < cosines(parts.detach())) == falls


def test_entropy_is_that_of_the_softmax_over_parts():
    parts, regions = torch.randn(5, 4), Regions(torch.randn(3, 7, 4), None)
    scores = regions.cells.double() @ normalize(parts.double(), dim=1).T / 0.5
    expected = torch.distributions.Categorical(logits=scores).entropy().sum(1).mean()
    assert float(assignment_entropy(parts, regions, 0.5)) == pytest.approx(float(expected), rel=1e-5)
    wrong = torch.distributions.Categorical(logits=scores.transpose(1, 2)).entropy().sum(1).mean()
    assert abs(float(expected - wrong)) > 0.1


def test_entropy_has_its_bounds():
    none = Regions(torch.zeros(2, 7, 4), None)
    assert float(assignment_entropy(torch.eye(4), none)) == pytest.approx(7 * math.log(4), rel=1e-6)
    clear = Regions(1e4 * torch.eye(4)[None], None)
    assert float(assignment_entropy(torch.eye(4), clear)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("memory", [1, 2**25])
def test_a_step_lowers_the_entropy_and_its_gradient_is_that_of_autograd(memory, monkeypatch):
    monkeypatch.setattr("fgbench.losses.part_constraints.MEMORY", memory)
    parts, regions = torch.randn(5, 4, requires_grad=True), Regions(torch.randn(3, 7, 4), None)
    before = assignment_entropy(parts, regions)
    before.backward()
    own, parts.grad = parts.grad, None
    assert assignment_entropy(parts.detach() - 0.05 * own, regions) < before
    logits = regions.cells @ normalize(parts, dim=1).T
    torch.distributions.Categorical(logits=logits).entropy().sum(1).mean().backward()
    torch.testing.assert_close(own, parts.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("number", [3, 200])  # few regions are pooled before they are scored, many after
def test_the_entropy_of_rectangles_has_the_gradient_of_autograd_on_slices(number):
    generator = torch.Generator().manual_seed(number)
    maps = torch.randn(2, 6, 4, 5, generator=generator)
    boxes = draw_boxes("uniform_corners", number, (4, 5), 0, torch.arange(2))
    parts = torch.randn(7, 6, generator=generator).requires_grad_()
    (3 * assignment_entropy(parts, regions_of(maps, boxes), 0.3)).backward()
    plain = parts.detach().double().requires_grad_()
    total = 0
    for image, rectangles in zip(maps.double(), boxes.tolist(), strict=True):
        for y0, x0, y1, x1 in rectangles:
            scores = normalize(plain, dim=1) @ image[:, y0:y1, x0:x1].mean((1, 2)) / 0.3
            total = total + torch.distributions.Categorical(logits=scores).entropy()
    (3 * total / 2).backward()
    torch.testing.assert_close(parts.grad.double(), plain.grad, atol=1e-4, rtol=1e-4)


def test_a_map_that_learns_is_refused():
    regions = Regions(REGIONS.cells.clone().requires_grad_(), None)
    with pytest.raises(ValueError, match="no gradient for the map"):
        assignment_entropy(PARTS, regions)


@pytest.mark.parametrize("memory", [1, 2**25])
def test_balance_is_the_divergence_of_the_mean_assignment_from_an_even_one(memory, monkeypatch):
    monkeypatch.setattr("fgbench.losses.part_constraints.MEMORY", memory)
    parts, regions = torch.randn(5, 4, requires_grad=True), Regions(torch.randn(3, 7, 4), None)
    scores = regions.cells.double() @ normalize(parts.detach().double(), dim=1).T / 0.5
    mean = torch.distributions.Categorical(logits=scores).probs.mean((0, 1))
    expected = float((mean * (mean * 5).log()).sum())
    found = assignment_balance(parts, regions, 0.5)
    assert float(found) == pytest.approx(expected, rel=1e-4)
    assert float(assignment_balance(parts, regions, 0.5, "mean_normalised")) == pytest.approx(
        expected / math.log(5), rel=1e-4
    )
    found.backward()
    assert assignment_balance(parts.detach() - 0.05 * parts.grad, regions, 0.5) < found


def test_one_part_for_all_regions_costs_no_entropy_and_all_of_the_balance():
    alike = Regions(1e4 * torch.eye(4)[:1].expand(1, 6, 4), None)
    assert float(assignment_entropy(torch.eye(4), alike)) == pytest.approx(0, abs=1e-6)
    assert float(assignment_balance(torch.eye(4), alike)) == pytest.approx(math.log(4))
    even = Regions(1e4 * torch.eye(4)[None], None)
    assert float(assignment_balance(torch.eye(4), even)) == pytest.approx(0, abs=1e-6)


def test_the_others_of_two_classes_with_two_parts_are_as_enumerated():
    assert others(2, 2).tolist() == [[False, False, True, True], [True, True, False, False]]


def test_class_specificity_by_hand():
    own = torch.where(others(3, 2), 0.0, 5.0)
    assert float(class_specificity(own)) == 0
    assert float(class_specificity(torch.ones(3, 6))) == pytest.approx(1)
    assert float(class_specificity(-torch.ones(3, 6))) == pytest.approx(1)
    assert float(class_specificity(-torch.ones(3, 6), "printed")) == pytest.approx(-1)  # unbounded below
    assert float(class_specificity(-torch.ones(3, 6), "relu")) == 0
    assert float(class_specificity(torch.ones(3, 6), scale="mean_normalised")) == pytest.approx(2)
    assert float(class_specificity(torch.ones(1, 6))) == 0


def test_entropy_is_in_float32_under_autocast():
    parts, regions = torch.randn(50, 4), Regions(8 * torch.randn(3, 7, 4), None)
    with torch.autocast("cpu", torch.bfloat16):
        inside = assignment_entropy(parts, regions), orthogonality(parts)
    torch.testing.assert_close(inside, (assignment_entropy(parts, regions), orthogonality(parts)))
