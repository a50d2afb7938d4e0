import math
from typing import ClassVar

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from fgbench.methods import Baseline, Optim, RegionGrouping
from fgbench.methods import base as methods_base
from fgbench.methods.base import NonFiniteLossError
from fgbench.types import Batch


def loader(n=12, batch_size=4):
    """Coloured noise, one colour per class."""
    target = torch.arange(n) % 3
    image = torch.randint(80, (n, 3, 32, 32), dtype=torch.uint8)
    image[torch.arange(n), target] += 150
    empty, no = torch.zeros(n, 0, 4), torch.zeros(n, 0, dtype=torch.bool)
    batch = Batch(image, target, torch.arange(n), empty, no, torch.zeros(n, 0, 2), no, torch.zeros(n, 6).double())
    batch = batch._replace(prepared=torch.zeros(n, 0), mask=torch.zeros(n, 0))
    rows = [Batch(*(field[i] for field in batch)) for i in range(n)]
    return DataLoader(rows, batch_size=batch_size)


def trainer(folder, epochs=2, **kwargs):
    defaults = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(**{**defaults, "max_epochs": epochs, "default_root_dir": str(folder), **kwargs})


def baseline(**optim):
    return Baseline(3, "class", Optim(**optim), backbone="resnet_nano", weights=None)


def rates(optim, steps):
    return [optim.lr * optim.factor(step, steps) for step in range(steps + 1)]


def torch_rates(schedule, lr, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)
    scheduler = schedule(optimizer)
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_is_torchs_and_ends_at_zero():
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40), 0.3, 40)
    assert rates(Optim(lr=0.3), 40) == pytest.approx(expected, abs=1e-9)
    assert rates(Optim(lr=0.3), 1000)[999] < 1e-6 * 0.3 * 10


def test_step_is_torchs():
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [20, 30], 0.5), 0.3, 40)
    optim = Optim(lr=0.3, schedule="step", milestones=(0.5, 0.75), gamma=0.5)
    assert rates(optim, 40) == pytest.approx(expected, abs=1e-9)


def test_warmup_rises_linearly_then_the_cosine_begins_at_its_top():
    found = rates(Optim(lr=1.0, warmup=0.1), 100)
    assert found[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert found[10] == 1.0
    assert found[55] == pytest.approx(0.5)
    assert found[100] == pytest.approx(0)


def test_constant_is_constant():
    assert set(rates(Optim(lr=0.2, schedule="constant"), 10)) == {0.2}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr": 0.0}, "optim.lr is 0.0"),
        ({"lr": math.nan}, "optim.lr"),
        ({"momentum": 1.0}, "optim.momentum"),
        ({"warmup": -0.1}, "optim.warmup"),
        ({"weight_decay": -1.0}, "optim.weight_decay"),
        ({"schedule": "step"}, "step needs some"),
        ({"milestones": (0.5,)}, "the others none"),
        ({"schedule": "step", "milestones": (0.9, 0.5)}, "ascending"),
        ({"schedule": "step", "milestones": (30.0,)}, "fractions"),
    ],
)
def test_impossible_optimisers_are_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        Optim(**wrong)


def test_new_layers_learn_at_their_own_rate_which_ends_at_zero(tmp_path):
    method = RegionGrouping(3, "class", Optim(lr=0.01, new_layer_factor=20.0), "resnet_nano", None, prior_pad=True)
    run = trainer(tmp_path)
    run.fit(method, loader())
    optimizer = run.optimizers[0]
    assert [group["name"] for group in optimizer.param_groups] == ["backbone", "new"]
    assert [group["initial_lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.2])
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0, 0], abs=1e-9)
    assert all(group["momentum"] == 0.9 and group["weight_decay"] == 1e-4 for group in optimizer.param_groups)


def test_the_group_of_new_layers_is_everything_outside_of_the_backbone():
    method = RegionGrouping(3, "class", Optim(), "resnet_nano", None)
    names = {id(p): name.split(".")[0] for name, p in method.named_parameters()}
    groups = {group["name"]: {names[id(p)] for p in group["params"]} for group in method.parameter_groups()}
    assert groups == {"backbone": {"backbone"}, "new": {"grouping", "transform", "attention", "norm", "classifier"}}


def test_adamw_is_adamw(tmp_path):
    run = trainer(tmp_path, epochs=1)
    run.fit(baseline(name="adamw", weight_decay=0.05), loader())
    assert isinstance(run.optimizers[0], torch.optim.AdamW)
    assert run.optimizers[0].param_groups[1]["weight_decay"] == 0.05


def test_loss_and_terms_are_logged(tmp_path):
    run = trainer(tmp_path, epochs=1)
    run.fit(RegionGrouping(3, "class", Optim(), "resnet_nano", None, prior_pad=True), loader())
    assert {"train/loss", "train/classification", "train/prior"} <= set(run.callback_metrics)


def test_training_learns_three_colours(tmp_path):
    method = baseline(lr=0.1)
    data = loader(24, 8)
    trainer(tmp_path, epochs=6).fit(method, data)
    method.eval()
    hits = [method(method.normalise(b.image)).logits.argmax(1) == b.target for b in data]
    assert torch.cat(hits).float().mean() > 0.9


@pytest.mark.parametrize("every", [50, 1])
def test_a_loss_that_is_not_finite_stops_the_run_before_a_checkpoint(tmp_path, monkeypatch, every):
    class Diverging(Baseline):
        def loss(self, batch):
            loss, _ = super().loss(batch)
            broken = loss * (math.nan if self.global_step >= 4 else 1.0)
            return broken, {"prior": loss.detach()}

    monkeypatch.setattr(methods_base, "CHECK_EVERY", every)
    method = Diverging(3, "class", Optim(), backbone="resnet_nano", weights=None)
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_epochs=1, filename="{epoch}")
    with pytest.raises(NonFiniteLossError, match=r"epoch 1 .*step 4, process 0: loss nan, prior \d") as caught:
        trainer(tmp_path, epochs=4, callbacks=[keep]).fit(method, loader())  # 3 steps an epoch
    assert "optim.lr" in str(caught.value)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["epoch=0.ckpt"]


def test_no_checkpoint_inside_an_epoch_after_a_loss_that_is_not_finite(tmp_path):
    class Diverging(Baseline):
        def loss(self, batch):
            loss, terms = super().loss(batch)
            return loss * (math.nan if self.global_step >= 1 else 1.0), terms

    method = Diverging(3, "class", Optim(), backbone="resnet_nano", weights=None)
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    with pytest.raises(NonFiniteLossError, match="step 1"):
        trainer(tmp_path, epochs=2, callbacks=[keep]).fit(method, loader())
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["step=1.ckpt"]


def test_checkpoints_of_lightning_load_without_running_code(tmp_path):
    method = baseline()
    keep = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, epochs=1, callbacks=[keep]).fit(method, loader())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == set(method.state_dict())


def test_normalised_images_are_not_normalised_again():
    method = baseline()
    batch = next(iter(loader()))
    normalised = method.on_after_batch_transfer(batch, 0)
    with pytest.raises(TypeError):  # with shape checks on, theirs; else the method's own
        method.normalise(normalised.image)


def test_a_method_says_why_a_kind_of_target_is_not_for_it():
    class OnlyClasses(Baseline):
        undefined_for: ClassVar = {"attributes": "its channels belong to classes"}

    with pytest.raises(ValueError, match="OnlyClasses is not defined for a target of attributes: its channels"):
        OnlyClasses(40, "attributes", Optim(), backbone="resnet_nano", weights=None)


def test_steps_of_evaluation_return_the_output():
    method = baseline().eval()
    batch = method.on_after_batch_transfer(next(iter(loader())), 0)
    for step in (method.validation_step, method.test_step):
        assert torch.equal(step(batch, 0)["output"].logits, method(batch.image).logits)
