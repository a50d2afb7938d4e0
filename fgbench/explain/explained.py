"""A method whose evidence comes from an explainer: a module that a trainer tests like the method itself."""

from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from lightning import LightningModule
from torch import Tensor

from fgbench.explain.explainers import Explainer
from fgbench.types import Batch, Output


class Explained(LightningModule):
    """What a method predicts, and what an explainer shows of it.

    Args:
        method: predicts.
        explainer: shows; fitted, if it wants to be.
        fresh: the same network with fresh weights, if that is to be explained: the logit of what ``method`` predicts.

    Attributes:
        parts: number of part maps, None without parts.
        class_stages: the method's where its own evidence is shown, of fresh weights; else 0.
        bound_parts: likewise.
        stream_names: none; further logits are not asked for.
        steps: 0; maps of each step are not asked for.
    """

    class_stages: int = 0
    bound_parts: int = 0
    stream_names: tuple[str, ...] = ()
    steps = 0

    def __init__(self, method: Any, explainer: Explainer, fresh: Any | None = None) -> None:
        super().__init__()
        self.method, self.fresh, self.explainer = method, fresh, explainer
        parts = method.parts if explainer.parts == "own" else explainer.parts
        self.parts: int | None = parts
        if explainer.parts == "own":
            self.class_stages, self.bound_parts = method.class_stages, method.bound_parts

    def forward(self, batch: Batch, index: Int[Tensor, " b"] | None = None) -> Output:
        """The method's logits with the explainer's saliency and parts, for the index-th logit or the largest."""
        with torch.no_grad():  # explainers switch gradients on where they need them
            if self.fresh is None:
                return self.explainer(self.method, batch, index)
            logits = self.method.respond(batch).logits
            shown = self.explainer(self.fresh, batch, logits.argmax(1) if index is None else index)
            return shown._replace(logits=logits)

    def show(self, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"]) -> Output:
        """What the network that is explained says, with the evidence for one class of each image."""
        output: Output = (self.fresh or self.method).show(image, index)
        return output

    def normalise(self, image: UInt8[Tensor, "b 3 h w"]) -> Tensor:
        """As the method does it."""
        normalised: Tensor = self.method.normalise(image)
        return normalised

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise on the device, as the method does it."""
        normalised: Batch = self.method.on_after_batch_transfer(batch, dataloader_idx)
        return normalised

    def respond(self, batch: Batch) -> Output:
        """What is said and shown of a batch, as a method's ``respond``."""
        output: Output = self(batch)
        return output

    def on_test_start(self) -> None:
        """What was fitted is the same to the last bit in all processes: that of the first."""
        if self.explainer.state is not None:
            self.explainer.state = self.trainer.strategy.broadcast(self.explainer.state.cpu()).to(self.device)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Output]:
        """The output; the scoring callback measures it."""
        return {"output": self.respond(batch)}
