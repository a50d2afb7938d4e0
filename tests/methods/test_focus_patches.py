"""Patches of a trained ProtoPNet: stored for all images by the phase prepare, and the same ones found on the spot."""

import inspect
import json
import re

import pytest
import torch
from fakes import FAKES

from fgbench.backbones import write_tensors
from fgbench.data import ToyBirds, View
from fgbench.methods import FocusLonger, Optim, ProtoPNet
from fgbench.prepare import attach, prepare
from fgbench.run import make_trainer
from fgbench.stores import StoreError


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


def test_stored_patches_are_those_found_on_the_spot_and_follow_a_mirrored_view(weights, tmp_path, fake_root):
    (tmp_path / "toybirds").symlink_to(fake_root("toybirds") / "toybirds")
    data = ToyBirds(
        **FAKES["toybirds"].arguments,
        root=str(tmp_path),
        batch_size=6,
        eval_batch_size=6,
        train_view=View(flip=1.0),
    )
    small = {"backbone": "resnet_nano", "weights": None, "hidden": 8, "steps": 2, "patch_size": 32, "patch_count": 4}
    kwargs = {"patches": "protopnet", "patch_weights": weights, "extractor_size": None}
    method = FocusLonger(3, "class", Optim(), **small, **kwargs).eval()
    assert not any("prototypes" in name for name in method.state_dict())
    tree = {"machine": {"accelerator": "cpu", "progress": False}, "selection": "last"}
    tree["trainer"] = {"precision": "32-true", "max_epochs": 1, "gradient_clip": None, "deterministic": False}
    options = inspect.signature(FocusLonger.__init__).parameters
    with pytest.raises(StoreError, match=r"more than machine\.store_gb") as full:
        prepare(data, method, make_trainer(tree, tmp_path, [], None), 1e-9)
    advised = re.findall(r"--method\.init_args\.(\w+)", str(full.value))
    assert advised
    assert set(advised) <= set(options)  # of this method, not of another that has a store
    prepare(data, method, make_trainer(tree, tmp_path, [], None), 1.0)
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
