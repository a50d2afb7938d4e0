"""Patches of a trained ProtoPNet: stored for all images by the phase prepare, and the same ones found on the spot."""

import inspect
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import FAKES

from fgbench.backbones import write_tensors
from fgbench.data import ToyBirds, View
from fgbench.examples import batch_of_one, choose_items
from fgbench.methods import FocusLonger, Optim, ProtoPNet
from fgbench.prepare import attach, folder_of, prepare, wanted_rows
from fgbench.run import make_trainer
from fgbench.stores import StoreError, StoreReader


@pytest.fixture
def weights(tmp_path):
    """A ProtoPNet's file, as ``fgbench weights --whole`` writes it."""
    arguments = {
        "num_outputs": 3,
        "target": "class",
        "backbone": "resnet_nano",
        "weights": None,
        "per_class": 3,
        "parts": 2,
    }
    method = ProtoPNet(optim=Optim(), **arguments)
    path = tmp_path / "protopnet.safetensors"
    arguments |= {"mean": method.backbone.mean, "std": method.backbone.std}
    write_tensors(path, method.state_dict(), {"method": "protopnet", "arguments": json.dumps(arguments)})
    return str(path)


TREE = {
    "machine": {"accelerator": "cpu", "progress": False},
    "selection": "last",
    "trainer": {"precision": "32-true", "max_epochs": 1, "gradient_clip": None, "deterministic": False},
}


def birds(root):
    arguments = {**FAKES["toybirds"].arguments, "batch_size": 6, "eval_batch_size": 6}
    return ToyBirds(**arguments, root=str(root), train_view=View(flip=1.0))


def make(weights):
    small = {"backbone": "resnet_nano", "weights": None, "hidden": 8, "steps": 2, "patch_size": 32, "patch_count": 4}
    kwargs = {"patches": "protopnet", "patch_weights": weights, "extractor_size": None}
    return FocusLonger(3, "class", Optim(), **small, **kwargs).eval()


def test_stored_patches_do_not_change_with_the_labels(weights, tmp_path, fake_root):
    method, rows, folders = make(weights), [], []
    (tmp_path / "toybirds").symlink_to(fake_root("toybirds") / "toybirds")
    for shift in (0, 1):
        data = birds(tmp_path)
        target = data.listing.target
        data.listing = replace(data.listing, target=np.roll(target, shift))
        assert (data.listing.target != target).any() == bool(shift)
        prepare(data, method, make_trainer(TREE, tmp_path, [], None), 1.0)
        folders.append(folder_of(method.preparation(), data))
        reader = StoreReader(folders[-1])
        rows.append(np.stack([reader.read(row) for row in wanted_rows(data).tolist()]))
    assert folders[0] != folders[1]
    assert rows[0].shape[1:] == (4, 4)
    assert len(np.unique(rows[0], axis=0)) > 10
    np.testing.assert_array_equal(*rows)


def test_sheets_show_stored_patches(weights, tmp_path, fake_root):
    (tmp_path / "toybirds").symlink_to(fake_root("toybirds") / "toybirds")
    data, method = birds(tmp_path), make(weights)
    data.locate_view = View(resize="squash", size=32)  # in which the ProtoPNet would find other boxes
    prepare(data, method, make_trainer(TREE, tmp_path, [], None), 1.0)
    attach(data, method)
    item = choose_items(data, 1)[0]
    one = batch_of_one(method, item)
    shown = method.figure("patches", one)["boxes"]
    (row,) = data.rows_of(item.image_id.numpy()[None])
    stored = torch.from_numpy(StoreReader(folder_of(method.preparation(), data)).read(int(row)).copy())
    torch.testing.assert_close(shown, stored * 32 / 48)
    assert (shown - method._find(one.image, None).boxes[0]).abs().max() > 0.5


def test_stored_patches_are_those_found_on_the_spot_and_follow_a_mirrored_view(weights, tmp_path, fake_root):
    (tmp_path / "toybirds").symlink_to(fake_root("toybirds") / "toybirds")
    data, method = birds(tmp_path), make(weights)
    assert not any("prototypes" in name for name in method.state_dict())
    options = inspect.signature(FocusLonger.__init__).parameters
    with pytest.raises(StoreError, match=r"more than machine\.store_gb") as full:
        prepare(data, method, make_trainer(TREE, tmp_path, [], None), 1e-9)
    advised = re.findall(r"--method\.init_args\.(\w+)", str(full.value))
    assert advised
    assert set(advised) <= set(options)  # of this method, not of another that has a store
    prepare(data, method, make_trainer(TREE, tmp_path, [], None), 1.0)
    attach(data, method)
    for loader, mirrored in ((data.test_dataloader(), False), (data.train_dataloader(), True)):
        batch = next(iter(loader))
        batch = batch._replace(image=method.normalise(batch.image))
        assert batch.prepared.shape == (6, 4, 4)
        with torch.no_grad():
            stored = method._find(batch.image, batch).boxes
            found = method._find(batch.image.flip(3) if mirrored else batch.image, None).boxes
        if mirrored:
            found = torch.stack([48 - found[..., 2], found[..., 1], 48 - found[..., 0], found[..., 3]], -1)
        torch.testing.assert_close(stored, found, atol=1e-3, rtol=0)
