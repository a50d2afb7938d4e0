import pytest
import torch
from scipy import stats

from fgbench.explain import floors
from fgbench.types import Batch


def batch_of(size, *, first=0, boxes=None, box_valid=None):
    return Batch(
        image=torch.zeros(size, 3, 30, 80),
        target=torch.zeros(size, dtype=torch.int64),
        image_id=torch.arange(first, first + size),
        boxes=torch.zeros(size, 1, 4) if boxes is None else boxes,
        box_valid=torch.zeros(size, 1, dtype=torch.bool) if box_valid is None else box_valid,
        landmarks=torch.zeros(size, 0, 2),
        visible=torch.zeros(size, 0, dtype=torch.bool),
        frame=torch.zeros(size, 6, dtype=torch.float64),
    )


def test_centres_of_image_and_box():
    boxes = torch.tensor([[[0.0, 0, 2, 2], [10, 20, 30, 28]], [[1, 1, 2, 2], [1, 1, 2, 2]]])
    batch = batch_of(2, boxes=boxes, box_valid=torch.tensor([[False, True], [False, False]]))
    assert floors.image_centre(batch).tolist() == [[[40, 15]], [[40, 15]]]
    assert floors.box_centre(batch).tolist() == [[[20, 24]], [[40, 15]]]  # the first valid one; none: the image's
    empty = batch_of(2, boxes=torch.zeros(2, 0, 4), box_valid=torch.zeros(2, 0, dtype=torch.bool))
    assert floors.box_centre(empty).tolist() == [[[40, 15]], [[40, 15]]]


def test_random_parts_depend_on_the_image_and_the_seed_only():
    whole = floors.random_parts(batch_of(10), 4)
    torch.testing.assert_close(floors.random_parts(batch_of(3, first=7), 4), whole[7:], rtol=0, atol=0)
    torch.testing.assert_close(floors.random_parts(batch_of(10), 2), whole[:, :2], rtol=0, atol=0)
    assert not torch.isclose(floors.random_parts(batch_of(10), 4, seed=1), whole).any()


def test_random_parts_are_uniform_and_independent():
    points = (floors.random_parts(batch_of(4000, first=5), 2) / torch.tensor([80, 30])).flatten(1)
    assert all(stats.kstest(column, "uniform").pvalue > 1e-3 for column in points.T.numpy())
    assert torch.corrcoef(points.T).fill_diagonal_(0).abs().max() < 0.06
    assert torch.corrcoef(torch.stack([points[1:, 0], points[:-1, 0]]))[0, 1].abs() < 0.06


def test_random_parts_are_the_same_on_every_machine():
    """Worked out by hand in Python's integers, as SplitMix64 has it."""

    def mixed(state):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            state = (state ^ (state >> shift)) * factor % 2**64
        return (state >> 11) / 2**53

    def drawn(image, draw):
        return mixed((image * 0x100000001B3 + draw + 1) * 0x9E3779B97F4A7C15 % 2**64)

    found = floors.random_parts(batch_of(3, first=123456), 2)
    for image in range(3):
        expected = [drawn(123456 + image, draw) * (80, 30)[draw % 2] for draw in range(4)]
        assert found[image].flatten().tolist() == pytest.approx(expected, rel=1e-14)


def test_no_floor_copies_numbers_to_the_device_and_digits_are_those_of_a_copy(monkeypatch):
    size = torch.tensor([80, 30], dtype=torch.float64)
    parts = floors.random_parts(batch_of(50), 3)
    batch = batch_of(50)._replace(image=torch.zeros(50, 3, 1, 1))  # in which the parts are fractions
    assert torch.equal(parts, floors.random_parts(batch, 3) * size)
    monkeypatch.setattr(torch, "tensor", None)  # such a copy waits for a GPU at every step
    monkeypatch.setattr(torch, "as_tensor", None)
    assert torch.equal(floors.random_parts(batch_of(50), 3), parts)
    assert torch.equal(floors.image_centre(batch_of(50)), (size / 2).expand(50, 1, 2))
    assert torch.equal(floors.box_centre(batch_of(50)), (size / 2).expand(50, 1, 2))
