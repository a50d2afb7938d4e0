"""The phase ``prepare`` and what fit and test read of it: once per image, resumed, shared, and without pixels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy

from fgbench import config, prepare, run
from fgbench.cells import Cell
from fgbench.data import ToyBirds, View
from fgbench.data import dataset as datasets
from fgbench.data.resident import fits
from fgbench.data.text import DataError
from fgbench.methods import Baseline, Optim, Preparation
from fgbench.stores import StoreError, StoreReader

FAKE = {"num_classes": 3, "num_images": 36, "image_size": 48}


class Frozen(Baseline):
    """A linear layer on the mean of a frozen map: the smallest method with a preparation."""

    replaces = True

    def preparation(self):
        return Preparation("maps", self.backbone, {"weights": self.backbone.weight_tag}, replaces_image=self.replaces)


@pytest.fixture
def root(tmp_path, fake_root):
    (tmp_path / "toybirds").symlink_to(fake_root("toybirds") / "toybirds")
    return tmp_path


def make(root, kind=Frozen, **kwargs):
    defaults = {"batch_size": 6, "eval_batch_size": 5, "train_view": View(flip=0.5)}
    data = ToyBirds(root=str(root), **{**FAKE, **defaults, **kwargs})
    torch.manual_seed(0)
    return data, kind(3, "class", Optim(), backbone="resnet_nano", weights=None)


def fill(data, method, folder, cap_gb=1.0):
    tree = {"machine": {"accelerator": "cpu", "progress": False}, "selection": "last"}
    tree["trainer"] = {"precision": "32-true", "max_epochs": 1, "gradient_clip": None, "deterministic": False}
    prepare.prepare(data, method, run.make_trainer(tree, folder, [], None), cap_gb)
    return StoreReader(prepare.folder_of(method.preparation(), data))


def test_rows_are_what_the_network_says_in_the_test_view(root):
    data, method = make(root, locate_view=View(resize="squash", size=32))
    reader = fill(data, method, root)
    seen = data.dataset(data.test_view)
    method.eval()
    for row in (0, 17, 35):
        with torch.no_grad():
            expected = method.backbone(method.normalise(seen[row].image[None]))[0].half().numpy()
        np.testing.assert_allclose(reader.read(row), expected, rtol=2e-3, atol=1e-3)
    assert all(not module.training for module in method.backbone.modules())


def test_loaders_hand_rows_on_and_decode_no_image(root, monkeypatch):
    data, method = make(root)
    reader = fill(data, method, root)
    prepare.attach(data, method)
    monkeypatch.setattr(datasets, "read_image", lambda *a, **k: pytest.fail("an image was decoded"))
    for loader in (data.train_dataloader(), data.test_dataloader(), data.fit_dataloader()):
        batch = next(iter(loader))
        rows = data.rows_of(batch.image_id.numpy())
        np.testing.assert_array_equal(batch.prepared.numpy(), np.stack([reader.read(row) for row in rows.tolist()]))
        assert batch.image.shape[1:] == (3, 48, 48)
        assert batch.image.untyped_storage().nbytes() == 1
        np.testing.assert_array_equal(batch.frame.numpy()[:, 0], 1)  # not flipped: training sees the test view
        assert method.on_after_batch_transfer(batch, 0).image.dtype == torch.uint8  # nor normalised


def test_rows_on_the_device_are_those_on_disk_and_blank_images_stay_blank(root):
    data, method = make(root, cache="device")
    reader = fill(data, method, root)
    prepare.attach(data, method)
    seen = []

    class Seeing(Frozen):
        def training_step(self, batch, batch_idx):
            seen.append(batch)
            return super().training_step(batch._replace(image=batch.image.float()), batch_idx)

        def loss(self, batch):
            loss, terms = super().loss(batch._replace(prepared=torch.zeros(len(batch.image), 0)))
            return loss, terms

    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        limit_val_batches=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(Seeing(3, "class", Optim(), backbone="resnet_nano", weights=None), datamodule=data)
    raw = next(iter(data.train_dataloader()))
    assert raw.prepared.shape == (6,)  # one number for each image travels
    assert raw.prepared.dtype == torch.int64
    assert sum(len(batch.image) for batch in seen) == 18
    for batch in seen:
        rows = data.rows_of(batch.image_id.numpy()).tolist()
        np.testing.assert_array_equal(batch.prepared.numpy(), np.stack([reader.read(row) for row in rows]))
        assert batch.image.shape == (6, 3, 48, 48)
        assert batch.image.untyped_storage().nbytes() == 1
    assert next(iter(data.test_dataloader())).prepared.ndim == 4  # of other splits they come from the disk


def test_rows_lie_on_the_device_where_that_is_asked_for_or_a_gpu_has_room(root, monkeypatch):
    data, method = make(root)
    reader = fill(data, method, root)
    need = 18 * reader.row_bytes
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    free = [10 * need]
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free[0], 0))
    monkeypatch.setattr("fgbench.data.resident.free_memory", lambda: free[0])
    assert [fits(reader, 18, device, asked, "toys") for device in (cpu, gpu) for asked in (False, True)] == [0, 1, 1, 1]
    free[0] = need + 1
    assert [fits(reader, 18, gpu, asked, "toys") for asked in (False, True)] == [False, True]
    free[0] = need - 1
    with pytest.raises(DataError, match=r"toys: cache: device needs .* GB on cuda:0 for the prepared rows of 18"):
        fits(reader, 18, gpu, True, "toys")


def test_annotations_do_not_depend_on_whether_pixels_are_read(root):
    view = View(resize="short", size=40, crop="centre", crop_size=33)
    (data, method), (plain, _) = make(root, test_view=view), make(root, test_view=view)
    fill(data, method, root)
    prepare.attach(data, method)
    for with_rows, without in zip(data.test_dataloader(), plain.test_dataloader(), strict=True):
        for name in ("target", "image_id", "boxes", "landmarks", "visible", "frame"):
            torch.testing.assert_close(getattr(with_rows, name), getattr(without, name))
        assert with_rows.image.shape == without.image.shape


def test_where_images_are_kept_they_come_with_their_rows_and_their_augmentation(root, monkeypatch):
    monkeypatch.setattr(Frozen, "replaces", False)
    data, method = make(root, locate_view=View(resize="squash", size=32))
    fill(data, method, root)
    prepare.attach(data, method)
    batch = next(iter(data.train_dataloader()))
    assert len(batch.prepared) == 6
    assert set(batch.frame[:, 0].tolist()) == {1.0, -1.0}
    assert method.on_after_batch_transfer(batch, 0).image.dtype == torch.float32
    assert next(iter(data.locate_dataloader())).prepared.shape == batch.prepared[:5].shape


def test_another_view_than_the_rows_gets_pixels_and_no_rows(root):
    data, method = make(root, locate_view=View(resize="squash", size=32))
    fill(data, method, root)
    prepare.attach(data, method)
    batch = next(iter(data.locate_dataloader()))
    assert batch.prepared.shape == (5, 0)
    assert batch.image.float().std() > 1


def test_a_second_preparation_computes_nothing_and_a_stopped_one_goes_on(root, monkeypatch):
    data, method = make(root)
    stopped, calls = method.backbone.forward, []

    def forward(image):
        calls.append(len(image))
        if len(calls) == 4:  # the first is the trial that finds the shape
            raise KeyError("killed")
        return stopped(image)

    monkeypatch.setattr(method.backbone, "forward", forward)
    with pytest.raises(KeyError):
        fill(data, method, root)
    with pytest.raises(StoreError, match=r"26 images have no row; give the run's command"):
        prepare.attach(data, method)
    fill(data, method, root)
    assert sum(calls[4:]) == 26
    calls.clear()
    fill(data, method, root)
    assert calls == []


def test_the_store_is_named_by_weights_view_data_and_options(root):
    data, method = make(root)
    names = {prepare.folder_of(method.preparation(), data).name}
    view, seed = View(resize="squash", size=32), 3
    for other in (make(root, test_view=view), make(root, data_seed=seed)):
        other[0].prepare_data()
        names.add(prepare.folder_of(other[1].preparation(), other[0]).name)
    names.add(prepare.folder_of(Preparation("maps", method.backbone, {"weights": "x"}), data).name)
    names.add(prepare.folder_of(Preparation("maps", method.backbone, {"weights": "none"}, "float32"), data).name)
    assert len(names) == 5
    again = make(root, batch_size=2, train_view=View(flip=0.1), val_fraction=0.0, seed=4)
    assert prepare.folder_of(again[1].preparation(), again[0]).name in names


def test_inputs_of_several_shapes_and_stores_above_the_cap_are_refused(root):
    data, method = make(root)
    with pytest.raises(StoreError, match=r"machine\.store_gb, 1e-06"):
        fill(data, method, root, cap_gb=1e-6)
    data.listing.sizes[3] = (48, 40)
    with pytest.raises(StoreError, match="inputs of 2 shapes"):
        fill(data, method, root)


def test_only_methods_with_a_preparation_have_that_phase(monkeypatch):
    tree = config.resolve(Cell("baseline", "toybirds")).tree
    assert not config.has_preparation(tree)
    monkeypatch.setattr(Baseline, "preparation", Frozen.preparation)
    assert config.has_preparation(tree)


def test_an_image_that_is_looked_at_again_is_not_written_again(root):
    """A process without a missing image looks at one that has its row."""
    data, method = make(root)
    data.prepare_data()
    data.setup("test")
    module = prepare.Preparer(method, method.preparation(), data, 1.0)
    rows, written = prepare.wanted_rows(data)[:2], []
    module.missing = rows[1:]
    module.writer = SimpleNamespace(write=lambda *given: written.append(given))
    (batch,) = data.loader_of(rows, data.test_view)
    with torch.inference_mode():
        module.test_step(module.on_after_batch_transfer(batch, 0), 0)
    ((new, values),) = written
    assert new.tolist() == rows[1:].tolist()
    assert len(values) == 1


def test_two_processes_prepare_what_one_does(root):
    data, method = make(root)
    both = Trainer(
        accelerator="cpu", devices=2, strategy=DDPStrategy(start_method="fork", process_group_backend="gloo"),
        logger=False, enable_checkpointing=False, enable_progress_bar=False, use_distributed_sampler=False,
    )  # fmt: skip
    prepare.prepare(data, method, both, 1.0)
    folder = prepare.folder_of(method.preparation(), data)
    assert len(list(folder.glob("done-*.bin"))) == 2
    reader = fill(data, method, root)  # nothing is missing
    found = np.stack([reader.read(row) for row in range(36)])
    folder.rename(root / "by-two")
    reader = fill(data, method, root)
    np.testing.assert_array_equal(found, np.stack([reader.read(row) for row in range(36)]))
