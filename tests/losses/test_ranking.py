"""The ranking loss: hand-computed values of each reading, and which way its gradients push."""

import pytest
import torch

from fgbench.losses.ranking import ranking_loss, truth_probability


@pytest.mark.parametrize(("mode", "value"), [("printed", 0.8), ("racnn", 0.35), ("prose", 0.0), ("off", 0.0)])
def test_each_reading_has_its_value_for_a_surer_global_stream(mode, value):
    found = ranking_loss(torch.tensor([[0.9]]), torch.tensor([[0.6]]), mode)
    assert float(found) == pytest.approx(value, abs=1e-6)


def test_prose_punishes_only_beyond_the_margin_and_another_margin_counts():
    coarse, fine = torch.tensor([[0.95]]), torch.tensor([[0.25]])
    assert float(ranking_loss(coarse, fine, "prose")) == pytest.approx(0.2)
    assert float(ranking_loss(coarse, fine, "prose", 0.6)) == pytest.approx(0.1)
    assert float(ranking_loss(coarse, fine, "printed", 0.1)) == pytest.approx(0.8)


def test_it_pushes_the_local_probability_up_and_the_global_one_down():
    coarse, fine = (torch.tensor([[p], [0.0]], requires_grad=True) for p in (0.9, 0.6))
    ranking_loss(coarse, fine, "racnn").backward()
    assert coarse.grad.tolist() == [[0.5], pytest.approx([0.5])]  # 0.05 above zero in the second row
    assert fine.grad.tolist() == [[-0.5], pytest.approx([-0.5])]


def test_the_probability_of_the_truth():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    weights = torch.tensor([1.0, 2.0, 3.0]).exp()
    assert float(truth_probability(logits, torch.tensor([1]), "class")) == pytest.approx(
        float(weights[1] / weights.sum())
    )
    found = truth_probability(torch.tensor([[2.0, 2.0]]), torch.tensor([[1.0, 0.0]]), "attributes")
    assert found[0].tolist() == pytest.approx([0.880797, 0.119203], abs=1e-6)
