"""The losses that pytorch-metric-learning has too: the same loss and the same gradients."""

import math

import pytest
import torch
from pytorch_metric_learning import losses as reference
from torch import Tensor

from fgbench.losses import COCO, ArcFace, ASoftmax, Circle, CosFace

IMAGES, FEATURES, CLASSES = 24, 8, 6


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Features of several lengths, and their classes."""
    features = torch.randn(IMAGES, FEATURES, dtype=torch.float64) * torch.linspace(0.1, 3.0, IMAGES)[:, None].double()
    return features, torch.arange(IMAGES) % CLASSES


def make_asoftmax() -> ASoftmax:
    """Without annealing: the plain logit has no weight."""
    return ASoftmax(FEATURES, CLASSES, margin=4, plain=0.0, least=0.0)


CASES = {
    "ArcFace": (
        lambda: ArcFace(FEATURES, CLASSES, scale=16.0, margin=0.5),
        lambda: reference.ArcFaceLoss(CLASSES, FEATURES, margin=math.degrees(0.5), scale=16),
    ),
    "CosFace": (
        lambda: CosFace(FEATURES, CLASSES, scale=16.0, margin=0.35),
        lambda: reference.CosFaceLoss(CLASSES, FEATURES, margin=0.35, scale=16),
    ),
    "A-Softmax": (make_asoftmax, lambda: reference.SphereFaceLoss(CLASSES, FEATURES, margin=4, scale=1)),
}


def run(loss: Tensor, features: Tensor, weight: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, (features, weight))]


@pytest.mark.parametrize("name", CASES)
def test_a_loss_and_its_gradients_are_those_of_the_reference(name, batch):
    features, target = batch
    head, theirs = CASES[name][0](), CASES[name][1]()
    with torch.no_grad():
        features[0] = -head.weight[target[0]].double()
        theirs.W.copy_(head.weight.T)
    theirs.double()
    ours, other = features.float().requires_grad_(), features.clone().requires_grad_()
    mine = run(head.loss(ours, target)[0], ours, head.weight)
    expected = run(theirs(other, target), other, theirs.W)
    torch.testing.assert_close(mine[0].double(), expected[0], rtol=1e-5, atol=1e-6)
    # the first image is at the end of the range of cosines, where an arc cosine has no gradient: the rest is compared
    torch.testing.assert_close(mine[1][1:].double(), expected[1][1:], rtol=1e-3, atol=1e-5)
    others = torch.arange(CLASSES) != target[0]
    torch.testing.assert_close(mine[2][others].double(), expected[2].T[others], rtol=1e-3, atol=1e-5)


def test_coco_is_the_normalised_softmax_at_its_temperature(batch):
    features, target = batch
    head = COCO(FEATURES, CLASSES, scale=10.0)
    theirs = reference.NormalizedSoftmaxLoss(CLASSES, FEATURES, temperature=0.1).double()
    with torch.no_grad():
        theirs.W.copy_(head.weight.T)
    ours = features.float().requires_grad_()
    other = torch.nn.functional.normalize(features).requires_grad_()
    mine = run(head.loss(ours, target)[0], ours, head.weight)
    expected = run(theirs(other, target), other, theirs.W)
    torch.testing.assert_close(mine[0].double(), expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine[2].double(), expected[2].T, rtol=1e-4, atol=1e-6)


def test_circle_loss_is_that_of_pairs_of_images_and_class_weights(batch):
    features, target = batch
    head = Circle(FEATURES, CLASSES, scale=20.0, margin=0.25)
    theirs = reference.CircleLoss(m=0.25, gamma=20)
    other = features.clone().requires_grad_()
    weight = head.weight.detach().double().requires_grad_()
    ours = features.float().requires_grad_()
    mine = run(head.loss(ours, target)[0], ours, head.weight)
    expected = run(theirs(other, target, ref_emb=weight, ref_labels=torch.arange(CLASSES)), other, weight)
    for found, wanted in zip(mine, expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)
