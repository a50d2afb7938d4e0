"""Costs are what a hand counts."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from fgbench.costs import Cost, count


class Of(nn.Module):
    """A function of the image, beside the one parameter that tells the device."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.here = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor) -> Tensor:
        return self.function(image)


def cost(function, size=(8, 12)) -> Cost:
    return count(Of(function), size)


def test_a_convolution() -> None:
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    macs = (4 * 6) * 8 * (3 * 9)  # cells, channels out, products of each
    assert count(conv, (8, 12)) == Cost(macs, 2 * macs + 4 * 6 * 8)  # and the bias
    assert count(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), (8, 12)) == Cost(macs, 2 * macs)


def test_a_convolution_in_groups() -> None:
    conv = nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False)
    assert count(conv, (8, 12)).macs == (8 * 12) * 6 * (1 * 9)


def test_linear_layers_with_and_without_bias() -> None:
    weight, bias = torch.ones(7, 36), torch.ones(7)
    assert cost(lambda x: F.linear(x.reshape(8, 36), weight)) == Cost(8 * 7 * 36, 2 * 8 * 7 * 36)
    assert cost(lambda x: F.linear(x.reshape(8, 36), weight, bias)) == Cost(8 * 7 * 36, 2 * 8 * 7 * 36 + 8 * 7)


def test_products_of_matrices_however_they_are_written() -> None:
    macs = 3 * 8 * 8 * 12  # three channels, 8 x 12 times 12 x 8
    for product in (
        lambda x: x @ x.transpose(2, 3),
        lambda x: torch.bmm(x[0], x[0].transpose(1, 2)),
        lambda x: torch.einsum("bchw,bcgw->bchg", x, x),
    ):
        assert cost(product) == Cost(macs, 2 * macs)


def test_a_matrix_times_a_vector() -> None:
    assert cost(lambda x: x[0, 0] @ x[0, 0, 0]) == Cost(8 * 12, 2 * 8 * 12)


def test_attention_is_two_products_a_scale_and_a_softmax() -> None:
    def attend(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)  # 3 heads, 8 tokens, 12 features

    found = cost(attend)
    assert found.macs == 2 * 3 * 8 * 8 * 12
    softmax = 3 * 8 * 8
    scale = 2 * 3 * 8 * 12  # queries and keys
    assert 2 * found.macs + 5 * softmax <= found.flops <= 2 * found.macs + 6 * softmax + scale


def test_an_lstm_is_its_gates() -> None:
    lstm = nn.LSTM(12, 5, batch_first=True)
    steps, gates = 8, 4 * 5
    found = cost(lambda x: lstm(x[:, 0])[0])
    assert found.macs == steps * gates * (12 + 5)
    biases, cell = 2 * gates, gates + 4 * 5  # four nonlinear gates, f c, i g, their sum, tanh c, its product
    assert found.flops == pytest.approx(2 * found.macs + steps * (biases + cell), rel=0.05)


@pytest.mark.parametrize(("mode", "each"), [("bilinear", 4), ("nearest", 0), ("bicubic", 20)])
def test_a_sampled_grid(mode: str, each: int) -> None:
    grid = torch.zeros(1, 5, 7, 2)
    found = cost(lambda x: F.grid_sample(x, grid, mode=mode, align_corners=False))
    assert found == Cost(3 * 5 * 7 * each, 2 * 3 * 5 * 7 * each)


def test_resizing() -> None:
    assert cost(lambda x: F.interpolate(x, (16, 24), mode="bilinear")).macs == 3 * 16 * 24 * 4
    assert cost(lambda x: F.interpolate(x, (16, 24), mode="nearest")) == Cost(0, 0)


def test_regions() -> None:
    rois = torch.tensor([[0.0, 0, 0, 6, 8], [0, 2, 2, 8, 5]])  # 6 x 8 and 6 x 3 pixels
    fixed = cost(lambda x: torchvision.ops.roi_align(x, [rois[:, 1:]], (2, 3), sampling_ratio=2))
    assert fixed.macs == 2 * 3 * (2 * 3) * 2 * 2 * 4
    adaptive = cost(lambda x: torchvision.ops.roi_align(x, [rois[:, 1:]], (2, 3)))
    assert adaptive.macs == 3 * (2 * 3) * (4 * 2 + 2 * 2) * 4  # bins of 2 x 4 and of 2 x 1.5 pixels


def test_distances_of_all_pairs() -> None:
    few = cost(lambda x: torch.cdist(x[0, 0], x[0, 1], compute_mode="donot_use_mm_for_euclid_dist"))
    assert few.macs == 8 * 8 * 12


def test_what_is_no_product_costs_an_operation_an_element() -> None:
    n = 3 * 8 * 12
    assert cost(F.relu) == Cost(0, n)
    assert cost(lambda x: x + 1) == Cost(0, n)
    assert cost(lambda x: x.mul_(2)) == Cost(0, n)
    assert cost(lambda x: x.mean((2, 3))) == Cost(0, n)
    assert cost(lambda x: x.softmax(1)) == Cost(0, 5 * n)
    assert cost(lambda x: F.max_pool2d(x, 2)) == Cost(0, n)
    assert cost(lambda x: F.adaptive_avg_pool2d(x, (2, 3))) == Cost(0, n)
    assert cost(lambda x: x.transpose(2, 3).flatten(1).reshape(3, -1)) == Cost(0, 0)
    assert count(nn.BatchNorm2d(3), (8, 12)) == Cost(0, 2 * n)


def test_known_networks() -> None:
    cost = count(torchvision.models.resnet18(weights=None), (224, 224))
    assert cost.macs == pytest.approx(1.814e9, abs=0.005e9)  # He et al. 2016: 1.8 10^9
    assert 2 * cost.macs < cost.flops < 2.02 * cost.macs


def test_counting_leaves_the_module_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count(model, (8, 8))
    assert model.training
    assert not model[1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
