"""What a person sees while a run works: a bar with images/s on a terminal, one line per epoch anywhere else."""

import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

LINE_EVERY_S = 20.0  # of a split's evaluation, where no bar can be drawn


def callbacks(progress: bool | None) -> list[Callback]:
    """The callback that fits where the output goes.

    Args:
        progress: True forces the bar, False silences both, None draws the bar on a terminal only.
    """
    if progress is False:
        return []
    if progress or sys.stderr.isatty():
        return [Bar()]
    return [Lines()]


class Rate:
    """Images per second over all processes since ``start``."""

    def start(self) -> None:
        """Begin to count."""
        self.since, self.images = time.monotonic(), 0

    def add(self, images: int, trainer: Trainer) -> None:
        """Count one batch of this process; the others see as many."""
        self.images += images * trainer.world_size

    def value(self) -> float:
        """Images per second."""
        return self.images / max(time.monotonic() - self.since, 1e-9)


class Bar(RichProgressBar):
    """Lightning's bar with images/s."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5, leave=False)
        self.rate = Rate()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count anew for each epoch."""
        self.rate.start()
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        self.rate.add(len(batch.image), trainer)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The loss and the speed; not the logger's version number."""
        metrics = {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
        return {**metrics, "images/s": f"{self.rate.value():.0f}"} if trainer.training else dict(metrics)


class Lines(Callback):
    """One line per epoch; while a split is evaluated one line every ``LINE_EVERY_S`` seconds."""

    def __init__(self) -> None:
        self.rate = Rate()

    def say(self, trainer: Trainer, text: str) -> None:
        """From the first process only."""
        if trainer.is_global_zero:
            print(text, file=sys.stderr, flush=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count anew for each epoch."""
        self.rate.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        self.rate.add(len(batch.image), trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch's line."""
        shown: dict[str, Any] = {**trainer.callback_metrics, **trainer.progress_bar_metrics}
        losses = ", ".join(f"{name} {float(value):.4f}" for name, value in sorted(shown.items()))
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self.say(trainer, f"{epoch}: {losses}, {self.rate.value():.0f} images/s")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self.rate.start()
        self.last_line = time.monotonic()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch; a line now and then."""
        self.rate.add(len(batch.image), trainer)
        if time.monotonic() - self.last_line > LINE_EVERY_S:
            self.last_line = time.monotonic()
            self.say(trainer, f"test: {self.rate.images} images, {self.rate.value():.0f} images/s")
