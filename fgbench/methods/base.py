"""What every method is: ``forward``, ``loss``, parameter groups. The steps of training and testing are written once, here."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn

from fgbench.types import Batch, Output


@dataclass(frozen=True)
class Optim:
    """Optimiser and schedule; the schedule is stepped per iteration.

    Attributes:
        name: ``sgd`` (with momentum) or ``adamw``.
        lr: learning rate of the pretrained layers.
        new_layer_factor: learning rate of the new layers (everything outside of the backbone) over ``lr``.
        momentum: of SGD.
        weight_decay: on every parameter, as in the papers.
        schedule: ``cosine`` to zero at the last iteration, ``step``, or ``constant``.
        milestones: for ``step``: fractions of all iterations after which the rate is multiplied by ``gamma``.
        gamma: factor of one ``step``.
        warmup: fraction of all iterations in which the rate rises linearly from zero.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    new_layer_factor: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup: float = 0.0


class Method(LightningModule):
    """A method of the suite: Batch in, Output and loss out.

    A subclass sets ``self.backbone`` (a ``fgbench.backbones.Backbone``, which knows how its weights want images to be
    normalised) in ``__init__`` and implements ``forward`` and ``loss``. It computes no metric, opens no file, and never
    sees the datamodule.

    Args:
        num_outputs: classes ``k``, or attributes ``a``; filled in from the dataset.
        target: what the dataset asks for; filled in from the dataset.
        optim: optimiser and schedule; filled in from the config's ``optim`` section.
    """

    backbone: nn.Module
    figures: tuple[str, ...] = ()

    def __init__(self, num_outputs: int, target: Literal["class", "attributes"], optim: Optim) -> None:
        super().__init__()
        self.num_outputs, self.target, self.optim = num_outputs, target, optim

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Logits, saliency and parts of normalised images."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise, and its named terms (detached) for the log."""
        raise NotImplementedError
