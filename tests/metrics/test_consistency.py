"""Consistency and stability against plain loops over parts, images and landmarks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgbench.metrics.consistency import PartConsistency, PartStability, marked, noise
from fgbench.types import Output


def peaked(points, height=32, width=48):
    """Maps of a cell a pixel whose largest pixel holds the point."""
    parts = torch.zeros(*points.shape[:2], height, width)
    for image in range(len(points)):
        for part, (x, y) in enumerate(points[image].tolist()):
            parts[image, part, int(y), int(x)] = 1
    return parts


def score(parts, batch, classes=0, logits=None, in_boxes=True):
    metric = PartConsistency(batch.landmarks.shape[1], parts.shape[1], classes, in_boxes)
    logits = torch.zeros(len(parts), 3) if logits is None else logits
    metric.update(metric.columns(Output(logits, None, parts), batch), batch)
    return metric.compute()


def by_hand(points, batch, units, counted):
    """Plain loops, after the paper: units are (part, images of it)."""
    consistent = total = 0
    for images in units:
        images = [image for image in images if counted[image]]
        for part in range(points.shape[1]):
            rates, seen = [], 0
            for landmark in range(batch.landmarks.shape[1]):
                shown = [image for image in images if batch.visible[image, landmark]]
                seen += len(shown)
                inside = 0
                for image in shown:
                    x0, y0, x1, y1 = batch.boxes[image, 0].tolist()
                    x, y = batch.landmarks[image, landmark].tolist()
                    px, py = (int(value) + 0.5 for value in points[image, part].tolist())
                    inside += abs(x - px) <= (x1 - x0) * 36 / 224 and abs(y - py) <= (y1 - y0) * 36 / 224
                rates.append(inside / len(shown) if shown else 0)
            if seen:
                consistent, total = consistent + (max(rates) >= 0.8), total + 1
    return 100 * consistent / total


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 9999), st.booleans())
def test_consistency_is_that_of_plain_loops(make_batch, seed, bound):
    batch = make_batch(9, seed=seed)
    random = torch.Generator().manual_seed(seed)
    points = batch.landmarks[:, :2] + 6 * torch.rand(9, 2, 2, generator=random) - 3
    points = torch.minimum(points.clamp(min=0.5), torch.tensor([47.5, 31.5]))
    logits = torch.rand(9, 3, generator=random)
    groups = [[i for i in range(9) if int(batch.target[i]) == c] for c in range(3)] if bound else [list(range(9))]
    counted = (logits.argmax(1) == batch.target).tolist() if bound else [True] * 9
    if not any(counted):
        return
    found = score(peaked(points), batch, 3 if bound else 0, logits)
    name = "part_consistency" if bound else "part_consistency_agnostic"
    assert float(found[name]) == pytest.approx(by_hand(points, batch, groups, counted))


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 9999))
def test_parts_of_classes_beside_others_are_units_of_their_class(make_batch, seed):
    batch = make_batch(9, seed=seed, target=torch.arange(9) % 3)
    random = torch.Generator().manual_seed(seed)
    points = batch.landmarks[:, :2] + 6 * torch.rand(9, 2, 2, generator=random) - 3
    points = torch.minimum(points.clamp(min=0.5), torch.tensor([47.5, 31.5]))
    logits = torch.nn.functional.one_hot(batch.target, 3) + 0.9 * torch.rand(9, 3, generator=random)
    output = Output(logits, None, torch.rand(9, 5, 4, 6, generator=random), bound_parts=peaked(points))
    metric = PartConsistency(3, 2, 3, field="bound_parts")
    metric.update(metric.columns(output, batch), batch)
    found = {name: float(value) for name, value in metric.compute().items()}
    groups = [[i for i in range(9) if int(batch.target[i]) == c] for c in range(3)]
    units = {"part_consistency": pytest.approx(by_hand(points, batch, groups, [True] * 9)), "bound_part_units": 6}
    assert found == units
    with pytest.raises(ValueError, match="no bound_parts"):
        metric.columns(output._replace(bound_parts=None), batch)


def test_a_part_on_a_landmark_in_four_images_of_five_is_consistent_and_in_three_is_not(make_batch):
    batch = make_batch(5, hidden=0.0, landmarks=1)
    corner = torch.tensor([[[0.5, 0.5]]]).expand(5, 1, 2)  # boxes begin far enough away
    batch = batch._replace(boxes=torch.tensor([[[10.0, 10, 30, 30]]] * 5), landmarks=torch.full((5, 1, 2), 20.5))
    for hits, expected in ((4, 100), (3, 0)):
        points = torch.cat([batch.landmarks[:hits], corner[hits:]])
        assert score(peaked(points), batch)["part_consistency_agnostic"] == expected


def test_the_edge_of_the_window_belongs_to_it_and_without_boxes_it_is_of_the_input(make_batch):
    batch = make_batch(1, hidden=0.0, landmarks=1, height=224, width=224)
    batch = batch._replace(boxes=torch.tensor([[[0.0, 0, 112, 112]]]))
    for x, in_boxes, expected in ((118, True, True), (118.01, True, False), (136, False, True), (136.01, False, False)):
        there = batch._replace(landmarks=torch.tensor([[[x, 100.0]]]))
        found, framed = marked(torch.tensor([[[100.0, 100]]]), there, in_boxes)
        assert bool(framed)
        assert bool(found[0, 0, 0]) is expected


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 9999), st.sampled_from([1.0, 2.0, 3.5]), st.booleans())
def test_scale_flip_and_shift_of_everything_change_no_mark(make_batch, seed, scale, flip):
    batch = make_batch(4, seed=seed)
    points = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([48.0, 32])

    def move(xy):
        return torch.stack([(48 - xy[..., 0]) if flip else xy[..., 0], xy[..., 1]], -1).double() * scale + 5

    corners = move(batch.boxes.unflatten(-1, (2, 2)))
    boxes = torch.cat([corners.amin(2), corners.amax(2)], -1)
    there = batch._replace(landmarks=move(batch.landmarks).float(), boxes=boxes.float())
    plain, moved = marked(points, batch, True)[0], marked(move(points), there, True)[0]
    edge = batch.landmarks.double()[:, None] - points.double()[:, :, None]
    side = (batch.boxes[:, 0, 2:] - batch.boxes[:, 0, :2]).double()[:, None, None] * 36 / 224
    clear = ((edge.abs() - side).abs() > 1e-4).all(-1)  # float32 decides on the very edge
    assert torch.equal(plain & clear, moved & clear)


def test_noise_is_cut_repeatable_and_belongs_to_the_image():
    image = torch.zeros(3, 3, 40, 40)
    first = noise(image, torch.tensor([5, 6, 7]))
    assert torch.equal(first[1], noise(image[:1], torch.tensor([6]))[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], noise(image, torch.tensor([5, 6, 7]), seed=1)[0])
    assert first.abs().max() <= 0.25
    share = (first.abs() == 0.25).float().mean()
    assert float(share) == pytest.approx(0.2113, abs=0.02)  # beyond 1.25 deviations on either side
    assert abs(float(first.mean())) < 0.01


def test_stability_counts_parts_whose_marks_stay_and_blank_ones_apart(make_batch):
    batch = make_batch(1, hidden=0.0, landmarks=2)
    batch = batch._replace(
        boxes=torch.tensor([[[0.0, 0, 30, 30]]]), landmarks=torch.tensor([[[10.5, 10.5], [20.5, 20.5]]])
    )
    clean = torch.tensor([[[10.5, 10.5], [20.5, 20.5], [40.5, 2.5], [10.5, 10.5]]])
    noisy = torch.tensor([[[11.5, 10.5], [10.5, 10.5], [45.5, 30.5], [40.5, 10.5]]])  # same, other, blank twice, lost
    logits = torch.zeros(1, 3)
    metric = PartStability()
    points = clean[:, :1], noisy[:, :1]
    metric.update(Output(logits, None, peaked(clean)), Output(logits, None, peaked(noisy)), batch, points)
    found = metric.compute()
    assert float(found["part_stability_agnostic"]) == 50
    assert float(found["part_stability_blank"]) == 25
    # the same parts as those of a class, beside others that stay; the image is recognised, and there are fewer points
    metric = PartStability(True, field="bound_parts")
    sure = torch.nn.functional.one_hot(batch.target, 3).float()
    said = [Output(sure, None, peaked(other), bound_parts=peaked(own))
            for own, other in ((clean, clean), (noisy, clean))]  # fmt: skip
    metric.update(*said, batch, points)
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found == {"part_stability": 50, "bound_part_stability_blank": 25, "part_stability/redrawn": 100}
