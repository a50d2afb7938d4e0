"""The same maps as captum's, on a network of the suite, in float64."""

import pytest
import torch
from torch import nn

from fgbench.explain import gradients

captum = pytest.importorskip("captum.attr", reason="captum comes with the development extra")


class Logits(nn.Module):
    """What captum wants: a module that gives logits, whose ReLUs are modules of their own and not in place."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, image):
        return self.method(image).logits


@pytest.fixture
def case(network):
    method = network(backbone="vgg16", outputs=4).double()  # a ReLU module is used once, as captum's hooks need
    for module in method.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    image = torch.randn(2, 3, 16, 32, dtype=torch.float64)
    return method, image, torch.tensor([2, 0])


def test_grad_cam_is_captums(case):
    method, image, index = case
    layer = captum.LayerGradCam(Logits(method), method.backbone.stages[-1])
    expected = layer.attribute(image, target=index, relu_attributions=True)[:, 0]
    found = gradients.grad_cam(method, image, index).saliency
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-4, atol=1e-6 * float(expected.max()))


def test_guided_grad_cam_is_captums(case):
    method, image, index = case
    guided = captum.GuidedBackprop(Logits(method)).attribute(image.clone().requires_grad_(), target=index)
    layer = captum.LayerGradCam(Logits(method), method.backbone.stages[-1])
    coarse = layer.attribute(image, target=index, relu_attributions=True)
    large = nn.functional.interpolate(coarse.detach(), (16, 32), mode="bilinear", align_corners=False)[:, 0]
    expected = guided.detach().abs().amax(1) * large
    for module in method.modules():  # ours minds neither
        if isinstance(module, nn.ReLU):
            module.inplace = True
    found = gradients.guided_grad_cam(method, image, index).saliency
    assert float(expected.max()) > 0
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5 * float(expected.max()))


def test_integrated_gradients_are_captums(network):
    method, index = network(outputs=4).double(), torch.tensor([2, 0])
    image = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    black = method.normalise(torch.zeros(2, 3, 32, 48, dtype=torch.uint8)).double()
    expected = captum.IntegratedGradients(Logits(method)).attribute(
        image, black, target=index, n_steps=8, method="gausslegendre"
    )
    _, found = gradients.integrated_gradients(method, image, index, steps=8)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))
