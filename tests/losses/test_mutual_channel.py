"""The mutual-channel loss against a quadruple loop in float64, a worked example, and its bounds."""

import math

import pytest
import torch
from torch import nn

from fgbench.losses import mutual_channel
from fgbench.losses.mutual_channel import (
    MutualChannel,
    MutualChannelLoss,
    class_evidence,
    group_blocks,
    kept_channels,
    peaks_of_classes,
)

SETS = {"cub200": 200, "stanford_cars": 196, "fgvc_aircraft": 100, "flowers102": 102, "stanford_dogs": 120}


def loop(maps, blocks, kept):
    """Evidence and overlap measure of each class, number by number."""
    images, _, rows, columns = maps.shape
    z, h = [], []
    for b in range(images):
        z.append([])
        h.append([])
        channel = 0
        for (count, size), block in zip(blocks, kept, strict=True):
            for row in block.tolist():
                own = maps[b, channel : channel + size].tolist()
                soft = []
                for one in own:
                    total = sum(math.exp(x) for line in one for x in line)
                    soft.append([[math.exp(x) / total for x in line] for line in one])
                peak, spread = 0.0, 0.0
                for u in range(rows):
                    for v in range(columns):
                        peak += max(own[m][u][v] for m in row)
                        spread += max(soft[m][u][v] for m in range(size))
                z[b].append(peak / rows / columns)
                h[b].append(spread)
                channel += size
            assert len(block) == count
    return torch.tensor(z), torch.tensor(h)


def autograd(maps, blocks, kept):
    """The same with torch's own operations, for gradients."""
    z, h, channel = [], [], 0
    for (_, size), block in zip(blocks, kept, strict=True):
        for row in block.tolist():
            own = maps[:, channel : channel + size].flatten(2)
            z.append(own[:, row].max(1).values.mean(1))
            h.append(own.softmax(2).max(1).values.sum(1))
            channel += size
    return torch.stack(z, 1), torch.stack(h, 1)


@pytest.fixture(params=["contiguous", "channels_last"])
def layout(request):
    return torch.contiguous_format if request.param == "contiguous" else torch.channels_last


@pytest.mark.parametrize(("channels", "classes"), [(12, 4), (11, 4), (4, 4), (45, 3)])
@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_values_are_those_of_the_loop_however_the_map_is_cut(channels, classes, block, layout, monkeypatch):
    monkeypatch.setattr(mutual_channel, "BLOCK", (block, block))
    maps = torch.randn(3, channels, 4, 5, dtype=torch.float64).contiguous(memory_format=layout)  # signed
    loss = MutualChannelLoss(channels, classes)
    kept = loss.draw(maps.device)
    found, expected = peaks_of_classes(maps, loss.blocks, kept), loop(maps, loss.blocks, kept)
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right.double(), rtol=1e-6, atol=1e-6)
    everything = tuple(torch.arange(size).expand(count, size) for count, size in loss.blocks)
    torch.testing.assert_close(
        class_evidence(maps, loss.blocks), loop(maps, loss.blocks, everything)[0].float(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("channels", "classes"), [(12, 4), (11, 4), (4, 4)])
@pytest.mark.parametrize("block", [40, 10**6])
def test_gradients_are_those_of_autograd(channels, classes, block, layout, monkeypatch):
    monkeypatch.setattr(mutual_channel, "BLOCK", (block, block))
    maps = torch.randn(3, channels, 4, 5, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    loss = MutualChannelLoss(channels, classes)
    kept = loss.draw(maps.device)
    weights = torch.randn(2, 3, classes, dtype=torch.float64)
    z, h = peaks_of_classes(maps, loss.blocks, kept)
    found = torch.autograd.grad((weights[0] * z + weights[1] * h).sum(), maps)[0]
    z, h = autograd(maps, loss.blocks, kept)
    expected = torch.autograd.grad((weights[0] * z + weights[1] * h).sum(), maps)[0]
    torch.testing.assert_close(found, expected)


def test_the_authors_pooling_by_transposition_gives_the_same_through_a_relu():
    raw = torch.randn(4, 18, 6, 6, requires_grad=True)
    target, loss = torch.tensor([0, 1, 5, 2]), MutualChannelLoss(18, 6)
    loss.drawn = 7
    ours = sum(loss(raw.relu(), target))
    found = torch.autograd.grad(ours, raw)[0]
    loss.drawn = 7
    mask = torch.zeros(6, 3).scatter_(1, loss.draw(raw.device)[0], 1.0).flatten()[None, :, None, None]

    def pool(x):
        return nn.functional.max_pool2d(x.transpose(3, 1), (1, 3), (1, 3)).transpose(3, 1)

    maps = raw.relu()
    spread = pool(maps.flatten(2).softmax(2).view_as(maps)).sum((2, 3)).mean()
    theirs = nn.functional.cross_entropy(pool(maps * mask).mean((2, 3)), target) + 1 - spread / 3
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(found, torch.autograd.grad(theirs, raw)[0], rtol=1e-4, atol=1e-7)


def test_the_worked_example(monkeypatch):
    maps = torch.tensor([[[[1.0, 2], [3, 4]], [[4, 3], [2, 1]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]])
    loss = MutualChannelLoss(4, 2)
    monkeypatch.setattr(loss, "draw", lambda device: (torch.tensor([[0], [1]]),))
    z, h = peaks_of_classes(maps, loss.blocks, loss.draw(maps.device))
    assert z[0].tolist() == pytest.approx([2.5, 1.0])
    assert h[0].tolist() == pytest.approx([1.7615942, 1.0], abs=1e-6)
    discriminality, diversity = loss(maps, torch.tensor([0]))
    assert float(discriminality) == pytest.approx(0.2014133, abs=1e-6)
    assert float(diversity) == pytest.approx(0.3096015, abs=1e-6)
    assert float(discriminality + 10 * diversity) == pytest.approx(3.2974284, abs=1e-5)
    loss.norm = "none"
    assert float(sum(w * x for w, x in zip((1, 10), loss(maps, torch.tensor([0])), strict=True))) == pytest.approx(
        -13.6065575, abs=1e-5
    )


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_overlap_measure_is_one_for_equal_maps_and_the_groups_size_for_disjoint_ones(size):
    loss, everything = MutualChannelLoss(size, 1), (torch.arange(size)[None],)
    equal = torch.randn(1, 1, 4, 4).expand(1, size, 4, 4)
    disjoint = 50 * torch.eye(16)[:size].view(1, size, 4, 4)
    for maps, h in ((equal, 1), (disjoint, size)):
        found = peaks_of_classes(maps, loss.blocks, everything)[1]
        assert float(found) == pytest.approx(h, abs=1e-4)
        assert float(loss.spread(found)) == pytest.approx(1 - h / size, abs=1e-4)


def test_of_two_channels_the_overlap_measure_is_one_and_their_total_variation():
    maps, loss = torch.randn(1, 2, 5, 5), MutualChannelLoss(2, 1)
    p, q = maps[0].double().flatten(1).softmax(1)
    found = peaks_of_classes(maps, loss.blocks, (torch.arange(2)[None],))[1]
    assert float(found) == pytest.approx(1 + 0.5 * float((p - q).abs().sum()), abs=1e-6)


def test_a_step_against_the_diversity_term_makes_channels_differ():
    for norm in ("size", "none"):
        loss = MutualChannelLoss(9, 3, norm=norm)
        maps = torch.rand(2, 9, 4, 4, requires_grad=True)
        value = loss(maps, torch.tensor([0, 2]))[1]
        value.backward()
        after = loss((maps - 5 * maps.grad).detach(), torch.tensor([0, 2]))[1]
        assert float(after) < float(value.detach())


@pytest.mark.parametrize("size", range(1, 16))
def test_a_step_keeps_the_upper_half_of_each_classs_channels(size):
    loss = MutualChannelLoss(3 * size, 3)
    (kept,) = loss.draw(torch.device("cpu"))
    assert kept.shape == (3, -(-size // 2))
    assert all(len(set(row)) == len(row) for row in kept.tolist())
    assert kept.max() < size
    assert [kept_channels(10, 0.6), kept_channels(11, 0.6)] == [6, 7]  # the authors' script for pretrained networks


def test_every_channel_is_kept_equally_often_and_steps_differ():
    loss = MutualChannelLoss(60, 20)
    draws = torch.stack([torch.zeros(20, 3).scatter_(1, loss.draw(torch.device("cpu"))[0], 1.0) for _ in range(500)])
    assert len({tuple(draw.flatten().tolist()) for draw in draws[:50]}) == 50
    share = draws.mean((0, 1))
    torch.testing.assert_close(share, torch.full((3,), 2 / 3), atol=0.02, rtol=0)


def test_outside_of_a_training_no_channel_is_left_out_and_nothing_is_drawn():
    loss, maps, target = MutualChannelLoss(17, 5).eval(), torch.randn(3, 17, 4, 4).double(), torch.tensor([0, 4, 2])
    everything = tuple(torch.arange(size).repeat(count, 1) for count, size in loss.blocks)
    z, h = loop(maps, loss.blocks, everything)
    entropy = nn.functional.cross_entropy(z, target)
    sizes = torch.tensor([size for count, size in loss.blocks for _ in range(count)])
    for _ in range(2):
        found = loss(maps, target)
        torch.testing.assert_close(found[0], entropy, check_dtype=False)
        torch.testing.assert_close(found[1], (1 - h / sizes).mean(), check_dtype=False)
    assert loss.drawn == 0


def test_seeds_and_stages_draw_channels_of_their_own():
    def drawn(seed, stage):
        torch.manual_seed(seed)
        loss = MutualChannelLoss(60, 20, stage=stage)
        return tuple(tuple(loss.draw(torch.device("cpu"))[0].flatten().tolist()) for _ in range(3))

    streams = [drawn(seed, stage) for seed in (*range(9), 2**31, 2**32) for stage in (0, 1)]
    assert len({step for stream in streams for step in stream}) == 3 * len(streams)
    assert drawn(0, 1) == streams[1]


@pytest.mark.parametrize("size", [255, 256, 300])  # a ResNet-50 with eight classes has 256 of each
def test_a_class_may_have_more_channels_than_a_byte_counts(size):
    maps = torch.randn(2, 2 * size, 2, 3, dtype=torch.float64, requires_grad=True)
    loss = MutualChannelLoss(2 * size, 2)
    kept = loss.draw(maps.device)
    found, expected = peaks_of_classes(maps, loss.blocks, kept), autograd(maps, loss.blocks, kept)
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right)
    (mine,), (right,) = (torch.autograd.grad((z * h).sum(), maps) for z, h in (found, expected))
    torch.testing.assert_close(mine, right)


def test_a_resumed_run_draws_what_an_unbroken_one_would():
    loss = MutualChannelLoss(60, 20)
    loss.draw(torch.device("cpu"))
    torch.manual_seed(99)
    other = MutualChannelLoss(60, 20)
    assert other.seed != loss.seed
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.draw(torch.device("cpu"))[0], loss.draw(torch.device("cpu"))[0])


def test_what_torch_draws_elsewhere_does_not_change_the_channels():
    torch.manual_seed(5)
    first, second = MutualChannelLoss(60, 20), MutualChannelLoss(60, 20)
    torch.rand(7)
    a = first.draw(torch.device("cpu"))[0]
    torch.manual_seed(6)  # as another process has it
    assert torch.equal(a, second.draw(torch.device("cpu"))[0])


@pytest.mark.parametrize("classes", SETS.values())
@pytest.mark.parametrize("channels", [512, 1024, 2048])
def test_groups_use_every_channel_and_differ_by_one(channels, classes):
    blocks = group_blocks(channels, classes)
    assert sum(count for count, _ in blocks) == classes
    assert sum(count * size for count, size in blocks) == channels
    assert max(size for _, size in blocks) - min(size for _, size in blocks) <= 1


def test_groups_are_the_papers():
    assert group_blocks(512, 200) == ((88, 2), (112, 3))
    assert group_blocks(2048, 200) == ((152, 10), (48, 11))
    assert group_blocks(2048, 196) == ((108, 10), (88, 11))
    assert group_blocks(2048, 100) == ((52, 20), (48, 21))
    with pytest.raises(ValueError, match="2048 channels cannot give each of 5089 classes"):
        group_blocks(2048, 5089)


def test_a_map_that_is_not_finite_gives_a_loss_that_is_not_finite():
    maps = torch.full((2, 6, 3, 3), torch.nan, requires_grad=True)
    loss = sum(MutualChannelLoss(6, 2)(maps, torch.tensor([0, 1])))
    loss.backward()
    assert not loss.isfinite()


def test_half_precision_maps_have_half_precision_gradients_and_single_precision_losses():
    maps = torch.rand(2, 6, 3, 3).bfloat16()
    values = [MutualChannelLoss(6, 2)(x, torch.tensor([0, 1])) for x in (maps, maps.float())]
    for half, single in zip(*values, strict=True):
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, single, rtol=1e-3, atol=1e-3)
    maps.requires_grad_()
    sum(MutualChannelLoss(6, 2)(maps, torch.tensor([0, 1]))).backward()
    assert maps.grad.dtype == torch.bfloat16


def test_channels_come_to_belong_to_their_class_and_to_differ():
    """Class i lights up two cells of its own: after training its channels speak for it, each for another cell."""
    torch.manual_seed(0)
    target = torch.arange(4).repeat(8)
    cells = torch.stack([4 * target, 4 * target + 2], 1)
    images = 0.3 * torch.rand(32, 16)
    images.scatter_(1, cells, 3.0)
    images = images.view(32, 1, 4, 4)
    features = torch.cat([images * (torch.arange(16) == i).float().view(1, 1, 4, 4) for i in range(16)], 1)
    net, loss = nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU()), MutualChannelLoss(8, 4)
    nn.init.constant_(net[0].bias, 0.5)  # no channel is dead from the start
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    everything = (torch.arange(2).expand(4, 2),)
    with torch.no_grad():
        before = peaks_of_classes(net(features), loss.blocks, everything)[1].mean()
    for _ in range(200):
        discriminality, diversity = loss(net(features), target)
        optimizer.zero_grad()
        (1.5 * discriminality + 2 * diversity).backward()
        optimizer.step()
    with torch.no_grad():
        z, h = peaks_of_classes(net(features), loss.blocks, everything)
    assert torch.equal(z.argmax(1), target)
    assert h.mean() > before + 0.2


def test_as_a_loss_of_any_classifier_it_adds_to_cross_entropy(few):
    head, maps = MutualChannel(5, 4), torch.rand(8, 8, 3, 3)
    with pytest.raises(ValueError, match="METHOD=mc_loss"):
        head.loss(*few, maps)
    head.check_maps(8)
    loss, terms = head.loss(*few, maps)
    expected = head(few[0])
    entropy = nn.functional.cross_entropy(expected, few[1])
    torch.testing.assert_close(loss, entropy + 1.5 * terms["discriminality"] + 20 * terms["diversity"])
