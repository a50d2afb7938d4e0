"""What lets a killed run go on and end as if it had not been: repeatable epochs, and checkpoints that are whole.

May import: result (for its atomic writes). Must not import: data, methods, config. Writes: checkpoints.
"""

import math
import os
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO

from fgbench.result import commit_file


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the target and renames, where Lightning copies from the system's folder for temporary files.

    So the only checkpoint of a run is never half of one: not after a kill, a full disk or a power cut.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Replace the file at once, or leave the old one.

        Raises:
            OSError: the disk is full or refuses; says what to do.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            commit_file(temporary, target)
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into the latter
            raise OSError(
                f"{target}: the checkpoint could not be written ({error}); the one before is untouched. "
                "Free space and give the same command: it goes on from there"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint to go on from, None at the start; clears away what a killed writer left.

    Raises:
        RuntimeError: the checkpoint is damaged; names it.
    """
    for leftover in path.parent.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    if not path.exists():
        return None
    read_checkpoint(path)
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of this suite, loaded without running code.

    Raises:
        RuntimeError: the file is missing or damaged; names it.
    """
    hint = f"remove the run folder {path.parent.parent} to train again"
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["state_dict"]
    except FileNotFoundError:
        raise RuntimeError(f"{path}: the checkpoint is missing; {hint}") from None
    except Exception as error:
        raise RuntimeError(f"{path}: not a checkpoint of this suite ({error}); {hint}") from error
    return checkpoint


class RepeatableEpochs(Callback):
    """Seeds torch's generator at the start of each epoch, so that a resumed run draws what an unbroken one would."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A stream of its own for each seed and epoch, and the same in all processes.

        A method that draws, draws for the union batch in each of them and takes its share: an image then gets the same
        numbers however many processes there are.
        """
        stream = (self.seed * 1_000_003 + trainer.current_epoch) * 4096
        torch.manual_seed(stream % 2**63)


class History(Callback):
    """Of each epoch the mean of the loss and of its terms over all processes and, if it was validated, its accuracy.

    Terms are as the method tells them, without their weights; one that is infinite once is kept no longer. Carried on
    over resumptions in the checkpoint.
    """

    def __init__(self) -> None:
        self.epochs: dict[str, list[float]] = {"loss": []}
        self._names: tuple[str, ...] = ()
        self._sum, self._steps = torch.zeros(()), 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from nothing."""
        self._sum, self._steps = torch.zeros((), device=pl_module.device), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add on the device."""
        terms: Any = pl_module.terms
        self._names = tuple(terms)
        self._sum = self._sum + torch.stack([value.detach().float() for value in terms.values()])
        self._steps += 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch's one wait for the device."""
        means = trainer.strategy.reduce(self._sum / max(self._steps, 1), reduce_op="mean")
        epoch, found = trainer.current_epoch, dict(zip(self._names, means.tolist(), strict=True))
        accuracy = trainer.callback_metrics.get("val/accuracy")
        if accuracy is not None:
            found["val_accuracy"] = float(accuracy)
        for name, value in found.items():
            values = self.epochs.setdefault(name, [])
            del values[epoch:]
            if len(values) == epoch and math.isfinite(value):
                values.append(round(value, 4 if name == "val_accuracy" else 6))
            else:  # a list is as long as the training, or it is not there
                del self.epochs[name]

    def state_dict(self) -> dict[str, Any]:
        """Lists of numbers."""
        return self.epochs

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint stopped."""
        self.epochs = state_dict
