"""What a method asks of a frozen network, once for every image, before training: its class, and how it is read back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Preparation:
    """A frozen network's word on every image of a dataset, computed once in the test view, in float32.

    The phase ``prepare`` computes and stores it; loaders hand it on as ``Batch.prepared``. Runs whose key, data and
    view agree share one store.

    Attributes:
        name: what it is, one word: ``maps``, ``patches``; the store's folder begins with it.
        module: from normalised images ``b 3 h w`` to a tensor ``b ...``; its other axes are the same for all images.
        key: all that can change a value and is known here: tag of the weights, layer, normalisation, options. Data,
            view and ``dtype`` are added.
        dtype: of the stored rows; float16 has 11 bits, and its largest number is 65,504.
        replaces_image: the method needs no pixel of an image whose row it has. Then loaders decode none, and training
            sees every image in the test view, as its row does: there is no augmentation.
        boxes: rows are boxes ``n 4``, ``x0 y0 x1 y1`` in pixels of the input; they are stored, and handed on, in
            pixels of the original files, so that ``Batch.frame`` takes them into any view (``layers.boxes.to_input``).
        advice: what makes the store smaller or does without it, with the options' names, for who has no room: part of a
            sentence, ``store nothing (--method.init_args.store none)``.
    """

    name: str
    module: nn.Module
    key: Mapping[str, Any]
    dtype: Literal["float16", "float32", "uint8", "int32"] = "float16"
    replaces_image: bool = False
    boxes: bool = False
    advice: str = ""

    def compute(self, image: Float[Tensor, "b 3 h w"]) -> Shaped[Tensor, "b ..."]:
        """The rows of a batch of normalised images."""
        found: Tensor = self.module(image)
        return found.to(getattr(torch, self.dtype))
