"""TASN as a whole: which classifier sees what, what is detached, what the loss is made of."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fgbench.backbones import Backbone, save_weights
from fgbench.layers import attention_sampler, trilinear
from fgbench.losses import LGM, ArcFace, Center, Focal, MutualChannel
from fgbench.losses.distillation import distillation_loss
from fgbench.methods import TASN, Optim
from fgbench.methods.attention_net import AttentionNet, attention_trunk
from fgbench.methods.tasn_recipe import PRESETS
from fgbench.metrics.pointing_game import most_salient
from fgbench.types import Batch

ROOT = Path(__file__).resolve().parents[2]


def make(num_outputs=4, target="class", **kwargs):
    defaults = {"backbone": "resnet_nano", "weights": None, "attention_size": 64, "sampled": 48, "parts": 3}
    return TASN(num_outputs, target, Optim(), **{**defaults, **kwargs})


@pytest.fixture(scope="module")
def benchmark_of_tasn():
    spec = importlib.util.spec_from_file_location("benchmark_of_tasn", ROOT / "benchmarks" / "tasn.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batch(n=3, size=80, target=None):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(n, 3, size, size, generator=generator)
    return Batch(image, torch.arange(n) % 4 if target is None else target, *[torch.empty(0)] * 6)


def grads(module):
    return {name for name, p in module.named_parameters() if p.grad is not None and bool(p.grad.any())}


# ---- attention net


def test_the_attention_net_is_a_resnet18_of_28_cells_with_its_weights_as_they_were(tmp_path):
    plain = Backbone("resnet18")
    torch.save(
        {f"{k}": v for k, v in __import__("torchvision").models.resnet18().state_dict().items()}, tmp_path / "r18.pth"
    )
    trunk = attention_trunk("resnet18", str(tmp_path / "r18.pth"))
    again = Backbone("resnet18", str(tmp_path / "r18.pth"))
    assert trunk.strides == (4, 4, 4, 8, 8)
    assert plain.strides == (4, 4, 8, 16, 32)
    assert list(trunk.state_dict()) == list(again.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(trunk.state_dict().values(), again.state_dict().values(), strict=True))
    net = AttentionNet(trunk, None, 200)
    assert sum(p.numel() for p in trunk.parameters()) == 11_176_512
    assert sum(p.numel() for p in net.dilated.parameters()) == 2 * (512 * 512 * 9 + 512)
    with torch.no_grad():
        features = net.eval()(torch.randn(1, 3, 224, 224))
    assert features.shape == (1, 512, 28, 28)
    assert bool((features >= 0).all())


@pytest.mark.parametrize(
    ("arch", "stages", "strides"),
    [
        ("resnet50", None, (4, 4, 4, 8, 8)),
        ("resnet101", None, (4, 4, 4, 8, 8)),
        ("vgg19", None, (1, 2, 4, 8, 8)),
        ("mobilenet_v2", None, (2, 4, 4, 8, 8)),
        ("mobilenet_v2", 4, (2, 4, 8, 8)),
        ("squeezenet1_1", None, (2, 4, 8, 8)),
        ("resnet_tiny", None, (2, 4, 8, 8, 8)),
        ("resnet_nano", None, (2, 4, 8, 8)),
    ],
)
def test_every_trunk_gives_a_map_of_stride_8(arch, stages, strides):
    trunk = attention_trunk(arch, None, stages).eval()
    assert trunk.strides == strides
    with torch.no_grad():
        cells = trunk(torch.randn(1, 3, 64, 64)).shape[2:]
    assert cells == ((8, 8) if arch != "squeezenet1_1" else (7, 7))


def test_a_trunk_takes_the_weights_of_the_whole_network_and_is_not_dilated(tmp_path):
    whole = Backbone("mobilenet_v2")
    save_weights(whole, tmp_path / "weights.safetensors", "drawn")
    trunk = attention_trunk("mobilenet_v2", str(tmp_path / "weights.safetensors"))
    assert list(trunk.state_dict()) == list(whole.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(trunk.state_dict().values(), whole.state_dict().values(), strict=True))
    assert {m.dilation for m in trunk.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


@pytest.mark.parametrize(
    ("stride", "strides"), [(4, (2, 2, 4, 4)), (8, (2, 4, 8, 8)), (12, (2, 4, 8, 8)), (64, (2, 4, 8, 16))]
)
def test_a_trunk_has_no_more_than_the_stride_that_is_asked_for(stride, strides):
    assert attention_trunk("resnet_nano", None, None, stride).strides == strides


@pytest.mark.parametrize("stride", [3, 1, 0, -8])
def test_a_stride_that_no_trunk_has_is_refused(stride):
    with pytest.raises(ValueError, match=f"attention_stride is {stride}"):
        attention_trunk("resnet_nano", None, None, stride)


def test_what_is_no_trunk_is_refused_by_name():
    with pytest.raises(ValueError, match="stages 1 to 4"):
        attention_trunk("resnet_nano", None, 0)
    with pytest.raises(ValueError, match="no backbone 'resnet19'"):
        attention_trunk("resnet19", None)


# ---- gradients and loss


def test_the_streams_teach_the_attention_net_nothing():
    method, data = make(), batch()
    features = method.attention(method._small(data.image))
    sampled = method._sample(data.image, *method._guides(method._maps(features)))
    assert not sampled.requires_grad
    cross_entropy(method.classifiers["shared"](method.pool(method.backbone(sampled))), data.target.repeat(2)).backward()
    assert grads(method.attention) == set()
    assert len(grads(method.backbone)) > 0
    cross_entropy(method.attention.classify(features), data.target).backward()
    assert any(name.startswith("trunk") for name in grads(method.attention))


@pytest.mark.parametrize("detached", [True, False])
def test_distillation_reaches_the_teacher_unless_detached(detached):
    method, data = make(preset="official", detach_teacher=detached), batch()
    logits = {name: torch.randn(3, 4, requires_grad=True) for name in ("attention", "part0", "master")}
    plain = make(preset="official", detach_teacher=detached, distillation_weight=0.0)
    found, without = method._weigh(logits, data, 1)[0], plain._weigh(logits, data, 1)[0]
    (gradient,) = torch.autograd.grad(found - without, logits["part0"], allow_unused=True, retain_graph=True)
    assert (float(gradient.abs().max()) < 1e-7) == detached
    assert float(torch.autograd.grad(found - without, logits["master"])[0].abs().sum()) > 1e-4


@pytest.mark.parametrize(
    ("preset", "weights"),
    [
        ("official", {"attention": 1.0, "part0": 0.5, "master": 0.5, "shared_part0": 0.5, "shared_master": 0.5}),
        ("paper", {"attention": 1.0, "part0": 1.0, "master": 1.0}),
    ],
)
def test_the_loss_is_the_weighted_sum_of_its_terms(preset, weights):
    method, data = make(preset=preset), batch()
    logits = {name: torch.randn(3, 4) for name in weights}
    found, terms = method._weigh(logits, data, 1)
    expected = sum(weight * cross_entropy(logits[name], data.target) for name, weight in weights.items())
    kd = {"official": 1.0, "paper": 2.0}[preset]
    expected = expected + kd * distillation_loss(logits["master"], logits["part0"], 10.0, "class")
    torch.testing.assert_close(found, expected)
    assert set(terms) == {*weights, "distillation0"}


def test_the_terms_of_a_step_make_its_loss_and_start_at_chance():
    method, data = make(preset="official"), batch()
    for linear in (method.attention.classifier, *method.classifiers.children()):
        nn.init.zeros_(linear.weight)
    loss, terms = method.loss(data)
    ln4 = torch.tensor(4.0).log()
    for value in terms.values():
        torch.testing.assert_close(value, ln4)
    torch.testing.assert_close(loss, (1 + 4 * 0.5 + 1) * ln4)


def test_several_details_share_the_weight_of_one():
    method, data = make(details=2), batch()
    _, terms = method.loss(data)
    assert {"part0", "part1", "shared_part0", "shared_part1", "distillation0", "distillation1"} < set(terms)
    logits = {name: torch.zeros(3, 4) for name in ("attention", "part0", "part1", "master")}
    one = {name: torch.zeros(3, 4) for name in ("attention", "part0", "master")}
    torch.testing.assert_close(method._weigh(logits, data, 2)[0], method._weigh(one, data, 1)[0])


@pytest.mark.parametrize(
    ("kwargs", "terms", "heads"),
    [
        ({"streams": "master"}, {"attention", "master", "shared_master"}, {"master", "shared"}),
        ({"streams": "master", "preset": "paper"}, {"attention", "master"}, {"master"}),
        ({"streams": "part"}, {"attention", "part0", "shared_part0"}, {"part", "shared"}),
        ({"streams": "part", "preset": "paper", "form": "self"}, {"attention", "part0"}, {"part"}),
        (
            {"distillation_weight": 0.0},
            {"attention", "part0", "master", "shared_part0", "shared_master"},
            {"part", "master", "shared"},
        ),
    ],
)
def test_variants_have_their_own_terms_and_train_every_parameter(kwargs, terms, heads):
    method = make(**kwargs)
    loss, found = method.loss(batch())
    assert set(found) == terms
    assert set(method.classifiers) == heads
    loss.backward()
    assert grads(method) == {name for name, _ in method.named_parameters()}


# ---- other losses


def test_without_a_loss_the_weights_and_what_is_drawn_later_are_those_of_linear_layers():
    torch.manual_seed(5)
    method = make()
    after = torch.get_rng_state()
    torch.manual_seed(5)
    Backbone("resnet_nano", None)
    net = AttentionNet(attention_trunk("resnet_nano", None), None, 4)
    linears = [net.classifier, *(nn.Linear(16, 4) for _ in ("part", "master", "shared"))]
    for linear in linears:
        nn.init.normal_(linear.weight, std=(2 / 16) ** 0.5)
    assert torch.equal(torch.get_rng_state(), after)
    for found, expected in zip((method.attention.classifier, *method.classifiers.values()), linears, strict=True):
        assert type(found) is nn.Linear
        assert torch.equal(found.weight, expected.weight)
        assert not found.bias.any()


def test_focal_loss_without_focus_is_the_method_without_a_loss():
    plain, focal = make(), make(loss=lambda features, classes: Focal(features, classes, gamma=0.0))
    assert plain.state_dict().keys() == focal.state_dict().keys()
    focal.load_state_dict(plain.state_dict())
    found = []
    for method in (plain, focal):
        torch.manual_seed(3)
        found.append(method.loss(batch()))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert set(found[0][1]) == set(found[1][1])
    for name, term in found[0][1].items():
        torch.testing.assert_close(term, found[1][1][name])


def arc_logits(features, weight, target=None, scale=64.0, margin=0.5):
    """By the angles themselves, image by image and class by class, in float64."""
    rows = []
    for i, x in enumerate(features.detach().double()):
        angles = [torch.acos((x @ w) / (x.norm() * w.norm())) for w in weight.detach().double()]
        if target is not None:
            angles[int(target[i])] = angles[int(target[i])] + margin
        rows.append(torch.stack([scale * angle.cos() for angle in angles]))
    return torch.stack(rows).float()


def test_every_stream_has_the_margin_in_its_loss_and_none_in_distillation():
    method, data = make(loss=ArcFace), batch()
    seen = []
    method.backbone.register_forward_hook(lambda module, given, out: seen.append(out.mean((2, 3))))
    _, terms = method.loss(data)
    [both] = seen
    features = {"part0": both[:3], "master": both[3:]}
    for name, x in features.items():
        for term, key in ((name, name.rstrip("0")), (f"shared_{name}", "shared")):
            expected = cross_entropy(arc_logits(x, method.classifiers[key].weight, data.target), data.target)
            torch.testing.assert_close(terms[term], expected, rtol=1e-3, atol=1e-3)
    plain = [arc_logits(features[name], method.classifiers[name.rstrip("0")].weight) for name in ("master", "part0")]
    torch.testing.assert_close(terms["distillation0"], distillation_loss(*plain, 10.0, "class"), rtol=1e-3, atol=1e-3)
    assert set(terms) == {"attention", "part0", "master", "shared_part0", "shared_master", "distillation0"}


def test_a_test_has_no_margin_and_needs_float32_for_cosines_only_in_the_head():
    method, data = make(loss=ArcFace).eval(), batch()
    seen = []
    method.backbone.register_forward_hook(lambda module, given, out: seen.append(out))
    head = method.classifiers["shared"]
    logits = method(data.image).logits
    torch.testing.assert_close(logits, arc_logits(seen[0].mean((2, 3)), head.weight), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(method.linear_evidence(), head.weight / head.weight.norm(dim=1, keepdim=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = method(data.image).logits
    assert seen[1].dtype == torch.bfloat16
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, arc_logits(seen[1].mean((2, 3)), head.weight), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("loss", [ArcFace, Focal, Center, LGM, MutualChannel])
def test_a_step_with_another_loss_trains_every_parameter_and_lowers_it(loss):
    method, data = make(loss=loss, distillation_weight=0.0), batch(4)
    optimizer = torch.optim.Adam(method.parameters(), 3e-3)
    values = []
    for _ in range(8):
        optimizer.zero_grad()
        value, terms = method.loss(data)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
        assert not any(term.requires_grad for term in terms.values())
    assert grads(method) == {name for name, _ in method.named_parameters()}
    assert sum(values[-2:]) < sum(values[:2])
    further = {Center: "center", LGM: "likelihood", MutualChannel: "diversity"}.get(loss)
    assert further is None or {f"{name}_{further}" for name in ("attention", "part0", "shared_master")} < set(terms)


def test_heads_of_one_method_leave_out_channels_of_their_own():
    """And the first one those that the only head of another method would leave out."""
    torch.manual_seed(0)
    method = make(loss=MutualChannel)
    heads = [head.mutual for head in method.modules() if isinstance(head, MutualChannel)]
    assert len(heads) == 4
    alone = MutualChannel(method.backbone.out_channels, 4)
    alone.check_maps(method.backbone.out_channels)
    device = torch.device("cpu")
    for _ in range(3):
        drawn = [head.draw(device)[0] for head in heads]  # all of one map's width
        assert len({tuple(kept.flatten().tolist()) for kept in drawn}) == 4
        assert torch.equal(drawn[0], alone.mutual.draw(device)[0])


def test_a_loss_that_cannot_be_is_refused_before_training():
    with pytest.raises(ValueError, match="ArcFace is of exclusive classes"):
        make(3, "attributes", loss=ArcFace)
    with pytest.raises(ValueError, match="16 channels cannot give each of 17 classes"):
        make(17, loss=MutualChannel)


# ---- streams


def test_details_come_first_and_structures_last():
    method, data = make(), batch()
    maps = method._maps(method.attention(method._small(data.image)))
    average = method._average(maps)
    seen = []
    method.backbone.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    method.loss(data)
    [both] = seen  # one pass over both streams
    assert both.shape == (6, 3, 48, 48)
    torch.testing.assert_close(both[3:], method._sample(data.image, average, [2.0]))
    assert not torch.allclose(both[:3], both[3:])


def test_the_answer_is_the_shared_classifiers_on_the_structure_alone():
    method, data = make().eval(), batch()
    seen = []
    method.backbone.register_forward_hook(lambda module, given, out: seen.append((given[0], out)))
    output = method(data.image)
    [(given, features)] = seen
    assert len(given) == 3  # no detail at test
    torch.testing.assert_close(output.logits, method.classifiers["shared"](features.mean((2, 3))))
    paper = make(preset="paper").eval()
    assert paper.predictor == "master"
    assert make(preset="paper", streams="part").predictor == "part"


def test_batch_norm_sees_both_streams_in_training_only():
    net = make().backbone
    nn.init.uniform_(net.stages[0][1].running_var, 0.5, 1.5)
    first, second = torch.randn(2, 3, 48, 48), 3 + torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert not torch.allclose(net(torch.cat([first, second]))[:2], net(first), atol=1e-3)
        net.eval()
        torch.testing.assert_close(net(torch.cat([first, second]))[:2], net(first))


def test_structure_is_the_average_and_details_are_single_maps():
    method, data = make(preset="paper"), batch()
    maps = method._maps(method.attention(method._small(data.image)))
    torch.testing.assert_close(method._average(maps), maps.all().mean(1))
    every, details = maps.all(), method._details(maps)[:, 0]
    for i in range(3):
        assert bool((every[i] - details[i]).abs().flatten(1).amax(1).min() < 1e-5)


def test_the_average_counts_equal_maps_once_under_official():
    method = make(preset="official")
    features = torch.rand(1, 16, 6, 6)
    features[:, 3:9] = 0  # six dead channels
    maps = trilinear.trilinear(features, gain=7.0)
    every = maps.all()[0]
    expected = torch.cat([every[:4], every[9:]]).mean(0)
    torch.testing.assert_close(method._average(maps)[0], expected)


@pytest.mark.parametrize("form", ["n(xxx)", "self"])
def test_maps_that_each_sum_to_one_are_all_drawn_and_all_averaged_under_official(form):
    method = make(preset="official", form=form)
    features = torch.rand(1, 16, 4, 4, generator=torch.Generator().manual_seed(0)) / 2  # no two maps are alike
    maps = method._maps(features.expand(300, -1, -1, -1))
    every, details = maps.all()[0], method._details(maps)[:, 0]
    drawn = (details[:, None] - every).abs().flatten(2).amax(2).argmin(1)
    assert len(drawn.unique()) == 16
    torch.testing.assert_close(method._average(maps)[0], every.mean(0))


def test_attention_and_sampling_hold_at_most_one_and_a_half_times_what_goes_in_and_out(benchmark_of_tasn):
    method = make(attention_channels=512, sampled=224)
    features = torch.rand(8, 512, 28, 28).contiguous(memory_format=torch.channels_last)  # as convolutions give it
    image = torch.rand(8, 3, 512, 512)
    assert benchmark_of_tasn.memory_ratio(method, features, image) <= 1.5


def test_the_structure_map_is_squared_and_the_detail_is_not():
    method, data = make(preset="official"), batch(1)
    maps = method._maps(method.attention(method._small(data.image)))
    sampled = method._sample(data.image, *method._guides(maps))
    powered = attention_sampler.sample(data.image, method._average(maps), (48, 48), power=2.0)
    torch.testing.assert_close(sampled[1:], powered)
    candidates = attention_sampler.sample(data.image.expand(16, -1, -1, -1).contiguous(), maps.all()[0], (48, 48))
    assert float((candidates - sampled[:1]).abs().amax((1, 2, 3)).min()) < 1e-4


def test_training_is_random_and_repeats_by_its_seed_and_evaluation_is_not_random():
    method, data = make(), batch(8)
    maps = method._maps(method.attention(method._small(data.image)))
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(method._details(maps))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    method.eval()
    assert torch.equal(method(data.image).logits, method(data.image).logits)


def test_presets_are_the_papers_and_the_codes():
    assert PRESETS["paper"].gain == 1
    assert (PRESETS["official"].gain, PRESETS["official"].structure_power) == (7, 2)
    assert (PRESETS["paper"].distillation_weight, PRESETS["paper"].temperature) == (2, 10)
    changed = make(preset="official", gain=2.0, structure_power=1.0, temperature=3.0, detach_teacher=True).recipe
    assert changed == PRESETS["official"]._replace(gain=2, structure_power=1, temperature=3, detach_teacher=True)


@pytest.mark.parametrize("sampler", ["attention", "uniform", "ssn"])
@pytest.mark.parametrize("convention", ["centred", "official"])
def test_every_sampler_runs_on_images_that_are_not_square(sampler, convention):
    method = make(sampler=sampler, convention=convention)
    image = torch.randn(2, 3, 60, 90)
    method.loss(Batch(image, torch.tensor([0, 1]), *[torch.empty(0)] * 6))[0].backward()
    seen = []
    method.eval().backbone.register_forward_hook(lambda module, given, out: seen.append(given[0].shape))
    output = method(image)
    assert seen == [(2, 3, 48, 72)]
    assert output.saliency.shape[1] < output.saliency.shape[2]


# ---- evidence


def test_a_bright_spot_that_the_attention_net_sees_is_where_saliency_is():
    method = make(preset="paper").eval()

    class Bright(nn.Module):
        def forward(self, image):
            grey = nn.functional.avg_pool2d(image.mean(1, keepdim=True).relu(), 8)
            return torch.cat([grey] * 16, 1)

    method.attention = Bright()
    image = torch.zeros(1, 3, 80, 80)
    image[..., 10:20, 60:70] = 5
    saliency = method(image).saliency[0]
    row, column = divmod(int(saliency.argmax()), saliency.shape[1])
    assert (row + 0.5) * 80 / saliency.shape[0] == pytest.approx(15, abs=10)
    assert (column + 0.5) * 80 / saliency.shape[1] == pytest.approx(65, abs=10)


def test_pointing_hits_the_pixels_of_a_planted_hot_cell(monkeypatch):
    method = make().eval()
    cells = [(1, 4), (3, 0), (0, 5), (2, 2)]
    features = torch.full((len(cells), method.attention.channels, 4, 6), 0.01)
    for number, (row, column) in enumerate(cells):
        features[number, :, row, column] = 1
    monkeypatch.setattr(method.attention, "forward", lambda small: features)
    image = torch.rand(len(cells), 3, 64, 96)  # 16 px a cell
    saliency = method(image).saliency
    points = most_salient(saliency, 64, 96)
    # a cell at the border is as hot from its centre outwards, and the first pixel of equal ones counts
    for point, (row, column) in zip(points.tolist(), cells, strict=True):
        assert 16 * column <= point[0] <= 16 * (column + 1)
        assert 16 * row <= point[1] <= 16 * (row + 1)
    for point, (row, column) in zip(points[[0, 3]].tolist(), [cells[0], cells[3]], strict=True):
        assert point == pytest.approx([16 * column + 8, 16 * row + 8], abs=0.51)
    grid, _ = method._grid(image, saliency, [1.0])
    x, y = (grid[:, 0, :, 0] + 1) * 48, (grid[:, :, 0, 1] + 1) * 32  # of the sampled columns and rows, pixels
    for number, (row, column) in enumerate(cells):
        for places, cell, side in ((x[number], column, 96), (y[number], row, 64)):
            inside = ((places >= 16 * cell) & (places <= 16 * (cell + 1))).float().mean()
            assert inside > 1.5 * 16 / side


def test_a_spot_changes_the_attention_nets_map_where_it_is():
    method = make(attention_size=128).eval()
    blank = torch.zeros(1, 3, 256, 256)
    with torch.no_grad():
        still = method.attention.trunk(method._small(blank))
        side = still.shape[2]
        for row, column in ((2, 2), (5, 11), (12, 7)):
            image = blank.clone()
            pixels = 256 // side
            image[..., row * pixels : (row + 1) * pixels, column * pixels : (column + 1) * pixels] = 3
            change = (method.attention.trunk(method._small(image)) - still).abs().sum(1)[0]
            centre = (torch.arange(side) * change.sum(0)).sum(), (torch.arange(side) * change.sum(1)).sum()
            found = [float(value / change.sum()) for value in centre]
            # a convolution of stride 2 is centred on the first of two pixels: less than a cell up and to the left
            assert found == pytest.approx([column, row], abs=0.8)


def test_parts_are_groups_averages_over_the_average_of_all():
    method, data = make(), batch()
    maps = method._maps(method.attention(method._small(data.image)))
    every = maps.all()
    method.groups.zero_()
    method.groups[0, :4] = 0.25
    method.groups[1, 4] = 1
    method.groups[2, 5:] = 1 / 11
    found = method.eval()(data.image).parts
    maps = method._maps(method.attention(method._small(data.image)))
    every = maps.all()
    for part, members in enumerate((slice(0, 4), slice(4, 5), slice(5, 16))):
        expected = (every[:, members].mean(1) - every.mean(1)).relu() / maps.base.amax((1, 2))[:, None, None]
        torch.testing.assert_close(found[:, part], expected, rtol=1e-4, atol=1e-6)


def test_groups_are_made_at_the_end_of_an_epoch_from_what_overlapped_in_training():
    method = make()
    before = method.groups.clone()
    for _ in range(3):
        method.loss(batch())
    assert not torch.equal(method.affinity, torch.eye(16))
    method.on_train_epoch_end()
    assert torch.equal(method.groups, trilinear.group_channels(method.affinity, 3))
    assert before.shape == method.groups.shape
    assert {"groups", "affinity"} < set(method.state_dict())


def test_self_attention_has_no_channels_and_so_no_parts():
    method = make(form="self").eval()
    assert method.parts is None
    assert method(batch().image).parts is None


# ---- options


def test_flip_test_makes_an_image_and_its_mirror_equal():
    method, image = make(flip_test=True).eval(), batch().image
    torch.testing.assert_close(method(image).logits, method(image.flip(3)).logits, rtol=1e-4, atol=1e-5)
    plain = make().eval()
    plain.load_state_dict(method.state_dict())
    probability = (plain(image).logits.softmax(1) + plain(image.flip(3)).logits.softmax(1)) / 2
    torch.testing.assert_close(method(image).logits.softmax(1), probability)


def test_covariance_head_keeps_the_last_stages_stride_and_trains():
    method = make(head="isqrt_2k")
    assert method.backbone.strides[-1] == method.backbone.strides[-2]
    assert method.classifiers["shared"].in_features == 2080
    method.loss(batch())[0].backward()
    assert grads(method) == {name for name, _ in method.named_parameters()}


def test_both_pretrained_networks_learn_at_the_base_rate():
    groups = {group["name"]: {id(p) for p in group["params"]} for group in make().parameter_groups()}
    method = make()
    groups = {group["name"]: {id(p) for p in group["params"]} for group in method.parameter_groups()}
    assert groups["backbone"] == {id(p) for m in (method.backbone, method.attention.trunk) for p in m.parameters()}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"gain": 0.0}, "above 0"),
        ({"details": 0}, "1 detail"),
        ({"sampled": 8}, "16 pixels"),
        ({"parts": 17}, "16 attention channels"),
        ({"attention_weights": "x.pth"}, "attention_backbone"),
    ],
)
def test_impossible_values_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


@pytest.mark.parametrize("name", ["sampling", "channels"])
@pytest.mark.parametrize("sampler", ["attention", "ssn"])
def test_figures_hand_out_what_they_show(name, sampler):
    method = make(sampler=sampler).eval()
    found = method.figure(name, batch(1))
    if name == "channels":
        assert found["features"].shape == found["attention"].shape == (9, 8, 8)
        return
    assert found["sampled"].shape == (3, 48, 48)
    assert found["sampled"].dtype == torch.uint8
    assert found["points"].shape == (48, 48, 2)
    assert ("rows" in found) == (sampler == "attention")
    assert 0 <= float(found["points"].min()) <= float(found["points"].max()) <= 80
