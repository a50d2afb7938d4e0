"""Training in two gloo processes equals one with the union batch; run as a script, this file is one of the two."""

import copy
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from lightning import Trainer
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fgbench.layers.batchnorm import convert_sync_batchnorm
from fgbench.losses import LGM, ASoftmax, Center, MutualChannel
from fgbench.methods import METHODS, Optim
from fgbench.resume import RepeatableEpochs
from fgbench.types import Batch

WORLD, STEPS, BATCH = 2, 3, 8
EXTRA = {
    "focus_longer": {"hidden": 16, "steps": 3, "patch_size": 48, "patches": "grid"},  # places that rounding cannot move
    "focus_longer/self_attention": {"local": "self_attention", "hidden": 16, "steps": 2, "patch_size": 48},
    "region_grouping": {"prior_alpha": 2e-3, "prior_beta": 1e-3, "prior_pad": True},  # a prior that sees the batch size
    "dpnet": {"regions": 20, "parts_per_class": 3, "shown_parts": 4, "perp": 0.1, "assign": 0.1, "specific": 0.1},
    "ssn": {"attention_size": 64, "sampled": 64},
    "tasn": {"attention_size": 64, "sampled": 64},
    "tdsa": {"high": "widen", "mid": "inline"},
    # losses with a state, which all processes must share
    "baseline/center": {"loss": Center},
    "baseline/a_softmax": {"loss": ASoftmax},
    "baseline/lgm": {"loss": LGM},
    "baseline/mc_loss": {"loss": MutualChannel},
}
# Where an image is resampled at places that a network gives, rounding moves them by 1e-6 pixels. One value that changes
# sides at a ReLU for it is a percent of a gradient (noise of 2e-6 in one process does the same). Relative to the
# largest value.
ROUNDING = {"ssn": 0.03, "tasn": 0.03}
# In float32 a peak of the mutual-channel loss can change places for a rounding, which moves the weights by up to 0.5 %
# of what they learned in three steps. In float64 none does, and two processes are one to 1e-13: nothing else differs
# (the channels that are left out are the same, and both terms are means over images).
DOUBLE = {"mc_loss"}
CELLS = [(name, target) for name, method in METHODS.items() for target in ("class", "attributes")
         if target not in method.undefined_for]  # fmt: skip
CELLS += [(name, "class") for name in EXTRA if "/" in name]


class Loss(nn.Module):
    """What DistributedDataParallel wraps."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, batch):
        return self.method.loss(batch)[0]


def make(name, target):
    torch.manual_seed(3)
    kwargs = {"backbone": "resnet_nano", "weights": None, **EXTRA.get(name.split("/")[0], {}), **EXTRA.get(name, {})}
    return METHODS[name.split("/")[0]](4, target, Optim(lr=0.05, new_layer_factor=2.0), **kwargs)


def batch(step, target, rank=None):
    generator = torch.Generator().manual_seed(step)
    image = torch.randint(256, (BATCH, 3, 64, 64), dtype=torch.uint8, generator=generator)
    labels = torch.randint(4, (BATCH,), generator=generator)
    labels = labels if target == "class" else nn.functional.one_hot(labels, 4).float()
    numbers = torch.arange(BATCH)
    if rank is not None:
        image, labels, numbers = (field.chunk(WORLD)[rank] for field in (image, labels, numbers))
    return Batch(image, labels, numbers, *[torch.empty(0)] * 5)


def train(name, target, rank=None):
    dtype = torch.float64 if name in DOUBLE else torch.float32
    method = make(name, target).to(dtype)
    loss_of = Loss(method)
    if rank is not None:
        loss_of = DistributedDataParallel(convert_sync_batchnorm(loss_of))
    optimizer = torch.optim.SGD(method.parameter_groups(), momentum=0.9, weight_decay=5e-4)
    first = {}
    RepeatableEpochs(0).on_train_epoch_start(Mock(spec=Trainer, current_epoch=0, global_rank=rank or 0), method)
    for step in range(STEPS):
        data = batch(step, target, rank)
        optimizer.zero_grad()
        loss_of(data._replace(image=method.normalise(data.image).to(dtype))).backward()
        first = first or {n: p.grad.clone() for n, p in method.named_parameters() if p.requires_grad}
        optimizer.step()
    return {"gradients": first, "state": copy.deepcopy(method.state_dict())}


def worker(rank, folder):
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # processes draw different numbers
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    torch.save({cell: train(*cell, rank) for cell in CELLS}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    command = [sys.executable, str(Path(__file__).resolve())]
    processes = [subprocess.Popen([*command, str(rank), str(folder)]) for rank in range(WORLD)]
    assert [process.wait(timeout=180) for process in processes] == [0] * WORLD
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("cell", CELLS)
def test_two_processes_have_the_gradients_of_one_with_the_union_batch(results, cell):
    single = train(*cell)
    for name, expected in single["gradients"].items():
        for result in results:
            atol = max(2e-5, ROUNDING.get(cell[0], 0) * float(expected.abs().max()))
            rtol, atol = (1e-9, 1e-10) if cell[0] in DOUBLE else (1e-3, atol)
            torch.testing.assert_close(result[cell]["gradients"][name], expected, rtol=rtol, atol=atol, msg=name)


@pytest.mark.parametrize("cell", CELLS)
def test_two_processes_end_in_the_weights_and_moments_of_one(results, cell):
    single = train(*cell)
    for name, expected in single["state"].items():
        for result in results:
            atol = max(
                1e-4, ROUNDING.get(cell[0], 0) * max(0.2, float(expected.float().abs().max()))
            )  # biases start at zero
            rtol, atol = (1e-9, 1e-10) if cell[0] in DOUBLE else (1e-3, atol)
            torch.testing.assert_close(result[cell]["state"][name], expected, rtol=rtol, atol=atol, msg=name)
        assert torch.equal(results[0][cell]["state"][name], results[1][cell]["state"][name])


if __name__ == "__main__":
    worker(int(sys.argv[1]), sys.argv[2])
