"""What every method is: ``forward``, ``loss``, parameter groups; the steps of training and testing, written once."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int, UInt8
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from fgbench.backbones import Backbone
from fgbench.layers.distributed import gather
from fgbench.losses.classification import classification_loss
from fgbench.methods.preparation import Preparation
from fgbench.types import Batch, Output, Target

Contribution = Literal["logit", "attention"]
"""What ``Method.contributions`` are: summands of the logit, or shares of an attention over parts, which sum to one."""

CHECK_EVERY = 50  # steps between two looks at whether the loss is finite; each look waits for the device


@dataclass(frozen=True)
class Optim:
    """Optimiser and schedule; the schedule is stepped per iteration.

    Attributes:
        name: ``sgd`` (with momentum), ``adam`` (weight decay as a term of the loss) or ``adamw``.
        lr: learning rate of the pretrained layers.
        new_layer_factor: learning rate of the new layers (everything outside of the backbone) over ``lr``.
        momentum: of SGD.
        weight_decay: on every parameter, as in the papers.
        schedule: ``cosine`` to zero at the last iteration, ``step``, or ``constant``.
        milestones: for ``step``: fractions of all iterations after which the rate is multiplied by ``gamma``.
        gamma: factor of one ``step``.
        warmup: fraction of all iterations in which the rate rises linearly from zero.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.01
    new_layer_factor: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        for name in ("lr", "new_layer_factor", "gamma"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"optim.{name} is {getattr(self, name)}; it must be above 0")
        for name in ("momentum", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optim.{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if self.weight_decay < 0:
            raise ValueError(f"optim.weight_decay is {self.weight_decay}; it must be at least 0")
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise ValueError(
                f"optim.milestones are {self.milestones}; they are ascending fractions of the run, between 0 and 1"
            )
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError(
                f"optim.schedule {self.schedule} with milestones {self.milestones}: step needs some, the others none"
            )

    def factor(self, step: int, total: int) -> float:
        """Learning rate of iteration ``step`` (from 0) of ``total``, as a fraction of the full rate.

        >>> cosine = Optim(schedule="cosine")
        >>> [round(cosine.factor(step, 4), 3) for step in (0, 2, 4)]
        [1.0, 0.5, 0.0]
        """
        warm = round(self.warmup * total)
        if step < warm:
            return (step + 1) / warm
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))
        return self.gamma ** sum(step >= milestone * total for milestone in self.milestones)


class NonFiniteLossError(FloatingPointError):
    """Training diverged."""


class Method(LightningModule):
    """A method of the suite: Batch in, Output and loss out.

    A subclass sets ``self.backbone`` in ``__init__`` and implements ``forward`` and ``loss``. It computes no metric,
    opens no file, and never sees the datamodule.

    Args:
        num_outputs: classes ``k``, or attributes ``a``; filled in from the dataset.
        target: what the dataset asks for; filled in from the dataset.
        optim: optimiser and schedule; filled in from the config's ``optim`` section.

    Attributes:
        parts: number of parts of ``Output.parts``, None where there are none.
        figures: names of further figures that the method offers: keys of ``report.method_figures.DRAWN``.
        class_stages: stages of the network whose channels belong to classes (``Output.scores``); 0 for none.
        stream_names: of the further logits of ``Output.streams``; empty where there are none.
        steps: maps of ``Output.steps``; 0 where there are none.
        bound_parts: number of parts of ``Output.bound_parts``; 0 where there are none.
        undefined_for: kinds of target for which the method is not defined, with the reason.
        contribution: what ``contributions`` are.
        no_contributions: why there are none, of a method that has parts.
        gradient_clip: ``trainer.gradient_clip``, for a method that makes its steps itself (manual optimisation).

    Raises:
        ValueError: if the method is not defined for the kind of target.
    """

    backbone: Backbone
    parts: int | None = None
    figures: tuple[str, ...] = ()
    class_stages: int = 0
    stream_names: tuple[str, ...] = ()
    steps: int = 0
    bound_parts: int = 0
    undefined_for: ClassVar[Mapping[Target, str]] = {}
    contribution: ClassVar[Contribution] = "logit"
    no_contributions: ClassVar[str] = "what a part adds to the decision cannot be said exactly"
    gradient_clip: float | None = None

    def __init__(self, num_outputs: int, target: Target, optim: Optim) -> None:
        super().__init__()
        if target in self.undefined_for:
            raise ValueError(
                f"{type(self).__name__} is not defined for a target of {target}: {self.undefined_for[target]}"
            )
        if num_outputs < 1:
            raise ValueError(f"num_outputs is {num_outputs}; a dataset has at least one class or attribute")
        self.num_outputs, self.target, self.optim = num_outputs, target, optim
        self._diverged: Tensor | None = None  # (step or -1, loss, terms...) of this process' first non-finite loss
        self.terms: Mapping[str, Tensor] = {}  # of the last step, the total loss first

    @classmethod
    def check_files(cls, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that need a file and name none, before any data is read; files themselves are not opened.

        Raises:
            ValueError: says which file, and how it is made.
        """

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Logits, saliency and parts of normalised images."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise, and its named terms (detached) for the log."""
        raise NotImplementedError

    @property
    def loss_weights(self) -> dict[str, float]:
        """What each term counts in the loss, for the result; empty where the method does not tell."""
        return {}

    def explain(self, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"] | None:
        """The evidence for one class or attribute of each image, where a method tells them apart; else ``saliency``."""
        output: Output = self(image)
        return output.saliency

    def show(self, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"]) -> Output:
        """What is said of images, with the evidence for one class of each: of methods whose parts belong to classes."""
        raise NotImplementedError

    def over_image(self, maps: Float[Tensor, "b n u v"], image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n u2 v2"]:
        """Maps over what the backbone is shown, as maps over the image; the same where it is shown the image itself."""
        return maps

    def linear_evidence(self) -> Float[Tensor, "k d"] | None:
        """Weights, where logits are linear in the mean of the backbone's map; None where they are not."""
        return None

    def explain_batch(self, batch: Batch, index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"] | None:
        """``explain``; a method that uses more of a batch than its images overrides this, as it does ``respond``."""
        return self.explain(batch.image, index)

    def contributions(self, batch: Batch, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"] | None:
        """What each part adds to the decision for one class or attribute of each image; None where it cannot be said.

        In the unit of ``contribution``, and exact: with ``logit``, the logit is their sum and what no part says.
        """
        return None

    def figure(self, name: str, batch: Batch) -> Mapping[str, Tensor]:
        """What a figure of ``figures`` shows of a batch of one, as it is tested; ``report.method_figures`` draws it."""
        raise NotImplementedError

    # ---- a pass over the training split, see ``fgbench.passes``

    def wants_pass(self, epoch: int) -> bool:
        """Whether to be shown all training images after an epoch, counted from 0: ``observe``, then ``conclude``."""
        return False

    def observe(self, batch: Batch) -> None:
        """One batch of a pass: normalised, in the test view, without gradients, in evaluation mode.

        Processes see different numbers of batches, so they must not wait for each other here.
        """
        raise NotImplementedError

    def conclude(self) -> None:
        """The end of a pass, in all processes: reduce over them (``layers.distributed``), to the same in each.

        What must survive goes into parameters or buffers, and so into the checkpoint.
        """
        raise NotImplementedError

    # ---- images

    def preparation(self) -> Preparation | None:
        """What the method wants of a frozen network for every image, once, before training; None for nothing."""
        return None

    def normalise(self, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """RGB bytes as the backbone's weights want them, on the images' device.

        Raises:
            TypeError: for anything but bytes: normalised images must not be normalised again.
        """
        if image.dtype != torch.uint8:
            raise TypeError(f"expected uint8 RGB, got {image.dtype}: has the batch been normalised already?")
        return self.backbone.normalise(image)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise on the device: a quarter of the bytes travel. An image that its row replaces has no pixels."""
        if batch.prepared.numel() and self.replaces_image:
            return batch
        return batch._replace(image=self.normalise(batch.image))

    @cached_property
    def replaces_image(self) -> bool:
        """Whether an image whose prepared row is there is not needed."""
        preparation = self.preparation()
        return preparation is not None and preparation.replaces_image

    # ---- steps

    def respond(self, batch: Batch) -> Output:
        """What the method says of a batch; a method that uses more of it than its images overrides this."""
        output: Output = self(batch.image)
        return output

    def classification_loss(self, logits: Float[Tensor, "b k"], batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy of classes, or the mean binary cross-entropy of attributes."""
        return classification_loss(logits, batch.target, self.target)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss, logged without waiting for the device."""
        loss, terms = self.loss(batch)
        self.tell({"loss": loss.detach(), **terms}, len(batch.image))
        self._watch(self.terms)
        return loss

    def tell(self, terms: Mapping[str, Tensor], images: int) -> None:
        """Log the terms of a step, and leave them here for what follows the training."""
        self.terms = terms
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, batch_size=images)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Output]:
        """The output; the scoring callback measures it."""
        return {"output": self.respond(batch)}

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Output]:
        """The output; the scoring callback measures it."""
        return {"output": self.respond(batch)}

    # ---- divergence

    def _watch(self, terms: Mapping[str, Tensor]) -> None:
        """Remember the first non-finite loss on the device, and look every ``CHECK_EVERY`` steps."""
        self.terms = terms
        now = torch.stack([*(value.detach().float() for value in terms.values())])
        step = torch.full_like(now[:1], float(self.global_step))
        now = torch.cat([step, now])
        before = self._diverged
        if before is None:
            before = torch.cat([torch.full_like(step, -1.0), torch.zeros_like(now[1:])])
        fresh = (before[0] < 0) & ~torch.isfinite(now[1])
        self._diverged = torch.where(fresh, now, before)
        if (self.global_step + 1) % CHECK_EVERY == 0:
            self.check_finite()

    def check_finite(self) -> None:
        """Stop, in all processes, if the loss was not finite in any of them.

        Raises:
            NonFiniteLossError: names epoch, step and the terms of the loss.
        """
        if self._diverged is None:
            return
        seen = gather(self._diverged[None]).tolist()
        bad = [(rank, row) for rank, row in enumerate(seen) if row[0] >= 0]
        if bad:
            rank, (step, *values) = min(bad, key=lambda item: item[1][0])
            terms = ", ".join(f"{name} {value:.4g}" for name, value in zip(self.terms, values, strict=True))
            raise NonFiniteLossError(
                f"the loss is not finite since epoch {self.current_epoch} (counted from 0), step {step:.0f}, "
                f"process {rank}: {terms}. Nothing later was saved. "
                "Lower optim.lr, add optim.warmup or set trainer.gradient_clip"
            )

    def on_train_epoch_end(self) -> None:
        """No epoch ends on a loss that is not finite."""
        self.check_finite()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """No checkpoint is written after a loss that is not finite."""
        self.check_finite()

    # ---- optimisation

    def pretrained(self) -> list[nn.Module]:
        """Modules that start from weights and learn at the base rate; with several networks, all of them."""
        return [self.backbone]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """``backbone`` at the base rate, ``new`` (everything else) at ``new_layer_factor`` times that."""
        own = {id(parameter) for module in self.pretrained() for parameter in module.parameters()}
        rates = {"backbone": self.optim.lr, "new": self.optim.lr * self.optim.new_layer_factor}
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "new": []}
        for parameter in self.parameters():
            if parameter.requires_grad:
                groups["backbone" if id(parameter) in own else "new"].append(parameter)
        return [{"name": name, "params": params, "lr": rates[name]} for name, params in groups.items() if params]

    def factor(self, group: str, step: int, total: int) -> float:
        """Learning rate of a group in iteration ``step`` of ``total``, as a fraction of its full rate."""
        return self.optim.factor(step, total)

    def total_steps(self) -> int:
        """Steps of the whole training: the length of the schedule."""
        return int(self.trainer.estimated_stepping_batches)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser, and its schedule stepped per iteration."""
        groups, decay = self.parameter_groups(), self.optim.weight_decay
        optimizer: torch.optim.Optimizer
        if self.optim.name == "sgd":
            optimizer = torch.optim.SGD(groups, momentum=self.optim.momentum, weight_decay=decay)
        else:
            kind = torch.optim.Adam if self.optim.name == "adam" else torch.optim.AdamW
            optimizer = kind(groups, weight_decay=decay)
        total = self.total_steps()
        factors: list[Callable[[int], float]] = [partial(self.factor, group["name"], total=total) for group in groups]
        schedule = LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
