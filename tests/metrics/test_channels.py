"""Claims about channels as numbers: against loops, and where the answer is known."""

import math

import pytest
import torch
from torch import nn

from fgbench.metrics.channels import Channels, containment, pairwise_overlap
from fgbench.types import Output

from .conftest import make_batch


def output_of(n=5, classes=3, parts=3, each=2):
    return Output(
        torch.randn(n, classes), None, torch.rand(n, parts, 4, 4), torch.randn(n, 2, classes),
        torch.rand(n, parts, each, 8, 8),
    )  # fmt: skip


def loop_overlap(maps):
    pairs = []
    for i in range(len(maps)):
        for j in range(i):
            p, q = maps[i].flatten().tolist(), maps[j].flatten().tolist()
            if sum(p) and sum(q):
                pairs.append(sum(min(a / sum(p), b / sum(q)) for a, b in zip(p, q, strict=True)))
    return sum(pairs) / len(pairs) if pairs else math.nan


def test_overlap_is_the_loop_over_pairs():
    maps = torch.rand(4, 5, 3, 3)
    maps[1, 2] = 0  # dead
    maps[2, 1:] = 0  # no pair left
    found = pairwise_overlap(maps)
    for b in range(4):
        assert float(found[b]) == pytest.approx(loop_overlap(maps[b].double()), rel=1e-9, nan_ok=True)
    assert found.isnan().tolist() == [False, False, True, False]


def test_equal_maps_overlap_wholly_and_disjoint_ones_not_at_all():
    equal = torch.rand(1, 1, 4, 4).repeat(1, 3, 1, 1) * torch.tensor([1.0, 5.0, 0.1]).view(1, 3, 1, 1)
    disjoint = torch.eye(16)[:3].view(1, 3, 4, 4)
    assert float(pairwise_overlap(equal)) == pytest.approx(1)
    assert float(pairwise_overlap(disjoint)) == 0


def test_containment_counts_the_mass_within_the_upper_half_of_the_coarse_map():
    coarse, finer = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 2, 8, 8)
    finer[0, 1, 0] = 0  # dead
    coarse[1, 2] = 0  # its finer maps count for nothing
    inside, area = containment(coarse, finer)
    large = nn.functional.interpolate(coarse.double(), (8, 8), mode="bilinear", align_corners=False)
    for b in range(2):
        shares, areas = [], []
        for p in range(3):
            peak = float(large[b, p].max())
            for s in range(2):
                total = float(finer[b, p, s].double().sum())
                if not total or not peak:
                    continue
                within = sum(
                    float(finer[b, p, s, u, v]) for u in range(8) for v in range(8)
                    if float(large[b, p, u, v]) > 0.5 * peak
                )  # fmt: skip
                shares.append(within / total)
                areas.append(sum(float(x) > 0.5 * peak for x in large[b, p].flatten()) / 64)
        assert float(inside[b]) == pytest.approx(sum(shares) / len(shares), rel=1e-6)
        assert float(area[b]) == pytest.approx(sum(areas) / len(areas), rel=1e-6)


def test_a_constant_map_is_contained_by_chance_and_one_within_wholly():
    coarse = torch.zeros(1, 1, 4, 4)
    coarse[0, 0, 1, 2] = 1
    constant, within = torch.ones(1, 1, 1, 4, 4), coarse[:, :, None]
    inside, area = containment(coarse, constant)
    assert float(inside) == float(area) == pytest.approx(1 / 16)
    assert float(containment(coarse, within)[0]) == 1


def test_alignment_is_the_share_of_images_whose_labels_channels_say_most():
    batch, output = make_batch(5), output_of()
    metric = Channels(3, 2)
    metric.update(metric.columns(output, batch), batch)
    found = metric.compute()
    for stage, name in enumerate(("high", "mid")):
        right = sum(int(output.scores[b, stage].argmax()) == int(batch.target[b]) for b in range(5))
        assert float(found[f"channel_alignment_{name}"]) == pytest.approx(20 * right)
        assert float(found[f"channel_alignment_{name}/chance"]) == pytest.approx(100 / 3)
    assert float(found["channel_overlap_high"]) == pytest.approx(
        100 * float(pairwise_overlap(output.parts).mean()), abs=1e-6
    )
    assert float(found["channel_overlap_mid"]) == pytest.approx(
        100 * float(pairwise_overlap(output.finer.flatten(1, 2)).mean()), abs=1e-6
    )


def test_numbers_are_the_same_however_the_images_are_batched():
    batch, output = make_batch(6), output_of(6)
    output.parts[3] = 0  # defined nowhere
    whole, parts = Channels(3, 2), Channels(3, 2)
    whole.update(whole.columns(output, batch), batch)
    for some in ([4, 0, 3], [5], [2, 1]):
        piece, images = Output(*(x[some] if x is not None else None for x in output)), batch._replace(
            target=batch.target[some]
        )  # fmt: skip
        parts.update(parts.columns(piece, images), images)
    for name, value in whole.compute().items():
        assert float(value) == float(parts.compute()[name]), name
    assert int(whole.counts[0]) == 5


def test_one_stage_has_no_containment_and_no_channels_are_refused():
    batch, output = make_batch(5), output_of()._replace(finer=None)
    metric = Channels(3, 1)
    metric.update(metric.columns(output._replace(scores=output.scores[:, :1]), batch), batch)
    assert not any("mid" in name or "containment" in name for name in metric.compute())
    with pytest.raises(ValueError, match="no channels"):
        metric.columns(Output(output.logits), batch)
