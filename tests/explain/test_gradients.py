"""Maps from gradients against hooks by hand, closed forms and loops in float64."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fgbench.explain import gradients
from fgbench.layers import attention_sampler
from fgbench.methods import METHODS
from fgbench.types import Output

CELLS = [(n, t) for n, m in METHODS.items() for t in ("class", "attributes") if t not in m.undefined_for]
FINDERS = {
    "grad_cam": gradients.grad_cam,
    "guided_grad_cam": gradients.guided_grad_cam,
    "integrated": gradients.integrated,
}


class Tiny(nn.Module):
    """Two layers with a ReLU of one's choice, and what explainers ask for."""

    def __init__(self, act, channels=4, side=3):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.stages = nn.ModuleList([nn.Sequential(nn.Conv2d(3, channels, side, bias=False))])
        self.act, self.head = act, nn.Linear(channels, 2, bias=False)
        self.double()

    def forward(self, image):
        return Output(self.head(self.act(self.backbone.stages[0](image)).mean((2, 3))))

    def normalise(self, image):
        return image.double() / 255

    def over_image(self, maps, image):
        return maps

    def linear_evidence(self):
        return None


def slow_grad_cam(method, image, index):
    """By hooks and ``backward``, one image at a time, with a graph of everything."""
    stored = {}
    layer = method.backbone.stages[-1]
    handles = [
        layer.register_forward_hook(lambda m, a, out: stored.__setitem__("maps", out)),
        layer.register_full_backward_hook(lambda m, i, out: stored.__setitem__("gradient", out[0])),
    ]
    found = []
    for one, k in zip(image, index.tolist(), strict=True):
        one = one[None].requires_grad_()
        method(one).logits[0, k].backward()
        maps, gradient = stored["maps"][0].detach(), stored["gradient"][0]
        cam = torch.zeros(maps.shape[1:], dtype=torch.float64)
        for channel in range(len(maps)):
            cam += gradient[channel].mean() * maps[channel]
        found.append(cam.clamp(min=0))
    for handle in handles:
        handle.remove()
    method.zero_grad()
    return torch.stack(found)


@pytest.mark.parametrize(
    ("name", "target"),
    [("baseline", "class"), ("baseline", "attributes"), ("region_grouping", "class"), ("tdsa", "class")],
)
def test_grad_cam_is_that_of_hooks_and_backward(name, target, network, images):
    method = network(name, target)
    index = torch.tensor([4, 0, 2])
    if name == "region_grouping":  # float32 by its own decision
        expected = slow_grad_cam(method, images, index)
    else:
        expected = slow_grad_cam(copy.deepcopy(method).double(), images.double(), index)
    output, found = gradients.grad_cam(method, images, index)
    assert expected.amax() > 0
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4 * float(expected.amax()))
    torch.testing.assert_close(output.logits, method(images).logits)


def test_cam_is_grad_cam_times_the_number_of_cells(network, images):
    method = network()
    index = torch.tensor([1, 3, 0])
    cam, grad_cam = gradients.cam(method, images, index).saliency, gradients.grad_cam(method, images, index).saliency
    torch.testing.assert_close(cam, grad_cam * cam.shape[1] * cam.shape[2])
    torch.testing.assert_close(cam, method.explain(images, index))


def test_no_cam_where_logits_are_not_linear_in_the_mean(network, images):
    with pytest.raises(ValueError, match=r"RegionGrouping has no CAM .* Take gradcam"):
        gradients.cam(network("region_grouping"), images)


def test_the_linear_evidence_is_the_gradient_of_the_mean(network, images):
    for name in ("baseline", "ssn", "tasn"):
        method = network(name)
        with gradients.frozen(method), gradients.tap(method, cut=True) as found:
            logits = method(images).logits
            (gradient,) = torch.autograd.grad(logits[:, 2].sum(), found[0])
        torch.testing.assert_close(
            gradient.sum((2, 3)), method.linear_evidence()[2].expand(3, -1), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    "act",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        torch.relu,
        lambda x: x.relu(),
        lambda x: x.relu_(),
        nn.functional.relu,
        nn.ReLU6(),
    ],
    ids=["module", "inplace", "torch", "method", "method_", "functional", "relu6"],
)
def test_the_guided_rule_on_a_two_layer_net_is_worked_out_by_hand(act):
    net = Tiny(act)
    image = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    weight, head = net.backbone.stages[0][0].weight.detach(), net.head.weight.detach()
    _, found = gradients.guided_grad_cam(net, image, torch.tensor([1, 0]))
    for i, k in enumerate((1, 0)):
        hidden = nn.functional.conv2d(image[i : i + 1], weight)[0]
        guided, cam = torch.zeros(3, 6, 5, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64)
        for c in range(4):
            for r in range(4):
                for q in range(3):
                    gradient = head[k, c] / 12  # of the mean over 4 x 3 cells
                    if hidden[c, r, q] > 0 and gradient > 0:
                        guided[:, r : r + 3, q : q + 3] += gradient * weight[c]
            cam += (head[k, c] / 12 * (hidden[c] > 0)).mean() * hidden[c]
        large = nn.functional.interpolate(cam.clamp(min=0)[None, None].float(), (6, 5), mode="bilinear")[0, 0]
        torch.testing.assert_close(found[i], guided.abs().amax(0).float() * large, rtol=1e-5, atol=1e-7)


def test_relu6_passes_no_guided_gradient_above_six():
    net = Tiny(nn.ReLU6(), channels=1, side=1)
    with torch.no_grad():
        net.backbone.stages[0][0].weight.fill_(1.0)
        net.head.weight.fill_(1.0)
    image = torch.tensor([-1.0, 1.0, 3.0]).double().expand(1, 3, 1, 3)  # sums over colours: -3, 3, 9
    rule = gradients.GuidedRule()
    x = image.clone().requires_grad_()
    with rule:
        score = net(x).logits.sum()
        rule.guides = True
        (gradient,) = torch.autograd.grad(score, x)
    assert (gradient[0, 0, 0] != 0).tolist() == [False, True, False]


def test_integrated_gradients_add_up_to_the_difference_of_the_logits(network, images):
    method = network().double()
    index = torch.tensor([0, 3, 1])
    image = images.double()
    _, attribution = gradients.integrated_gradients(method, image, index, steps=200)
    black = method.normalise(torch.zeros(3, 3, 64, 80, dtype=torch.uint8)).double()
    with torch.no_grad():
        moved = (method(image).logits - method(black).logits).gather(1, index[:, None])[:, 0]
    torch.testing.assert_close(
        attribution.sum((1, 2, 3)), moved.double(), rtol=0.02, atol=0.02 * float(moved.abs().max())
    )


def test_integrated_gradients_of_a_linear_network_are_exact():
    net = Tiny(nn.Identity())
    image = torch.rand(2, 3, 6, 5, dtype=torch.float64)
    _, attribution = gradients.integrated_gradients(net, image, torch.tensor([0, 0]), steps=1)
    by_pixel = torch.zeros_like(image)  # the logit of an image that is black but for one value
    for place in range(image[0].numel()):
        one = torch.zeros_like(image).flatten(1)
        one[:, place] = image.flatten(1)[:, place]
        by_pixel.flatten(1)[:, place] = net(one.view_as(image)).logits[:, 0].detach()
    torch.testing.assert_close(attribution, by_pixel)


@pytest.mark.parametrize(("name", "target"), CELLS)
def test_every_method_has_every_map_and_images_do_not_mix(name, target, network, images):
    method = network(name, target)
    order = torch.tensor([2, 0, 1])
    for finder in (gradients.grad_cam, gradients.guided_grad_cam):
        _, together = finder(method, images)
        permuted = finder(method, images[order]).saliency
        alone = finder(method, images[1:2]).saliency
        assert together.dtype == torch.float32
        assert together.isfinite().all()
        assert (together >= 0).all()
        assert together.flatten(1).amax(1).max() > 0
        scale = float(together.max())
        loose = 0.05 if name in ("ssn", "tasn") else 1e-4  # sampling places move by rounding
        torch.testing.assert_close(permuted, together[order], rtol=loose, atol=loose * scale)
        torch.testing.assert_close(alone[0], together[1], rtol=loose, atol=loose * scale)


@pytest.mark.parametrize("finder", FINDERS.values(), ids=FINDERS)
def test_nothing_of_the_network_changes(finder, network, images):
    method = network("region_grouping").train()
    method.backbone.eval()  # a part in another mode than the whole
    method.attention.requires_grad_(False)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    modes = [module.training for module in method.modules()]
    wanting = [parameter.requires_grad for parameter in method.parameters()]
    with torch.no_grad():  # as in a trainer's test
        output, saliency = finder(method, images[:2])
    assert all(parameter.grad is None for parameter in method.parameters())
    assert [module.training for module in method.modules()] == modes
    assert [parameter.requires_grad for parameter in method.parameters()] == wanting
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert not saliency.requires_grad
    assert not any(x is not None and x.requires_grad for x in output)
    assert not images.requires_grad
    assert not method.backbone.stages[-1]._forward_hooks


def test_half_precision_gives_nearly_the_same_map(network, images):
    method = network()
    exact = gradients.guided_grad_cam(method, images, torch.tensor([0, 1, 2])).saliency
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients.guided_grad_cam(method, images, torch.tensor([0, 1, 2])).saliency
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1] > 0.9


@settings(max_examples=15, deadline=None)
@given(flip=st.booleans(), factor=st.floats(0.1, 20), rows=st.integers(0, 2), columns=st.integers(0, 2))
def test_grad_cam_follows_flips_scales_and_crops(flip, factor, rows, columns):
    net = Tiny(nn.ReLU(), side=1)  # cells are pixels: geometry is exact
    image = torch.randn(1, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    index = torch.tensor([1])
    base = gradients.grad_cam(net, image, index).saliency
    if flip:
        torch.testing.assert_close(gradients.grad_cam(net, image.flip(3), index).saliency, base.flip(2))
        guided = gradients.guided_grad_cam(net, image, index).saliency
        torch.testing.assert_close(gradients.guided_grad_cam(net, image.flip(3), index).saliency, guided.flip(2))
    # without biases, a brighter image has a brighter map
    torch.testing.assert_close(
        gradients.grad_cam(net, image * factor, index).saliency, base * factor, rtol=1e-5, atol=1e-6
    )
    # black borders (no evidence) cut away: the map is cut alike, and counts more per cell
    padded = nn.functional.pad(image, (columns, columns, rows, rows))
    whole = gradients.grad_cam(net, padded, index).saliency
    inside = whole[:, rows : rows + 6, columns : columns + 7]
    torch.testing.assert_close(inside.argmax(), base.argmax())
    assert whole.sum() == pytest.approx(float(inside.sum()))


@settings(max_examples=20, deadline=None)
@given(x0=st.floats(0, 0.4), x1=st.floats(0.6, 1), y0=st.floats(0, 0.4), y1=st.floats(0.6, 1))
def test_what_was_cropped_is_written_back_to_where_it_was_read(x0, x1, y0, y1):
    size = (60, 80)
    rows = (torch.arange(32).double() + 0.5) / 32 * (y1 - y0) + y0
    columns = (torch.arange(32).double() + 0.5) / 32 * (x1 - x0) + x0
    grid = attention_sampler.grid_of((rows * 60 - 0.5)[None], (columns * 80 - 0.5)[None], size)
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 0, 5, 2], maps[0, 1] = 1.0, 3.0
    written = attention_sampler.write_back(maps, grid, torch.zeros(1, 3, *size))
    u, v = written.shape[2:]
    y, x = (torch.arange(u) + 0.5) / u, (torch.arange(v) + 0.5) / v
    mass = written[0, 0] / written[0, 0].sum()
    assert float((mass.sum(1) * y).sum()) == pytest.approx(y0 + (y1 - y0) * 5.5 / 8, abs=0.02)
    assert float((mass.sum(0) * x).sum()) == pytest.approx(x0 + (x1 - x0) * 2.5 / 8, abs=0.02)
    read = written[0, 1][written[0, 1] > 0]
    torch.testing.assert_close(read, torch.full_like(read, 3.0))  # a constant stays what it is
    outside = (
        (x < x0 - 1 / v)[None, :] | (x > x1 + 1 / v)[None, :] | (y < y0 - 1 / u)[:, None] | (y > y1 + 1 / u)[:, None]
    )
    assert (written[0, 1][outside] == 0).all()
