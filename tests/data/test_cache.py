"""Memory instead of files: the same bytes, from any worker, and no look at the files any more."""

import pickle
import shutil

import numpy as np
import pytest
import torch

from fgbench.data import CUB200, DataError, View
from fgbench.data import base as base_module
from fgbench.data.cache import PixelCache, free_memory

TRAIN = View("short", 40, "random", 36, flip=0.5, brightness=0.1)
TEST = View("short", 40, "centre", 36)


def _data(root, **kwargs):
    data = CUB200(
        classes=3, root=str(root), batch_size=3, eval_batch_size=4, train_view=TRAIN, test_view=TEST, **kwargs
    )
    data.prepare_data()
    return data


def _epochs(loader, count):
    found = []
    for epoch in range(count):
        if hasattr(loader.batch_sampler, "set_epoch"):
            loader.batch_sampler.set_epoch(epoch)
        found += list(loader)
    return found


def _same(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_epoch_needs_no_files_and_shows_the_same(cub, workers):
    plain = _data(cub)
    expected = _epochs(plain.train_dataloader(), 3), _epochs(plain.test_dataloader(), 2)
    kept = _data(cub, cache="ram", workers=workers)
    train, test = kept.train_dataloader(), kept.test_dataloader()
    first = _epochs(train, 1), _epochs(test, 1)
    shutil.rmtree(cub / "CUB_200_2011/images")
    train.batch_sampler.set_epoch(1)
    second = list(train)
    train.batch_sampler.set_epoch(2)
    _same(first[0] + second + list(train), expected[0])
    _same(first[1] + _epochs(test, 1), expected[1])
    with pytest.raises(FileNotFoundError):
        list(plain.train_dataloader())


def test_with_the_training_images_on_the_device_the_others_are_kept_in_memory(cub):
    plain, kept = _data(cub), _data(cub, cache="device")
    expected, test = _epochs(plain.test_dataloader(), 2), kept.test_dataloader()
    first = list(test)
    shutil.rmtree(cub / "CUB_200_2011/images")
    _same(first + list(test), expected)
    assert kept.dataset(TEST, cached="train").cache is None


def test_loaders_that_resize_alike_share_their_memory(cub):
    data = _data(cub, cache="ram", locate_view=View("squash", 32))
    views = {TRAIN: "train", TEST: "train"}
    assert len({id(data.dataset(view, cached=split).cache) for view, split in views.items()}) == 1
    assert data.dataset(TEST, cached="test").cache is not data.dataset(TEST, cached="train").cache
    assert data.dataset(View("squash", 32), cached="test").cache is not data.dataset(TEST, cached="test").cache
    assert data.dataset(TEST).cache is None
    assert _data(cub).dataset(TEST, cached="test").cache is None


def test_too_little_memory_is_said_before_any_image_is_read(cub, monkeypatch):
    """Six images whose short side becomes 40, twice of (60, 80), (80, 60), ...: counted by hand."""
    need = 3 * 3 * 2 * (40 * 53)  # train: 3 classes with one of 40 x 53 and one of 53 x 40
    monkeypatch.setattr(base_module, "free_memory", lambda: 2 * need - 1)  # for one of the splits, not for both
    data = _data(cub, cache="ram")
    data.train_dataloader()
    with pytest.raises(DataError, match=r"cub200: cache: ram needs .* 6 images of the test .*set data\.init"):
        data.test_dataloader()
    monkeypatch.setattr(base_module, "free_memory", lambda: need - 1)
    with pytest.raises(DataError, match="GB of memory are free"):
        _data(cub, cache="ram").train_dataloader()


def test_kept_pixels_cannot_be_changed_and_a_pickled_cache_starts_empty():
    cache = PixelCache(np.array([5, 2]), np.array([[2, 3], [4, 1]]), 7)
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    assert cache.get(5) is None
    cache.put(5, image)
    cache.put(6, image)  # not announced: left out
    np.testing.assert_array_equal(cache.get(5), image)
    assert cache.get(2) is None
    assert cache.get(6) is None
    with pytest.raises(ValueError, match="read-only"):
        cache.get(5)[0] = 0
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.get(5) is None
    copy.put(2, np.full((4, 1, 3), 7, np.uint8))
    assert copy.get(2).tolist() == np.full((4, 1, 3), 7).tolist()
    assert cache.get(2) is None


def test_free_memory_is_that_of_a_machine():
    assert 2**20 < free_memory() < 2**50
