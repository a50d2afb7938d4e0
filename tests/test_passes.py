"""A pass over the training split: every image once, whatever the processes; before validation; survives a kill."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from fgbench.data.samplers import EvalBatches, TrainBatches
from fgbench.layers.distributed import gather
from fgbench.methods import Baseline, Optim
from fgbench.passes import TrainingPass
from fgbench.report.callbacks import Speed
from fgbench.resume import RepeatableEpochs
from fgbench.types import Batch

IMAGES = 13


class Images(Dataset):
    """Item ``i`` is the same whoever asks; keys are those of the samplers."""

    def __getitem__(self, key):
        row = key[0]
        image = torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(row))
        empty, no = torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool)
        return Batch(image, torch.tensor(row % 3), torch.tensor(row), empty, no, torch.zeros(0, 2), no, torch.zeros(6))


def loader():
    return DataLoader(Images(), batch_sampler=EvalBatches(np.arange(IMAGES), 4))


class Remembering(Baseline):
    """Adds up what it is shown in a buffer, and lets it change a weight."""

    def __init__(self, epochs=(0, 2), broken_at=None):
        super().__init__(3, "class", Optim(lr=0.05), backbone="resnet_nano", weights=None)
        self.epochs, self.broken_at, self.modes, self.ids = epochs, broken_at, [], []
        self.register_buffer("mean", torch.zeros(3))
        self.backbone.stages[0].eval()  # a part that stays in evaluation mode on purpose

    def wants_pass(self, epoch):
        return epoch in self.epochs

    def observe(self, batch):
        if self.current_epoch == self.broken_at and len(self.ids) > 5:
            raise KeyboardInterrupt
        self.modes.append((torch.is_grad_enabled(), any(module.training for module in self.modules())))
        self.ids += batch.image_id.tolist()
        self.sum = getattr(self, "sum", 0) + self(batch.image).logits.sum(0)

    def conclude(self):
        self.mean.copy_(gather(self.sum[None]).sum(0) / IMAGES)
        self.seen, self.ids, self.sum = self.ids, [], 0
        self.classifier.bias += self.mean


def fit(folder, method, processes=1, callbacks=(), epochs=3, resume=None, **kwargs):
    several = {"strategy": "ddp_fork", "devices": processes} if processes > 1 else {"devices": 1}
    keep = ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=epochs,
        use_distributed_sampler=False, callbacks=[RepeatableEpochs(0), TrainingPass(loader), keep, *callbacks],
        default_root_dir=folder, num_sanity_val_steps=0, **several,
    )  # fmt: skip
    training = DataLoader(Images(), batch_sampler=TrainBatches(np.arange(IMAGES), 6, 0))
    trainer.fit(method, training, ckpt_path=resume, weights_only=True, **kwargs)
    return method


def make(**kwargs):
    torch.manual_seed(5)
    return Remembering(**kwargs)


def test_every_training_image_comes_once_in_evaluation_mode_without_gradients(tmp_path):
    method = fit(tmp_path, make())
    assert sorted(method.seen) == list(range(IMAGES))
    assert set(method.modes) == {(False, False)}
    assert len(method.modes) == 2 * len(loader())  # after epochs 0 and 2
    assert not method.backbone.stages[0].training
    assert method.backbone.stages[1].training
    assert method.training


def test_nobody_who_wants_no_pass_is_shown_anything(tmp_path):
    assert fit(tmp_path, make(epochs=())).modes == []


def test_validation_and_checkpoint_see_what_the_pass_left(tmp_path):
    seen = []

    class Look(Callback):
        def on_validation_start(self, trainer, pl_module):
            seen.append(pl_module.mean.clone())

    method = fit(tmp_path, make(epochs=(0,)), callbacks=[Look()], epochs=1, val_dataloaders=loader())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["mean"]
    assert saved.any()
    assert torch.equal(seen[0], method.mean)
    assert torch.equal(saved, method.mean)


def test_a_run_killed_in_a_pass_ends_in_the_weights_of_an_unbroken_one(tmp_path):
    expected = fit(tmp_path / "unbroken", make()).state_dict()
    with pytest.raises(KeyboardInterrupt):
        raise_on_interrupt(tmp_path / "killed")
    resumed = fit(tmp_path / "killed", make(), resume=tmp_path / "killed/last.ckpt").state_dict()
    assert torch.load(tmp_path / "killed/last.ckpt", weights_only=True)["epoch"] == 2
    for name, value in expected.items():
        assert torch.equal(value, resumed[name]), name


def raise_on_interrupt(folder):
    try:
        fit(folder, make(broken_at=2))
    except SystemExit:  # Lightning's way of ending an interrupted fit
        raise KeyboardInterrupt from None


class Report(Callback):
    """What each process ended in."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if hasattr(pl_module, "seen"):
            text = json.dumps([pl_module.seen, pl_module.mean.tolist()])
            (self.folder / f"{trainer.world_size}.{trainer.global_rank}.json").write_text(text)


@pytest.mark.filterwarnings("ignore")
def test_one_two_and_three_processes_conclude_the_same(tmp_path):
    found = {}
    for processes in (1, 2, 3):  # 13 images in batches of 4: nobody has as many as the others
        method = make(epochs=(0,))
        method.optim = Optim(lr=1e-30)  # training steps change nothing: what differs would be the pass
        method.backbone.eval()
        fit(tmp_path, method, processes, [Report(tmp_path)], epochs=1)
        shown = [json.loads((tmp_path / f"{processes}.{rank}.json").read_text()) for rank in range(processes)]
        assert sorted(i for ids, _ in shown for i in ids) == list(range(IMAGES))
        assert all(mean == shown[0][1] for _, mean in shown)
        found[processes] = torch.tensor(shown[0][1])
    for processes in (2, 3):
        torch.testing.assert_close(found[processes], found[1])


def test_the_clock_of_the_speed_stops_before_a_pass(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("fgbench.report.callbacks.time", clock)

    class Slow(Remembering):
        def training_step(self, batch, batch_idx):
            clock.now += 0.5
            return super().training_step(batch, batch_idx)

        def observe(self, batch):
            clock.now += 100.0

        def conclude(self):
            pass

    speed = Speed(skip=0)
    Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1,
        enable_checkpointing=False, callbacks=[speed, TrainingPass(loader)],
    ).fit(Slow(), loader())  # fmt: skip
    assert speed.train_images_per_s == pytest.approx((4 + 4 + 1) / 1.5)  # the first of four batches starts the clock
