"""NMI and ARI against scikit-learn and by hand; parts at landmarks against whole resized maps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from fgbench.metrics import maps
from fgbench.metrics.agreement import LandmarkAgreement, ari, nmi
from fgbench.types import Output


def table_of(first, second, rows, cols):
    table = torch.zeros(rows, cols, dtype=torch.int64)
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        table[a, b] += 1
    return table


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 80), st.integers(0, 9999))
def test_both_are_those_of_scikit_learn(rows, cols, places, seed):
    random = torch.Generator().manual_seed(seed)
    first = torch.randint(0, rows, (places,), generator=random)
    second = torch.where(
        torch.rand(places, generator=random) < 0.5,
        first % cols,
        torch.randint(0, cols, (places,), generator=random),
    )
    table = table_of(first, second, rows + 1, cols + 1)
    assert ari(table) == pytest.approx(adjusted_rand_score(second, first), abs=1e-12)
    assert nmi(table) == pytest.approx(normalized_mutual_info_score(second, first), abs=1e-9)


def test_hundreds_of_millions_of_pixels_do_not_overflow():
    """Scaling every count leaves NMI alone and hardly moves ARI, far beyond the pairs that int64 holds."""
    small = torch.tensor([[400, 30, 20], [10, 500, 5], [70, 60, 300]])
    large = small * 10**9
    assert nmi(large) == pytest.approx(nmi(small), abs=1e-12)
    assert ari(large) == pytest.approx(ari(small * 1000), abs=1e-5)
    assert ari(torch.eye(4, dtype=torch.int64) * 10**12) == 1


def test_without_places_there_is_no_number_and_one_label_agrees_with_one():
    empty = torch.zeros(3, 4, dtype=torch.int64)
    assert [nmi(empty) != nmi(empty), ari(empty) != ari(empty)] == [True, True]
    empty[1, 2] = 7
    assert (nmi(empty), ari(empty)) == (1, 1)


def test_ari_by_hand():
    """Six places, pairs together in both 2, in the first 6, in the second 3: (2 - 1.2) / (4.5 - 1.2)."""
    table = torch.tensor([[2, 1, 0], [0, 1, 2]])
    assert ari(table) == pytest.approx(0.8 / 3.3)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 40), st.integers(1, 40), st.integers(0, 9999))
def test_maps_at_points_are_those_of_the_whole_resized_maps(u, v, height, width, seed):
    random = torch.Generator().manual_seed(seed)
    found = torch.rand(2, 3, u, v, generator=random)
    points = torch.rand(2, 4, 2, generator=random) * torch.tensor([width, height]) * 1.2 - 0.1
    whole = torch.nn.functional.interpolate(found.double(), (height, width), mode="bilinear", align_corners=False)
    values = maps.values_at(found, points, height, width)
    for image in range(2):
        for landmark, (x, y) in enumerate(points[image].tolist()):
            col, row = min(max(int(x // 1), 0), width - 1), min(max(int(y // 1), 0), height - 1)
            torch.testing.assert_close(values[image, :, landmark], whole[image, :, row, col])


def score(parts, batch, count=None):
    metric = LandmarkAgreement(batch.landmarks.shape[1], count or parts.shape[1], ())
    metric.update(metric.columns(Output(torch.zeros(len(parts), 1), None, parts), batch), batch)
    return metric


def test_invisible_landmarks_do_not_count_and_dark_places_are_a_part_of_their_own(make_batch):
    batch = make_batch(5, hidden=0.5)
    parts = torch.zeros(5, 2, 8, 12)
    parts[:, 1, :, 6:] = 1  # the right half: the left belongs to no part
    table = score(parts, batch).table[0]
    assert table.sum() == batch.visible.sum()
    assert table[0].sum() == 0
    assert table[2].sum() == (batch.visible & (batch.landmarks[..., 0] < 22)).sum()  # the edge is 24; 22 is cell 5
    parts[2, 0, 0, 0] = torch.nan  # the map says nothing, the other one still does
    assert torch.equal(score(parts, batch).table[0], table)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 9999))
def test_the_foreground_is_what_scikit_learn_says_of_landmarks_in_parts(make_batch, seed):
    batch = make_batch(6, hidden=0.3, seed=seed)
    parts = torch.rand(6, 3, 8, 12, generator=torch.Generator().manual_seed(seed))
    parts[..., :6] = 0  # the left half belongs to no part
    metric = score(parts, batch)
    found = metric.compute()
    labels = metric.columns(Output(torch.zeros(6, 1), None, parts), batch)["landmark_parts"][:, 0]
    taken = [(int(labels[i, k]), k) for i, k in batch.visible.nonzero().tolist() if labels[i, k] < 3]
    assert 0 < len(taken) < batch.visible.sum()
    first, second = zip(*taken, strict=True)
    wanted = {"nmi": normalized_mutual_info_score(second, first), "ari": adjusted_rand_score(second, first)}
    for name, value in wanted.items():
        assert found[f"{name}_landmarks_foreground"] == pytest.approx(100 * value, abs=1e-6)
    everywhere = score(parts + 0.1, batch).compute()
    assert all(everywhere[f"{name}_landmarks_foreground"] == everywhere[f"{name}_landmarks"] for name in wanted)
    assert score(parts * 0, batch).compute()["nmi_landmarks_foreground"].isnan()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 9999), st.sampled_from(["flip", "double", "crop"]))
def test_flips_scales_and_crops_of_maps_and_landmarks_together_change_nothing(make_batch, seed, change):
    batch = make_batch(4, height=32, width=48, seed=seed)
    parts = torch.rand(4, 3, 32, 48, generator=torch.Generator().manual_seed(seed))  # a cell a pixel
    before = score(parts, batch).table
    points = batch.landmarks.floor() + 0.5
    batch = batch._replace(landmarks=points)
    if change == "flip":
        moved = parts.flip(3), batch._replace(landmarks=torch.stack([48 - points[..., 0], points[..., 1]], -1))
    elif change == "double":
        moved = (
            parts.repeat_interleave(2, 2).repeat_interleave(2, 3),
            batch._replace(landmarks=points * 2, image=torch.zeros(4, 3, 64, 96)),
        )
    else:
        inside = batch.visible & (points >= 4).all(-1)
        batch = batch._replace(visible=inside)
        before = score(parts, batch).table
        moved = parts[:, :, 4:, 4:], batch._replace(landmarks=points - 4, image=torch.zeros(4, 3, 28, 44))
    assert torch.equal(score(*moved).table, before)
