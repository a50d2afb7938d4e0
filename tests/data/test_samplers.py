from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgbench.data.samplers import EvalBatches, TrainBatches


def _rows(batches):
    return [[row for row, _ in batch] for batch in batches]


@given(
    n=st.integers(1, 60),
    world=st.integers(1, 6),
    share=st.integers(1, 4),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_processes_together_see_the_global_batches_of_one_process(n, world, share, seed, epoch):
    rows, size = np.arange(100, 100 + n), world * share
    if n < size:
        with pytest.raises(ValueError, match="lower batch_size"):
            TrainBatches(rows, size, seed)
        return
    single, parts = (
        TrainBatches(rows, size, seed, (0, 1)),
        [TrainBatches(rows, size, seed, (r, world)) for r in range(world)],
    )
    for sampler in (single, *parts):
        sampler.set_epoch(epoch)
    expected = _rows(single)
    found = [list(chain(*step)) for step in zip(*(_rows(part) for part in parts), strict=True)]
    assert found == expected
    assert len(expected) == len(single) == len(parts[0]) == n // size
    flat = list(chain(*expected))
    assert len(set(flat)) == len(flat)


def test_epochs_differ_and_come_back():
    sampler = TrainBatches(np.arange(40), 8, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert {draw for batch in second for _, draw in batch} == {1}
    assert _rows(first) != _rows(second)
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_every_image_comes_first_equally_often():
    sampler = TrainBatches(np.arange(4), 4, seed=0)
    first = []
    for epoch in range(800):
        sampler.set_epoch(epoch)
        first.append(next(iter(sampler))[0][0])
    assert np.bincount(first).min() > 150


def test_batch_that_does_not_divide_is_refused_with_the_next_that_does():
    sampler = TrainBatches(np.arange(40), 16, 0, (0, 3))
    with pytest.raises(ValueError, match=r"16 is the global batch.*3 processes: take 15"):
        len(sampler)


@given(
    shapes=st.lists(st.sampled_from([(8, 8), (8, 16), (16, 8)]), min_size=1, max_size=50),
    size=st.integers(1, 9),
    world=st.integers(1, 8),
)
def test_evaluation_sees_every_image_once_whatever_the_processes(shapes, size, world):
    rows = np.arange(len(shapes)) * 3
    parts = [EvalBatches(rows, size, np.array(shapes), (r, world)) for r in range(world)]
    if len(shapes) < world:
        with pytest.raises(ValueError, match="use fewer"):
            list(parts[0])
        return
    batches = [_rows(part) for part in parts]
    assert sorted(row for part in batches for batch in part for row in batch) == rows.tolist()
    assert all(part for part in batches)
    assert [len(part) for part in batches] == [len(part) for part in parts]
    assert all(0 < len(batch) <= size for part in batches for batch in part)
    assert all(len({shapes[row // 3] for row in batch}) == 1 for part in batches for batch in part)


def test_an_image_has_the_same_neighbours_with_any_number_of_processes():
    def neighbours(world):
        parts = [EvalBatches(np.arange(100), 8, None, (r, world)) for r in range(world)]
        return {frozenset(batch) for part in parts for batch in _rows(part)}

    assert neighbours(1) == neighbours(2) == neighbours(3) == neighbours(7)


def test_processes_get_even_work():
    shapes = [(8, 8)] * 100 + [(8, 9 + i) for i in range(10)]
    counts = [sum(map(len, EvalBatches(np.arange(110), 10, np.array(shapes), (r, 2)))) for r in range(2)]
    assert abs(counts[0] - counts[1]) <= 10
