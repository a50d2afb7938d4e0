"""Center and Gaussian-mixture losses against loops in float64 and worked examples."""

import pytest
import torch
from scipy import stats

from fgbench.losses import LGM, Center, CrossEntropy

from .conftest import loop_cross_entropy


def test_center_loss_is_half_the_mean_squared_distance_of_the_loop(few):
    head = Center(5, 4, weight=0.7).eval()
    head.centres.normal_()
    entropy = CrossEntropy.loss(head, *few)[0]
    total, terms = head.loss(*few)
    distance = 0.0
    for x, t in zip(few[0].double(), few[1].tolist(), strict=True):
        distance += 0.5 * float(((x - head.centres[t].double()) ** 2).sum())
    assert float(terms["center"]) == pytest.approx(distance / 8, rel=1e-5)
    assert float(total.detach() - entropy.detach()) == pytest.approx(0.7 * distance / 8, rel=1e-5)


def test_centres_move_by_the_papers_rule_and_only_in_training():
    head = Center(2, 3, step=0.5)
    head.centres.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [5.0, 5.0]]))
    features, target = torch.tensor([[3.0, 0.0], [2.0, 3.0], [1.0, 1.0]]), torch.tensor([0, 0, 1])
    head.eval().loss(features, target)
    assert head.centres[0].tolist() == [1, 0]
    head.train().loss(features, target)
    # class 0: sum of (f - c) is (2, 0) + (1, 3), over 1 + 2, times 0.5; class 1: (1, 1) over 2, halved; class 2 rests
    torch.testing.assert_close(head.centres, torch.tensor([[1.5, 0.5], [0.25, 0.25], [5.0, 5.0]]))
    assert "centres" in head.state_dict()
    assert "centres" not in dict(head.named_parameters())


def test_centres_rest_at_the_means_of_their_classes(few):
    head = Center(5, 4)
    means = torch.stack([few[0][few[1] == k].mean(0) for k in range(4)])
    head.centres.copy_(means)
    head.loss(*few)
    torch.testing.assert_close(head.centres, means)


def test_lgm_is_the_worked_example():
    head = LGM(2, 2, margin=0.3, likelihood=1.0)
    head.weight.data = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    features, target = torch.tensor([[1.0, 2.0]]), torch.tensor([0])
    loss, terms = head.loss(features, target)
    assert float(terms["likelihood"]) == pytest.approx(0.5)
    assert float(loss.detach()) == pytest.approx(0.1460354 + 0.5, abs=1e-6)


def test_the_means_of_lgm_start_as_wide_as_in_the_authors_code():
    torch.manual_seed(0)
    assert float(LGM(512, 50).weight.std()) == pytest.approx((2 / (512 + 50)) ** 0.5, rel=0.02)


def test_lgm_is_the_loop(few):
    head = LGM(5, 4, margin=0.3, likelihood=0.1)
    distances = [[0.5 * float(((x - m) ** 2).sum()) for m in head.weight.detach().double()] for x in few[0].double()]
    target = few[1].tolist()
    logits = [[-d * (1 + 0.3 * (k == t)) for k, d in enumerate(row)] for row, t in zip(distances, target, strict=True)]
    likelihood = sum(row[t] for row, t in zip(distances, target, strict=True)) / 8
    expected = loop_cross_entropy(logits, target) + 0.1 * likelihood
    assert float(head.loss(*few)[0]) == pytest.approx(expected, rel=1e-5)


def test_without_a_margin_lgm_is_the_posterior_of_gaussians(few):
    head = LGM(5, 4)
    found = head(few[0]).softmax(1)
    density = torch.tensor([[stats.multivariate_normal.pdf(x, m) for m in head.weight.detach()] for x in few[0]])
    torch.testing.assert_close(found, (density / density.sum(1, keepdim=True)).float(), rtol=1e-4, atol=1e-6)
