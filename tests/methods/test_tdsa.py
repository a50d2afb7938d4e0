"""The mutual-channel methods: widths, gate, what the loss acts on, and what is shown."""

import pytest
import torch
from torch import nn

from fgbench.cells import Cell
from fgbench.config import resolve
from fgbench.costs import count
from fgbench.losses import ArcFace, CrossEntropy, Focal, MutualChannel
from fgbench.losses.mutual_channel import peaks_of_classes
from fgbench.methods import METHODS, TDSA, MCLoss, Optim
from fgbench.methods.mc_loss import channel_table, take_channels
from fgbench.methods.tdsa import apply_gate, finer_table, gate_of, gating_channels
from fgbench.types import Batch

WIDE = {"high": "widen", "mid": "inline"}


def make(kind=TDSA, classes=4, **kwargs):
    defaults = {"backbone": "resnet_nano", "weights": None, **(WIDE if kind is TDSA else {"high": "widen"})}
    return kind(classes, "class", Optim(), **(defaults | kwargs))


def batch_of(n, classes=4, size=64):
    return Batch(torch.randn(n, 3, size, size), torch.arange(n) % classes, *[torch.empty(0)] * 6)


# ---- channels and gate


@pytest.mark.parametrize(("channels", "classes"), [(600, 200), (512, 200), (2048, 196)])
def test_the_table_deals_out_every_channel_once_in_order(channels, classes):
    table = channel_table(channels, classes)
    assert table[table >= 0].tolist() == list(range(channels))


def test_channels_of_a_class_are_taken_and_missing_ones_are_empty():
    maps = torch.randn(2, 5, 3, 3)
    taken = take_channels(maps, channel_table(5, 2)[torch.tensor([0, 1])])
    assert torch.equal(taken[0, :2], maps[0, :2].relu())
    assert not taken[0, 2].any()
    assert torch.equal(taken[1], maps[1, 2:].relu())


@pytest.mark.parametrize("xi", [1, 2, 3, 5])
def test_a_last_channel_gates_neighbouring_channels_of_its_own_class(xi):
    gating = gating_channels(6, 6 * xi, 2)
    assert gating.tolist() == [j // xi for j in range(6 * xi)]
    mid = torch.ones(1, 6 * xi, 4, 4)
    for j in range(6):
        high = torch.zeros(1, 6, 2, 2)
        high[0, j] = 3.0
        gated = apply_gate(mid, gate_of(high, (4, 4), "nearest"), None)
        assert torch.equal(gated, apply_gate(mid, gate_of(high, (4, 4), "nearest"), gating))
        changed = (gated[0].amax((1, 2)) > 0.6).nonzero().flatten().tolist()
        assert changed == list(range(j * xi, (j + 1) * xi))


@pytest.mark.parametrize(("high", "mid", "classes"), [(2048, 1024, 200), (512, 256, 200), (17, 23, 5), (9, 9, 3)])
def test_of_channels_that_do_not_divide_each_is_gated_within_its_class(high, mid, classes):
    def owner(channels):
        table = channel_table(channels, classes)
        return (table >= 0).nonzero()[:, 0]

    gating = gating_channels(high, mid, classes)
    assert torch.equal(owner(high)[gating], owner(mid))
    table = finer_table(gating, channel_table(high, classes))
    found = sorted(table[table >= 0].tolist())
    assert found == list(range(mid))
    for k in range(classes):
        for p, channel in enumerate(channel_table(high, classes)[k].tolist()):
            inside = [m for m in table[k, p].tolist() if m >= 0]
            assert all(int(gating[m]) == channel for m in inside)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_the_gate_is_the_sigmoid_of_the_upsampled_map(mode):
    high = torch.randn(2, 3, 7, 7)
    corners = {} if mode == "nearest" else {"align_corners": False}
    expected = nn.functional.interpolate(high, scale_factor=2, mode=mode, **corners).sigmoid()
    torch.testing.assert_close(gate_of(high, (14, 14), mode), expected)
    torch.testing.assert_close(gate_of(high, (7, 7), mode), high.sigmoid())
    assert (gate_of(high.relu(), (14, 14), "nearest") >= 0.5).all()


# ---- networks


def parameters_m(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize(("xi", "millions"), [(1, 15.9), (2, 21.5), (3, 27.0), (4, 32.5), (5, 38.1)])
def test_vgg_has_the_papers_widths(xi, millions):
    with torch.device("meta"):
        method = make(classes=200, backbone="vgg16_bn", mid="widen", xi=xi, cells=7)
    assert method.backbone.channels[-2:] == (600 * xi, 600)
    assert parameters_m(method.backbone) == pytest.approx(millions, abs=0.06)
    assert method.embedding.layers[2].in_features == 29400
    assert parameters_m(method.embedding) == pytest.approx(15.1, abs=0.06)


def test_vgg_of_the_mutual_channel_script_is_that_of_one_earlier_channel_per_last_one():
    tree = resolve(Cell("mc_loss", "cub200", track="scratch+vgg16")).tree["method"]["init_args"]
    with torch.device("meta"):
        colours = {name: tuple(tree[name]) for name in ("mean", "std")}
        method = MCLoss(200, "class", Optim(), **tree | colours | {"loss": CrossEntropy})
    assert method.backbone.channels[-2:] == (600, 600)
    assert parameters_m(method.backbone) == pytest.approx(15.9, abs=0.06)
    convolutions = [m for m in method.backbone.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions[9:]] == [
        *((512, 600), (600, 512), (512, 512), (512, 600))
    ]


def test_a_map_before_the_last_can_be_wider_and_has_no_loss():
    method = make(MCLoss, before_channels=3)
    loss, terms = terms_of(method, batch_of(6))
    loss.backward()
    assert method.backbone.stages[-2](torch.zeros(2, 8, 8, 8)).shape[1] == 12
    assert set(terms) == {"classification", "high_discriminality", "high_diversity"}
    assert all(p.grad is not None for p in method.parameters())
    with pytest.raises(ValueError, match="before_channels is 0"):
        make(MCLoss, before_channels=0)


@pytest.mark.parametrize("classes", [100, 196, 102])
def test_widths_follow_the_number_of_classes(classes):
    with torch.device("meta"):
        method = make(classes=classes, backbone="resnet18", last_stride=1)
    assert method.mid_loss.blocks == ((classes, 9),)
    assert method.high_loss.blocks == ((classes, 3),)


def test_resnet18_has_the_size_that_follows_from_its_taps():
    with torch.device("meta"):
        method = make(classes=200, backbone="resnet18", last_stride=1)
    convolutions = sum(m.weight.numel() for m in method.modules() if isinstance(m, nn.Conv2d)) / 1e6
    assert convolutions == pytest.approx(23.8, abs=0.1)
    maps = make(classes=4, backbone="resnet18", last_stride=1).eval().stages(torch.randn(1, 3, 64, 64))
    assert [tuple(x.shape[1:]) for x in maps] == [(12, 4, 4), (36, 4, 4)]


@pytest.mark.parametrize("mid", ["own", "inline", "side", "widen"])
@pytest.mark.parametrize("high", ["own", "append", "widen"])
def test_every_way_to_get_channels_trains_all_of_the_network(high, mid):
    method = make(high=high, mid=mid)
    method.loss(batch_of(6))[0].backward()
    assert [n for n, p in method.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "squeezenet1_1", "resnet50"])
def test_any_backbone_works_with_layers_beside_it(backbone):
    method = make(backbone=backbone, high="append", mid="side").eval()
    output = method(torch.randn(2, 3, 64, 64))
    assert output.parts.shape[:2] == (2, 3)
    assert output.finer.shape[:3] == (2, 3, 3)


# ---- the loss


def terms_of(method, batch):
    method.train()
    loss, terms = method.loss(batch)
    return loss, {name: float(value) for name, value in terms.items()}


def test_the_total_is_the_weighted_sum_of_its_terms():
    method = make(discriminality=1.5, diversity=15.0, mid_weight=0.5)
    loss, t = terms_of(method, batch_of(6))
    expected = t["classification"] + 1.5 * t["high_discriminality"] + 15 * t["high_diversity"]
    expected += 0.5 * (1.5 * t["mid_discriminality"] + 15 * t["mid_diversity"])
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("change", [{}, {"diversity": 3.0}, {"discriminality": 0.0, "diversity": 0.0}, {"loss": Focal}])
@pytest.mark.parametrize(
    ("kind", "more"), [(MCLoss, {}), (TDSA, {}), (TDSA, {"mid_weight": 0.25}), (TDSA, {"mid_weight": 0.0})]
)
def test_the_weights_that_a_result_states_are_those_of_the_total(kind, more, change):
    method = make(kind, **more, **change)
    loss, terms = terms_of(method, batch_of(6))
    assert set(method.loss_weights) == set(terms)
    total = sum(weight * terms[name] for name, weight in method.loss_weights.items())
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)


def test_both_stages_leave_out_channels_of_their_own():
    method = make(classes=20, xi=1)
    first, second = (torch.cat(m.draw(torch.device("cpu"))) for m in (method.high_loss, method.mid_loss))
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_without_weights_it_is_the_classification_loss_and_nothing_else():
    method, batch = make(discriminality=0.0, diversity=0.0), batch_of(6)
    loss, terms = terms_of(method, batch)
    assert set(terms) == {"classification"}
    method.eval()  # the batch norms have the batch's moments in training only
    torch.testing.assert_close(
        method.loss(batch)[0], nn.functional.cross_entropy(method(batch.image).logits, batch.target)
    )
    assert loss.isfinite()


def test_without_the_earlier_map_it_is_the_mutual_channel_loss():
    batch, small, large = batch_of(6), make(MCLoss), make(mid="own", mid_weight=0.0, diversity=20.0)
    large.load_state_dict(small.state_dict(), strict=False)
    large.high_loss.set_extra_state(small.high_loss.get_extra_state())
    torch.testing.assert_close(small.train().loss(batch)[0], large.train().loss(batch)[0])


def test_the_loss_of_the_earlier_map_sees_the_gate_and_the_logits_do_not():
    method, batch = make().train(), batch_of(6)
    high, mid = method.stages(batch.image)
    gated = method.gated(high, mid)
    share = (gated / mid)[mid > 1e-3]
    assert share.min() >= 0.5 - 1e-6
    assert share.max() < 1
    state = method.mid_loss.get_extra_state()
    with_gate = terms_of(method, batch)[1]
    method.mid_loss.set_extra_state(state)  # the same channels again
    method.attention = False
    without = terms_of(method, batch)[1]
    assert with_gate["classification"] == pytest.approx(without["classification"], rel=1e-6)
    assert with_gate["mid_discriminality"] != pytest.approx(without["mid_discriminality"], rel=1e-4)
    method.eval()
    images = batch.image
    before = method(images).logits
    method.attention = True
    assert torch.equal(method(images).logits, before)


def test_a_gate_of_ones_is_the_ablation_without_attention(monkeypatch):
    def ones(high, size, mode):
        return torch.ones(*high.shape[:2], *size)

    monkeypatch.setattr("fgbench.methods.tdsa.gate_of", ones)
    batch, gated, plain = batch_of(6), make(xi=1).train(), make(xi=1, attention=False).train()
    plain.load_state_dict(gated.state_dict())  # with the counts that draw channels
    for method in (gated, plain):
        method.loss(batch)[0].backward()
    torch.testing.assert_close(gated.loss(batch)[0], plain.loss(batch)[0])
    for (name, one), other in zip(gated.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


@pytest.mark.parametrize(
    ("cell", "gmacs"),
    [
        (Cell("mc_loss", "cub200", track="scratch+vgg16"), 15.8),
        (Cell("tdsa", "cub200", track="scratch+vgg16"), 21.3),
        (Cell("baseline", "cub200", track="scratch+resnet18"), 1.8),
        (Cell("mc_loss", "cub200", track="scratch+resnet18"), 3.6),
        (Cell("tdsa", "cub200", track="scratch+resnet18"), 5.5),
    ],
)
def test_the_costs_that_tracks_state(cell, gmacs):
    tree = resolve(cell).tree["method"]
    colours = {name: tuple(tree["init_args"][name]) for name in ("mean", "std")}
    arguments = tree["init_args"] | colours | {"loss": CrossEntropy}
    with torch.device("meta"):
        method = METHODS[cell.method](200, "class", Optim(), **arguments)
    assert count(method.to("meta"), (224, 224)).macs / 1e9 == pytest.approx(gmacs, abs=0.05)


def test_a_gradient_reaches_the_last_map_through_the_gate_only_if_there_is_one():
    method = make(discriminality=1.0, diversity=0.0)
    high, mid = torch.rand(2, 12, 4, 4, requires_grad=True), torch.rand(2, 36, 8, 8)
    target = torch.tensor([0, 3])
    loss = method.weighted("mid", method.mid_loss, method.gated(high, mid), target, {})
    loss.backward()
    assert high.grad.abs().sum() > 0
    method.attention = False
    assert method.gated(high, mid) is mid


def test_a_layer_for_the_loss_only_needs_a_loss():
    with pytest.raises(ValueError, match="mid: inline"):
        make(mid="side", mid_weight=0.0)


@pytest.mark.parametrize("kind", [MCLoss, TDSA])
def test_attributes_are_refused_with_the_reason(kind):
    with pytest.raises(ValueError, match="exclusive classes"):
        kind(3, "attributes", Optim(), backbone="resnet_nano", weights=None)


def test_the_loss_of_the_channels_is_not_counted_twice():
    with pytest.raises(ValueError, match="count it twice: leave LOSS out"):
        make(loss=MutualChannel)
    make(loss=MutualChannel, discriminality=0.0, diversity=0.0, mid_weight=0.0)


def test_another_last_layer_can_be_had_with_them():
    method = make(loss=ArcFace)
    loss, terms = terms_of(method, batch_of(6))
    assert isinstance(method.classifier, ArcFace)
    assert loss.isfinite()
    assert "high_diversity" in terms


# ---- what is shown


def test_the_evidence_is_that_of_the_predicted_class():
    method = make().eval()
    images = torch.randn(3, 3, 64, 64)
    output, (high, mid) = method(images), method.stages(images)
    for b, k in enumerate(output.logits.argmax(1).tolist()):
        own = high[b, 3 * k : 3 * k + 3]
        torch.testing.assert_close(output.parts[b], own)
        torch.testing.assert_close(output.saliency[b], own.max(0).values)
        for p in range(3):
            first = 9 * k + 3 * p
            torch.testing.assert_close(output.finer[b, p], mid[b, first : first + 3])
    for t, (maps, size) in enumerate(((high, 3), (mid, 9))):
        everything = (torch.arange(size).expand(4, size),)
        torch.testing.assert_close(output.scores[:, t], peaks_of_classes(maps, ((4, size),), everything)[0])
