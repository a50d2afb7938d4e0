"""Costs are measured over the right steps and survive a resumption."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fgbench import energy
from fgbench.report.callbacks import Speed


class Images(NamedTuple):
    image: Tensor
    target: Tensor


def loader(batches: int) -> DataLoader:
    return DataLoader([Images(torch.zeros(4, 3, 2, 2), torch.zeros(4))] * batches, batch_size=None)


class Clock:
    """Stands in for ``time``; only the model makes time pass."""

    now = 1000.0

    def monotonic(self) -> float:
        return Clock.now


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgbench.report.callbacks.time", Clock())


class Slow(LightningModule):
    """A step takes 20 ms, the first one of a process 300 ms, a validation step 100 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 1)
        self.steps = 0

    def training_step(self, batch: Images, batch_idx: int) -> Tensor:
        self.steps += 1
        Clock.now += 0.3 if self.steps == 1 else 0.02
        return self.layer(batch.image.flatten(1)).mean()

    def validation_step(self, batch: Images, batch_idx: int) -> None:
        Clock.now += 0.1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder: Path, speed: Speed, epochs: int, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[speed], default_root_dir=folder, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, enable_checkpointing=False, **{"logger": False, **options},
    )  # fmt: skip


def test_speed_leaves_out_first_steps_and_validation(tmp_path: Path) -> None:
    speed = Speed(skip=1)
    trainer(tmp_path, speed, 2).fit(Slow(), loader(8), loader(3))
    assert speed.summary()["train_images_per_s"] == pytest.approx(4 / 0.02)
    assert speed.train_hours * 3600 == pytest.approx(0.3 + 15 * 0.02 + 2 * 3 * 0.1)
    assert 0.05 < speed.peak_memory_gb < 50


def test_a_training_shorter_than_the_skipped_steps_has_a_speed_too(tmp_path: Path) -> None:
    speed = Speed(skip=100)
    trainer(tmp_path, speed, 1).fit(Slow(), loader(3))
    assert speed.summary()["train_images_per_s"] == pytest.approx(12 / 0.34)
    assert Speed().summary()["train_images_per_s"] is None


def test_hours_and_speed_go_on_after_a_resumption(tmp_path: Path) -> None:
    first = Speed(skip=0)
    one = trainer(tmp_path, first, 1)
    one.fit(Slow(), loader(4))
    one.save_checkpoint(tmp_path / "last.ckpt")
    second = Speed(skip=0)
    trainer(tmp_path, second, 2).fit(Slow(), loader(4), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert first.train_hours * 3600 == pytest.approx(0.36)
    assert second.train_hours * 3600 == pytest.approx(2 * 0.36)
    assert second.state_dict()["images"] == 2 * 4 * 4
    assert second.state_dict()["clocked_images"] == 2 * 3 * 4  # the step at whose end the clock starts does not count
    assert set(map(type, second.state_dict().values())) <= {int, float}


def test_costs_are_logged_once_per_epoch(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, Speed(skip=0), 2, logger=logger).fit(Slow(), loader(3))
    lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert len(lines) == 3
    assert {"speed/train_images_per_s", "speed/peak_memory_gb", "speed/train_hours", "epoch"} <= set(
        lines[0].split(",")
    )


@pytest.mark.parametrize("state", [{}, {"seconds": 7.5}])
def test_an_older_checkpoint_starts_what_it_lacks_at_zero(state: dict[str, float]) -> None:
    speed = Speed()
    speed.load_state_dict(state)
    assert speed.train_hours * 3600 == state.get("seconds", 0.0)


def test_energy_adds_up_over_epochs_and_resumptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported = [500.0]

    def joules(device: torch.device) -> float:
        reported[0] += 1000.0  # between two questions
        return reported[0]

    monkeypatch.setattr("fgbench.report.callbacks.energy.joules", joules)
    first, second = Speed(), Speed()
    trainer(tmp_path, first, 2).fit(Slow(), loader(2))  # asked at the start and after each epoch
    second.load_state_dict(first.state_dict())
    trainer(tmp_path, second, 3).fit(Slow(), loader(2))
    assert second.energy_kwh == pytest.approx((2 + 3) * 1000 / 3.6e6)


def test_a_device_that_reports_no_energy_has_none(tmp_path: Path) -> None:
    assert energy.joules(torch.device("cpu")) is None
    speed, later = Speed(), Speed()
    trainer(tmp_path, speed, 1).fit(Slow(), loader(2))
    assert speed.summary()["energy_kwh"] is None
    later.load_state_dict({name: value for name, value in speed.state_dict().items() if name != "joules"})
    assert later.energy_kwh is None
