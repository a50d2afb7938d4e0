import torch
from torch import nn

from fgbench.layers.dilated import SharedDilation
from fgbench.layers.flip import flip_average


def test_dilations_share_one_kernel_and_their_responses_add_up():
    layer = SharedDilation(3, 4, (1, 2, 3))
    nn.init.uniform_(layer.bias, -0.5, 0.5)
    x = torch.randn(2, 3, 7, 8)
    expected = torch.zeros(2, 4, 7, 8)
    for d in (1, 2, 3):
        conv = nn.Conv2d(3, 4, 3, padding=d, dilation=d)
        conv.load_state_dict(layer.state_dict())
        expected += conv(x).relu()
    torch.testing.assert_close(layer(x), expected)
    assert sum(p.numel() for p in layer.parameters()) == 3 * 4 * 9 + 4


def test_the_gradient_of_the_kernel_is_the_sum_over_dilations():
    layer = SharedDilation(2, 3, (1, 2))
    x = torch.randn(1, 2, 6, 6)
    layer(x).square().sum().backward()
    total = torch.zeros_like(layer.weight)
    both = layer(x).detach()
    for d in (1, 2):
        weight = layer.weight.detach().clone().requires_grad_()
        response = nn.functional.conv2d(x, weight, layer.bias.detach(), padding=d, dilation=d).relu()
        (2 * both * response).sum().backward()
        total += weight.grad
    torch.testing.assert_close(layer.weight.grad, total)


def test_flip_averages_are_of_probabilities():
    first, second = torch.randn(4, 5), 3 * torch.randn(4, 5)
    expected = (first.softmax(1) + second.softmax(1)) / 2
    torch.testing.assert_close(flip_average(first, second, "class").softmax(1), expected)
    expected = (first.sigmoid() + second.sigmoid()) / 2
    torch.testing.assert_close(flip_average(first, second, "attributes").sigmoid(), expected)
