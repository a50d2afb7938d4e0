import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from fgbench.backbones import Backbone
from fgbench.losses import LGM, ArcFace, Center, Focal, MutualChannel
from fgbench.methods import Optim, RegionGrouping
from fgbench.methods.region_grouping import Attention, Bottleneck, GroupedLinear, GroupingUnit, assign, region_features
from fgbench.types import Batch


def double(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(target="class", num_outputs=4, **kwargs):
    method = RegionGrouping(num_outputs, target, Optim(), **{"backbone": "resnet_nano", "weights": None, **kwargs})
    return randomise(method)


def randomise(module):
    """Fresh residual blocks are the identity and fresh norms neutral: give everything a say."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return module


def batch_of(image, target):
    return Batch(image, target, *[torch.empty(0)] * 6)


# ---- grouping unit


def test_assignment_is_the_triple_loop():
    rows, dictionary, beta = double(2, 5, 3), double(4, 3, seed=1), torch.tensor([0.3, 0.5, 0.9, 0.6]).double()
    found = assign(rows, dictionary, beta)
    for b in range(2):
        for n in range(5):
            weights = []
            for p in range(4):
                distance = sum((float(rows[b, n, d]) - float(dictionary[p, d])) ** 2 for d in range(3))
                weights.append(torch.exp(torch.tensor(-distance / float(beta[p]), dtype=torch.float64)))
            expected = torch.stack(weights) / sum(weights)
            torch.testing.assert_close(found[b, n], expected, rtol=1e-9, atol=1e-12)


def test_assignment_agrees_with_cdist_and_sums_to_one():
    rows, dictionary = torch.randn(2, 30, 16), torch.randn(5, 16)
    beta = torch.rand(5) * 0.9 + 0.05
    found = assign(rows, dictionary, beta)
    distances = torch.cdist(rows.double(), dictionary.double()) ** 2
    torch.testing.assert_close(found.double(), (-distances / beta.double()).softmax(-1), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 30))


def test_gradients_of_assignment_and_regions_are_those_of_finite_differences():
    rows = double(2, 4, 3).mul(0.5).requires_grad_()
    dictionary = double(3, 3, seed=1).mul(0.5).requires_grad_()
    smoothing = double(3, seed=2).requires_grad_()

    def unit(x, d, s):
        q = assign(x, d, s.sigmoid())
        return q, region_features(x, q, d)

    assert torch.autograd.gradcheck(unit, (rows, dictionary, smoothing))


def test_two_parts_on_a_line_give_a_logistic_curve():
    d, beta = torch.tensor([[0.0], [2.0]]).double(), torch.full((2,), 0.8).double()
    x = torch.linspace(-1, 3, 9).double()
    found = assign(x.view(1, -1, 1), d, beta)[0, :, 0]
    torch.testing.assert_close(found, torch.sigmoid((2 * x * (0 - 2.0) + 4.0) / 0.8))
    assert float(assign(torch.ones(1, 1, 1).double(), d, beta)[0, 0, 0]) == pytest.approx(0.5)


def test_small_sigma_is_the_nearest_part():
    rows, dictionary = torch.randn(1, 50, 8), torch.randn(4, 8)
    nearest = torch.cdist(rows, dictionary).argmin(-1)
    found = assign(rows, dictionary, torch.full((4,), 1e-4))
    assert torch.equal(found.argmax(-1), nearest)
    assert float(found.amax(-1).median()) > 0.999


def test_with_one_sigma_only_the_plane_of_the_parts_matters():
    dictionary = torch.zeros(2, 4).double()
    dictionary[1, 0] = 1.0
    rows, beta = double(1, 6, 4), torch.full((2,), 0.5).double()
    moved = rows + torch.tensor([0.0, 3.0, -1.0, 2.0]).double()
    torch.testing.assert_close(assign(rows, dictionary, beta), assign(moved, dictionary, beta))
    other = torch.tensor([0.5, 0.7]).double()
    assert not torch.allclose(assign(rows, dictionary, other), assign(moved, dictionary, other))


def test_regions_point_from_the_centre_to_the_mean_of_the_cells():
    rows, dictionary = double(1, 6, 3), double(2, 3, seed=1)
    mask = torch.tensor([1, 0, 1, 1, 0, 0]).double()
    found = region_features(rows, torch.stack([mask, 1 - mask], -1)[None], dictionary)
    for part, members in enumerate((rows[0, [0, 2, 3]], rows[0, [1, 4, 5]])):
        direction = members.mean(0) - dictionary[part]
        torch.testing.assert_close(found[0, part], direction / direction.norm())
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(1, 2).double())


def test_cells_on_the_centre_give_zero_and_finite_gradients():
    dictionary = torch.rand(2, 3)
    rows = dictionary[0].expand(1, 4, 3).clone().requires_grad_()
    assignment = torch.zeros(1, 4, 2)
    assignment[..., 0] = 1
    found = region_features(rows, assignment, dictionary)
    assert float(found[0, 0].detach().abs().max()) == pytest.approx(0, abs=1e-6)
    assert found.isfinite().all()  # part 1 holds no cell at all
    found.sum().backward()
    assert rows.grad.isfinite().all()


def test_dividing_by_sigma_would_change_nothing():
    rows, dictionary, q = double(1, 6, 3), double(2, 3, seed=1), double(1, 6, 2, seed=2).softmax(-1)
    sigma = torch.tensor([0.1, 0.7]).double()
    mean = torch.einsum("bnp,bnd->bpd", q, rows) / q.sum(1)[..., None]
    expected = functional.normalize((mean - dictionary) / sigma[:, None], dim=-1)
    torch.testing.assert_close(region_features(rows, q, dictionary), expected)


def test_the_dictionary_starts_as_half_normal_of_unit_length():
    unit = GroupingUnit(64, 1024)
    assert float(unit.dictionary.detach().min()) == pytest.approx(1e-5)
    assert float((unit.dictionary == unit.dictionary.min()).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert float(unit.dictionary.detach().square().sum(-1).mean()) == pytest.approx(1.0, abs=0.05)
    assert (unit.smoothing.sigmoid() == 0.5).all()


def test_autocast_does_not_reach_the_grouping():
    unit = GroupingUnit(5, 1024)
    features = torch.rand(2, 1024, 7, 7) * 1.2  # squared norms of about 500
    exact = unit(features)
    with torch.autocast("cpu", torch.bfloat16):
        guarded = unit(features)
    low = assign(
        features.flatten(2).mT.bfloat16(), unit.dictionary.bfloat16(), unit.smoothing.sigmoid().bfloat16()
    ).mT.unflatten(2, (7, 7))
    assert guarded[0].dtype == guarded[1].dtype == torch.float32
    assert float((guarded[0] - exact[0]).detach().abs().max()) < 1e-3
    assert float((low.float() - exact[0]).detach().abs().max()) > 0.05  # what the guard is for


# ---- invariances


def test_order_of_the_cells_does_not_matter():
    method = make().eval()
    features = torch.rand(2, 16, 6, 6)
    order = torch.randperm(36)
    shuffled = features.flatten(2)[..., order].unflatten(2, (6, 6))
    (q, z), (q2, z2) = method.grouping(features), method.grouping(shuffled)
    torch.testing.assert_close(q.flatten(2)[..., order], q2.flatten(2))
    torch.testing.assert_close(z, z2, rtol=1e-4, atol=1e-5)
    method.backbone = nn.Identity()
    logits, other = method._group_and_classify(features)[0], method._group_and_classify(shuffled)[0]
    torch.testing.assert_close(logits, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["class", "attributes"])
def test_order_of_the_parts_does_not_matter_for_the_label(target):
    method, order = make(target), torch.tensor([3, 1, 4, 0, 2])
    method.eval()
    other = copy.deepcopy(method)
    other.grouping.smoothing.data.copy_(torch.randn(5))
    method.grouping.smoothing.data.copy_(other.grouping.smoothing[torch.argsort(order)])
    other.grouping.dictionary.data.copy_(method.grouping.dictionary[order])
    other.grouping.smoothing.data.copy_(method.grouping.smoothing[order])
    image = torch.randn(2, 3, 96, 96)
    first, second = method(image), other(image)
    torch.testing.assert_close(first.parts[:, order], second.parts)
    torch.testing.assert_close(first.logits, second.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.saliency, second.saliency)


def test_shifting_the_map_shifts_the_assignment_and_keeps_attention():
    method = make().eval()
    method.backbone = nn.Identity()
    features = torch.rand(1, 16, 6, 6)
    _, parts, attention = method._group_and_classify(features)
    _, shifted, same = method._group_and_classify(features.roll((1, 2), (2, 3)))
    torch.testing.assert_close(parts.roll((1, 2), (2, 3)), shifted)
    torch.testing.assert_close(attention, same, rtol=1e-4, atol=1e-5)


# ---- attention and attribution


@pytest.mark.parametrize("heads", [1, 40])
def test_attention_is_a_distribution_over_parts(heads):
    attention = randomise(Attention(heads, 64))(torch.randn(3, 5, 64))
    assert attention.shape == (3, heads, 5)
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, heads))
    assert float(attention.detach().std(-1).mean()) > 1e-3


def test_saliency_spreads_attention_over_the_cells_of_the_parts():
    method = make().eval()
    image = torch.randn(2, 3, 96, 96)
    output = method(image)
    _, assignment, attention = method._group_and_classify(image)
    for b in range(2):
        expected = sum(attention[b, 0, p].detach() * assignment[b, p] for p in range(5))
        torch.testing.assert_close(output.saliency[b], expected)
    mass = (attention[:, 0] * assignment.sum((2, 3))).sum(1)
    torch.testing.assert_close(output.saliency.sum((1, 2)), mass)


def test_saliency_of_attributes_is_that_of_the_largest_logit():
    method = make("attributes", 6).eval()
    image = torch.randn(4, 3, 96, 96)
    output = method(image)
    torch.testing.assert_close(output.saliency, method.explain(image, output.logits.argmax(1)))
    others = torch.stack([method.explain(image, torch.full((4,), a)) for a in range(6)])
    assert float(others.std(0).max().detach()) > 1e-4


# ---- heads


class LoopedHeads(nn.Module):
    """The heads of the attributes one by one, in torch's own 1 x 1 convolutions, from the weights of the method."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def linear(self, x, layer, group):
        bias = None if layer.bias is None else layer.bias[group]
        return functional.conv1d(x, layer.weight[group].T[..., None], bias)

    def norm(self, x, layer, group, groups):
        size = layer.norm.num_features // groups
        part = slice(group * size, (group + 1) * size)
        moments = [getattr(layer.norm, name)[part] for name in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, moments[0].clone(), moments[1].clone(), *moments[2:], self.method.training)

    def forward(self, regions, transformed):
        method, heads = self.method, self.method.heads
        regions, logits = regions.mT, []
        first, _, _, norm1, _, second, norm2, _, third = method.attention.score
        for a in range(heads):
            wide = first.weight.shape[2] // heads
            x = functional.conv1d(regions, first.weight[0][:, a * wide : (a + 1) * wide].T[..., None])
            x = self.norm(x, norm1, a, heads).relu()
            x = self.norm(self.linear(x, second, a), norm2, a, heads).relu()
            weights = self.norm(self.linear(x, third, a), method.attention.norm, a, heads).relu().softmax(-1)
            v = (transformed.mT * weights).sum(-1, keepdim=True)
            v = self.norm(v, method.norm, a, heads)
            block, y = method.refine.block, v
            for i in (0, 3, 6):
                y = self.norm(self.linear(y, block[i], a), block[i + 1], a, heads)
                y = y.relu() if i < 6 else y
            logits.append(self.linear((y + v).relu(), method.classifier, a)[:, 0, 0])
        return torch.stack(logits, 1)


@pytest.mark.parametrize("training", [True, False])
def test_grouped_heads_are_the_loop_over_heads(training):
    method = make("attributes", 7, backbone="resnet_tiny", width=64, blocks=1).train(training)
    image = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        _, regions = method.grouping(method.backbone(image))
        transformed = method.transform(regions.flatten(0, 1)[:, None]).view(4, 5, -1)
        expected = LoopedHeads(method)(regions, transformed)
        torch.testing.assert_close(method(image).logits, expected, rtol=1e-3, atol=1e-4)


def test_pooled_norm_shares_its_moments_among_attributes():
    method = make("attributes", 3, head_norm="pooled", width=8)
    assert method.norm.norm.num_features == 8
    x = torch.randn(5, 3, 8)
    expected = functional.batch_norm(x.reshape(15, 8), None, None, method.norm.norm.weight, method.norm.norm.bias, True)
    torch.testing.assert_close(method.norm(x), expected.view(5, 3, 8))


def test_a_grouped_linear_layer_is_one_linear_layer_per_group():
    layer, x = GroupedLinear(3, 4, 5, bias=True), torch.randn(6, 3, 4)
    for group in range(3):
        expected = functional.linear(x[:, group], layer.weight[group].T, layer.bias[group])
        torch.testing.assert_close(layer(x)[:, group], expected)


def test_fresh_blocks_cut_their_input_at_zero_and_else_leave_it():
    x = torch.randn(6, 1, 8)
    torch.testing.assert_close(Bottleneck(1, 8, 2)(x), x.relu())


# ---- other losses


def test_without_a_loss_the_weights_and_what_is_drawn_later_are_those_of_a_grouped_layer():
    torch.manual_seed(5)
    method = RegionGrouping(4, "class", Optim(), backbone="resnet_nano", weights=None)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    Backbone("resnet_nano", None, stride=16)
    GroupingUnit(5, 16)
    blocks = [Bottleneck(1, width, 8) for width in (16, 32, 32, 32)]
    Attention(1, 16)
    last = GroupedLinear(1, 32, 4, bias=True)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(method.transform[3].block[0].weight, blocks[3].block[0].weight)
    assert type(method.classifier) is GroupedLinear
    assert torch.equal(method.classifier.weight, last.weight)
    assert torch.equal(method.classifier.bias, last.bias)


def cosines(x, weight):
    pairs = [[float(torch.dot(row / row.norm(), w / w.norm())) for w in weight.detach()] for row in x]
    return torch.tensor(pairs)


def test_a_margin_is_in_the_loss_and_never_in_a_test():
    method = make(prior_weight=0.25, loss=ArcFace).eval()
    seen = []
    method.refine.register_forward_hook(lambda module, given, out: seen.append(out.detach()[:, 0]))
    image, target = torch.randn(4, 3, 96, 96), torch.arange(4)
    output, (loss, terms) = method(image), method.loss(batch_of(image, target))
    plain = cosines(seen[0], method.classifier.weight.detach())
    torch.testing.assert_close(output.logits, 64 * plain, rtol=1e-3, atol=1e-3)
    plain[target, target] = (plain.diagonal().acos() + 0.5).cos()
    expected = functional.cross_entropy(64 * plain, target)
    torch.testing.assert_close(terms["classification"], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(loss.detach(), terms["classification"] + 0.25 * terms["prior"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = method(image).logits
    torch.testing.assert_close(half, 64 * cosines(seen[-1].float(), method.classifier.weight), rtol=1e-3, atol=1e-3)


def test_focal_loss_without_focus_is_the_method_without_a_loss():
    plain, focal = make(), make(loss=lambda features, classes: Focal(features, classes, gamma=0.0))
    state = plain.state_dict()
    state["classifier.weight"], state["classifier.bias"] = plain.classifier.weight[0].T, plain.classifier.bias[0]
    focal.load_state_dict(state)
    data = batch_of(torch.randn(4, 3, 96, 96), torch.arange(4))
    torch.testing.assert_close(plain.eval()(data.image).logits, focal.eval()(data.image).logits)
    torch.testing.assert_close(plain.train().loss(data)[0], focal.train().loss(data)[0])


@pytest.mark.parametrize(
    ("loss", "further"), [(ArcFace, ()), (Focal, ()), (Center, ("center",)), (LGM, ("likelihood",))]
)
def test_a_step_with_another_loss_trains_its_layer_and_lowers_it(loss, further):
    method, data = make(loss=loss, prior_weight=0.0), batch_of(torch.randn(8, 3, 64, 64), torch.arange(8) % 4)
    optimizer = torch.optim.Adam(method.parameters(), 3e-3)
    values = []
    for _ in range(8):
        optimizer.zero_grad()
        value, terms = method.loss(data)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert set(terms) == {"classification", *further}
    assert all(p.grad is not None and p.grad.any() for p in method.classifier.parameters())
    assert values[-1] < values[0]


def test_a_loss_that_cannot_be_is_refused_before_training():
    with pytest.raises(ValueError, match="a classifier for each attribute, and a loss has one: leave LOSS out"):
        make("attributes", 3, loss=ArcFace)
    with pytest.raises(ValueError, match="shows the loss no map"):
        make(loss=MutualChannel)


# ---- the paper's numbers


@pytest.mark.parametrize(
    ("kwargs", "millions"),
    [
        ({"num_outputs": 200, "backbone": "resnet101"}, {"": 40.2, "transform": 11.0, "attention": 1.19}),
        ({"num_outputs": 200, "backbone": "resnet50"}, {"": 21.2}),
        ({"num_outputs": 5089, "backbone": "resnet101", "parts": 8}, {"": 50.2}),
    ],
)
def test_parameters_are_as_many_as_the_authors(kwargs, millions):
    with torch.device("meta"):
        method = RegionGrouping(target="class", optim=Optim(), weights=None, **kwargs)
    for name, expected in millions.items():
        found = sum(p.numel() for n, p in method.named_parameters() if n.startswith(name)) / 1e6
        assert found == pytest.approx(expected, rel=5e-3)


def test_celeba_heads_hold_two_thirds_of_the_parameters():
    with torch.device("meta"):
        method = RegionGrouping(40, "attributes", Optim(), weights=None, parts=9, head_norm="pooled")
    total = sum(p.numel() for p in method.parameters()) / 1e6
    assert total == pytest.approx(144.1, abs=0.1)
    assert sum(p.numel() for p in method.refine.parameters()) / 1e6 == pytest.approx(94.6, abs=0.1)
    assert sum(p.numel() for p in method.attention.parameters()) / 1e6 == pytest.approx(10.8, abs=0.1)


# ---- loss and ablations


def test_loss_is_classification_plus_the_weighted_prior():
    method = make(prior_weight=0.25, prior_pad=True)
    loss, terms = method.loss(batch_of(torch.randn(4, 3, 64, 64), torch.arange(4)))
    torch.testing.assert_close(loss.detach(), terms["classification"] + 0.25 * terms["prior"])


def test_without_prior_there_is_no_such_term():
    method = make(prior_weight=0.0)
    _, terms = method.loss(batch_of(torch.randn(4, 3, 64, 64), torch.arange(4)))
    assert set(terms) == {"classification"}


def test_without_attention_parts_weigh_the_same_and_nothing_is_salient():
    method = make(attention=False).eval()
    assert not any("attention" in name for name, _ in method.named_parameters())
    image = torch.randn(2, 3, 96, 96)
    output = method(image)
    assert output.saliency is None
    assert method.explain(image, torch.tensor([0, 1])) is None
    _, regions = method.grouping(method.backbone(image))
    mean = method.transform(regions.flatten(0, 1)[:, None]).view(2, 5, -1).mean(1)
    torch.testing.assert_close(output.logits, method.classifier(method.norm(mean[:, None]))[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"parts": 1}, {"blocks": 0}, {"width": 6}, {"width": 0}, {"prior_weight": -1.0}])
def test_impossible_arguments_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RegionGrouping(4, "class", Optim(), backbone="resnet_nano", weights=None, **wrong)


def test_training_on_a_single_image_is_refused():
    method = make(prior_weight=0.0)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        method.loss(batch_of(torch.randn(1, 3, 64, 64), torch.zeros(1, dtype=torch.long)))


# ---- fully convolutional test


def test_any_size_works_and_a_crop_is_seen_as_such():
    method = make().eval()
    wide = torch.randn(2, 3, 80, 107)
    output = method(wide)
    assert output.parts.shape == (2, 5, 5, 7)
    cropped = method(wide[..., :80])
    assert cropped.parts.shape == (2, 5, 5, 5)
    again = method(wide[..., :80].clone())
    torch.testing.assert_close(cropped.logits, again.logits)


# ---- learning


def test_two_textures_become_two_parts():
    """Stripes and dots with the boundary anywhere: with the prior each becomes a part, without any label of cells."""
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
        stripes, dots = ((x // 2) % 2).float(), (((x // 4) % 2) * ((y // 4) % 2)).float()
        cut = torch.randint(1, 6, (n,), generator=generator) * 16  # at boundaries of cells
        mask = (x < cut[:, None, None]).float()
        target = torch.randint(2, (n,), generator=generator)
        gain = 1 + 0.5 * target.float()[:, None, None]
        image = mask * stripes * gain - (1 - mask) * dots * gain
        noise = 0.1 * torch.randn(n, 3, 96, 96, generator=generator)
        return image[:, None] + noise, target, mask[:, 8::16, 8::16]

    method = RegionGrouping(2, "class", Optim(), "resnet_nano", None, parts=2, prior_pad=True, width=16, blocks=1)
    # Cells that see 16 x 16 pixels and no more, so that the truth is sharp.
    method.backbone = nn.Sequential(nn.Conv2d(3, 16, 16, 16), nn.BatchNorm2d(16), nn.ReLU())
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    for _ in range(100):
        image, target, _ = draw(16)
        loss, _ = method.loss(batch_of(image, target))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    method.eval()
    image, _, mask = draw(64)
    first = (method(image).parts[:, 0] > 0.5).float()
    found = max((first, 1 - first), key=lambda part: float((part * mask).sum()))
    iou = (found * mask).sum() / (found + mask).clamp(max=1).sum()
    assert float(iou) > 0.9
