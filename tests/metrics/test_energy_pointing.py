"""Energy pointing against the sum over all pixels of a map that was resized whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgbench.metrics.energy_pointing import EnergyPointing, energy, region_of
from fgbench.types import Output


def by_hand(saliency, boxes, height, width):
    """Of one image: resize, loop over pixels."""
    whole = torch.nn.functional.interpolate(saliency[None, None].double(), (height, width), mode="bilinear")[0, 0]
    inside = 0.0
    for row in range(height):
        for col in range(width):
            x, y = col + 0.5, row + 0.5
            if any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes):
                inside += float(whole[row, col])
    return inside / float(whole.sum())


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 9999))
def test_shares_are_those_of_a_plain_loop_over_pixels(make_batch, u, v, seed):
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, 2, 2, 2, generator=random) * torch.tensor([14.0, 10])
    boxes = torch.cat([corners.amin(2), corners.amax(2)], -1)
    batch = make_batch(2, height=10, width=14, boxes=boxes, seed=seed)
    saliency = torch.rand(2, u, v, generator=random)
    for count in (1, 2):
        found = energy(
            saliency, region_of(batch._replace(boxes=boxes[:, :count], box_valid=batch.box_valid[:, :count]))
        )
        for image in range(2):
            inside = by_hand(saliency[image], boxes[image, :count].tolist(), 10, 14)
            assert float(found[image]) == pytest.approx(inside, abs=1e-9)


def score(saliency, batch):
    metric = EnergyPointing(floors=())
    metric.update(metric.columns(Output(torch.zeros(len(saliency), 1), saliency), batch), batch)
    return {name: float(value) for name, value in metric.compute().items()}


def test_a_constant_map_reaches_the_area_and_silence_counts_zero(make_batch):
    boxes = torch.tensor([[[12.0, 8, 36, 24]], [[12.0, 8, 36, 24]]])
    batch = make_batch(2, boxes=boxes)
    constant = score(torch.ones(2, 4, 6), batch)
    assert constant["energy_pointing"] == pytest.approx(25, abs=1e-6)
    assert constant["energy_pointing/area"] == pytest.approx(25, abs=1e-6)
    half = torch.ones(2, 4, 6)
    half[1] = 0
    assert score(half, batch)["energy_pointing"] == pytest.approx(12.5, abs=1e-6)
    half[1, 0, 0] = torch.nan
    assert score(half, batch)["energy_pointing"] == pytest.approx(12.5, abs=1e-6)


def test_images_without_a_box_or_with_one_beyond_the_input_are_left_out_and_counted(make_batch):
    boxes = torch.tensor([[[0.0, 0, 48, 32]], [[0.0, 0, 48, 32]], [[60.0, 0, 90, 32]]])
    batch = make_batch(3, boxes=boxes)._replace(box_valid=torch.tensor([[True], [False], [True]]))
    found = score(torch.ones(3, 4, 6), batch)
    assert found == {"energy_pointing": 100.0, "energy_pointing/area": 100.0, "energy_left_out": 2.0}


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 9999), st.sampled_from(["flip", "double", "crop"]))
def test_flips_scales_and_crops_of_map_and_boxes_together_change_nothing(make_batch, seed, change):
    random = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 10, (3, 1, 2), generator=random)
    boxes = torch.cat([low, low + torch.randint(1, 12, (3, 1, 2), generator=random)], -1).float()
    batch = make_batch(3, boxes=boxes)
    saliency = torch.rand(3, 32, 48, generator=random)
    if change == "crop":  # of a margin without saliency
        saliency[:, :4], saliency[:, :, :4], boxes = 0, 0, boxes + 4
        batch = batch._replace(boxes=boxes)
    before = score(saliency, batch)["energy_pointing"]
    if change == "flip":
        mirrored = torch.stack([48 - boxes[..., 2], boxes[..., 1], 48 - boxes[..., 0], boxes[..., 3]], -1)
        after = score(saliency.flip(2), batch._replace(boxes=mirrored))
    elif change == "double":
        larger = batch._replace(boxes=boxes * 2, image=torch.zeros(3, 3, 64, 96))
        after = score(saliency.repeat_interleave(2, 1).repeat_interleave(2, 2), larger)
    else:
        after = score(saliency[:, 4:, 4:], batch._replace(boxes=boxes - 4, image=torch.zeros(3, 3, 28, 44)))
    assert after["energy_pointing"] == pytest.approx(before, abs=1e-5)
