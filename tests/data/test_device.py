"""Images on the device: the batches are those of the CPU's path, byte for byte."""

import numpy as np
import pytest
import torch

from fgbench.data import ToyBirds
from fgbench.data.augment import Augment
from fgbench.data.base import BenchDataModule
from fgbench.data.device import DeviceImages, load, pack_choices
from fgbench.data.text import DataError
from fgbench.data.view import View
from fgbench.types import Batch

VIEWS = {
    "the papers' padded crop": View("squash", 24, "random", 24, flip=0.5, pad=4),
    "crop, flip and brightness": View("squash", 32, "random", 20, flip=0.5, brightness=0.4),
    "always mirrored, cut to a multiple": View("squash", 30, multiple=8, flip=1.0),
    "only resized": View("squash", 16),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_batch_cut_on_the_device_is_the_one_cut_before(view):
    augment, size = Augment(view), (view.size, view.size)
    images = np.random.default_rng(0).integers(0, 256, (6, *size, 3), np.uint8)
    resident = DeviceImages(torch.from_numpy(images), view.shape(*size))
    keys = [(0, draw, place) for draw in range(8) for place in range(len(images))]
    chosen = torch.stack([pack_choices(key[2], augment.choose(size, key)) for key in keys])
    expected = np.stack([augment.change(images[key[2]], size, key)[0] for key in keys])
    found = resident(chosen)
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


def make_birds(root, cache: str, **arguments) -> BenchDataModule:
    view = View("squash", 40, "random", 40, flip=0.5, brightness=0.2, pad=4)
    data = ToyBirds(
        num_images=40, batch_size=8, image_size=64, train_view=view, root=str(root), cache=cache, **arguments
    )
    data.prepare_data()
    return data


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    return tmp_path_factory.mktemp("birds")


def epoch(data: BenchDataModule, number: int) -> list[Batch]:
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(number)
    return [data.transfer_batch_to_device(batch, torch.device("cpu"), 0) for batch in loader]


def test_training_sees_the_same_batches_whatever_is_kept_where(birds):
    kept, plain = make_birds(birds, "device"), make_birds(birds, "none")
    for number in (0, 3):
        batches = epoch(kept, number)
        assert len(batches) == 2
        for found, expected in zip(batches, epoch(plain, number), strict=True):
            for name, value in expected._asdict().items():
                assert torch.equal(getattr(found, name), value), name


def test_images_are_decoded_once(birds, monkeypatch):
    from fgbench.data import dataset

    read, names = dataset.read_image, []
    monkeypatch.setattr(dataset, "read_image", lambda path, **kwargs: names.append(path) or read(path, **kwargs))
    data = make_birds(birds, "device")
    for number in range(3):
        epoch(data, number)
    assert sorted(names) == sorted(data.listing.path(row).as_posix() for row in data.listing.rows("train"))


def test_a_view_that_leaves_several_shapes_is_refused(birds, monkeypatch):
    data = make_birds(birds, "device")
    data.train_view = View("short", 40, "random", 40)
    sizes = data.listing.stored_sizes().copy()
    sizes[data.listing.rows("train")[0]] = (64, 80)
    monkeypatch.setattr(type(data.listing), "stored_sizes", lambda self: sizes)
    with pytest.raises(DataError, match="resize: squash"):
        data.train_dataloader()


def test_a_view_that_does_more_than_the_device_can_is_refused(birds):
    data = make_birds(birds, "device")
    data.train_view = View("squash", 40, flip=0.5, rotate=10.0)
    with pytest.raises(DataError, match=r"set data\.init_args\.cache to ram"):
        data.train_dataloader()


def test_images_that_do_not_fit_are_refused_before_any_is_read(monkeypatch):
    monkeypatch.setattr("fgbench.data.device.free_memory", lambda: 1000)

    def images():
        pytest.fail("an image was read")
        yield

    with pytest.raises(DataError, match=r"set .* to ram or none"):
        load(images(), 100, (8, 8), torch.device("cpu"), "birds")
