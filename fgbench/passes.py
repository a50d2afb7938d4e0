"""A pass over the training split between epochs, for methods that ask for one (``Method.wants_pass``).

The images come in the test view, so nothing about them is random, and each comes once, whatever the number of
processes. The pass ends before validation and before the epoch's checkpoint: what is validated and saved is what it
left. A run killed in a pass does the epoch again, and the pass again with the same weights.

May import: methods (for their signature), types. Must not import: data, bench, run. Reads and writes: nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from fgbench.methods.base import Method
from fgbench.types import Batch


class TrainingPass(Callback):
    """Shows a method all training images after each epoch after which it wants to see them.

    Args:
        loader: makes the loader of a pass: the training split in the test view, shared exactly among the processes.
    """

    def __init__(self, loader: Callable[[], DataLoader[Batch]]) -> None:
        self.loader = loader

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Memory that a pass needs for its images is asked for before the first step."""
        if any(cast(Method, pl_module).wants_pass(epoch) for epoch in range(trainer.max_epochs or 0)):
            self.loader()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the last batch: Lightning validates next, and ends the epoch only then."""
        method = cast(Method, pl_module)
        if trainer.is_last_batch and method.wants_pass(trainer.current_epoch):
            method.check_finite()  # nothing is concluded from a network that diverged
            with torch.no_grad(), evaluating(method), trainer.precision_plugin.forward_context():
                for shown in self.loader():  # made anew: its workers end with the pass
                    moved = method.transfer_batch_to_device(shown, method.device, 0)
                    method.observe(method.on_after_batch_transfer(moved, 0))
                method.conclude()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, then each submodule in the mode in which it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
