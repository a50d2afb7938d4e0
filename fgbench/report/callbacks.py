"""What a run costs, measured while it trains: images per second, peak memory, hours, energy."""

import math
import resource
import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from fgbench import energy

STATE = {"seconds": 0.0, "clocked_seconds": 0.0, "clocked_images": 0, "images": 0, "peak_bytes": 0, "joules": 0.0}


class Speed(Callback):
    """Measures training; logged once per epoch, and carried on over resumptions in the checkpoint.

    The clock of the speed runs over training steps with the loading of their images, without the first steps of a
    process, without validation and what happens between epochs. Hours are wall time from the start to the end of
    training with everything in between; what a killed process did after its last checkpoint is done again, and counted
    once. Energy is that of all devices from the start to the end of the last epoch, where each of them reports it.
    The device is waited for when the clock starts and stops, never in a step.

    Args:
        skip: steps of a process before the clock may start (allocation, tuning of convolutions, start of the workers).
    """

    def __init__(self, skip: int = 5) -> None:
        self.skip = skip
        self._state: dict[str, Any] = dict(STATE)
        self._began: float | None = None  # of this process's training
        self._clock: float | None = None
        self._steps = 0
        self._images = 0  # since the clock started, of this process
        self._device = torch.device("cpu")
        self._joules: float | None = None  # the device's counter when it was read last

    # What was measured

    @property
    def train_images_per_s(self) -> float | None:
        """Over all processes; from all of the training if that had fewer steps than ``skip``; None before any."""
        if self._state["clocked_seconds"]:
            return float(self._state["clocked_images"] / self._state["clocked_seconds"])
        return float(self._state["images"] / self._seconds()) if self._state["images"] else None

    @property
    def peak_memory_gb(self) -> float:
        """10^9 bytes, of the fullest process: allocated on the GPU, or resident without one."""
        return float(self._state["peak_bytes"] / 1e9)

    @property
    def train_hours(self) -> float:
        """Wall time."""
        return self._seconds() / 3600

    @property
    def energy_kwh(self) -> float | None:
        """Of all devices; None if one of them does not report it."""
        joules = float(self._state["joules"])
        return None if math.isnan(joules) or not self._state["images"] else joules / 3.6e6

    def summary(self) -> dict[str, float | None]:
        """The leaderboard's columns."""
        return {
            "train_images_per_s": self.train_images_per_s,
            "peak_memory_gb": self.peak_memory_gb,
            "train_hours": self.train_hours,
            "energy_kwh": self.energy_kwh,
        }

    def _seconds(self) -> float:
        running = 0.0 if self._began is None else time.monotonic() - self._began
        return float(self._state["seconds"] + running)

    def state_dict(self) -> dict[str, Any]:
        """Numbers only, so that a checkpoint can be read without running code."""
        return {**self._state, "seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where the checkpoint stopped."""
        self._state = {name: state_dict.get(name, zero) for name, zero in STATE.items()}
        self._state["joules"] = state_dict.get("joules", math.nan)  # of an earlier version: nobody knows the first part

    # The clock

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the hours."""
        self._began, self._steps, self._clock, self._device = time.monotonic(), 0, None, pl_module.device
        self._joules = energy.joules(self._device)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; the batch at whose end the clock starts does not count."""
        images = len(batch.image)
        self._steps += 1
        self._state["images"] += images * trainer.world_size
        if self._clock is not None:
            self._images += images
        elif self._steps > self.skip:
            self._wait()
            self._clock, self._images = time.monotonic(), 0
        if trainer.is_last_batch:  # a pass over the training split may follow
            self._stop(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock, and log."""
        self._stop(trainer)
        peak = torch.tensor(float(self._peak_bytes()), dtype=torch.float64, device="cpu")
        if self._device.type != "cpu":
            peak = peak.to(self._device, torch.float32)  # not every device has doubles
        reduced = trainer.strategy.reduce(peak, reduce_op="max")
        self._state["peak_bytes"] = max(self._state["peak_bytes"], int(reduced))
        used = torch.full_like(peak, self._used_joules())
        self._state["joules"] += float(trainer.strategy.reduce(used, reduce_op="sum"))
        costs = {f"speed/{name}": value for name, value in self.summary().items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics({**costs, "epoch": float(trainer.current_epoch)}, step=trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the hours."""
        self._stop(trainer)
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the hours; Lightning may write a last checkpoint."""
        self._clock = None
        self._end()

    def _end(self) -> None:
        self._state["seconds"], self._began = self._seconds(), None

    def _stop(self, trainer: Trainer) -> None:
        if self._clock is None:
            return
        if self._images:
            self._wait()
            self._state["clocked_seconds"] += time.monotonic() - self._clock
            self._state["clocked_images"] += self._images * trainer.world_size
        self._clock = None

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _used_joules(self) -> float:
        """Since the last call, of this process's device; NaN where it does not say."""
        before, self._joules = self._joules, energy.joules(self._device)
        return math.nan if before is None or self._joules is None else self._joules - before

    def _peak_bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
