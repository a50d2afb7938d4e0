"""Explainers by name: what can stand in for a method's own evidence.

A name is one of ``EXPLAINERS``, with a number of parts behind ``dff`` and ``random_parts`` (``dff9``; 5 without), and
``random_weights+`` before it for the same evidence of a network with fresh weights: what remains then was not learned
(Adebayo et al., NeurIPS 2018). ``random_weights`` alone is ``random_weights+own``.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fgbench.explain import dff, floor_maps, gradients
from fgbench.types import Batch, Output

PARTS = 5  # of explainers that make parts, unless their name says otherwise
FIT_IMAGES = 256  # of the training split that a factorisation is found on
RANDOM = "random_weights"


class ExplainerError(ValueError):
    """There is no such explainer, or it cannot explain this method."""


class Asked:
    """A network that answers for one batch, as it does in a test: with the images' numbers and all else it uses.

    Only images change: what explainers ask about are images near to those of the batch.

    Attributes:
        asks: the network.
        batch: with normalised images.
    """

    def __init__(self, network: Any, batch: Batch) -> None:
        self.asks, self.batch = network, batch

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """What the network says of these images in the place of the batch's."""
        output: Output = self.asks.respond(self.batch._replace(image=image))
        return output

    def __getattr__(self, name: str) -> Any:
        """Everything else is the network's."""
        return getattr(self.asks, name)


@dataclass
class Explainer:
    """Evidence for a batch: a network's own output, with saliency and parts from elsewhere.

    Attributes:
        name: as a row of the leaderboard has it.
        explain: of network, batch with normalised images, and the index of each image's logit that is explained (None:
            the largest): the output with the evidence.
        parts: number of part maps; None without parts, ``own`` for as many as the method has.
        fit_images: how many images of the training split it must see first; 0 for none.
        state: what it learned of them.
    """

    name: str
    explain: Callable[["Explainer", Any, Batch, Tensor | None], Output]
    parts: int | Literal["own"] | None = None
    fit_images: int = 0
    state: Tensor | None = None

    def __call__(self, network: Any, batch: Batch, index: Tensor | None = None) -> Output:
        """The output with the evidence."""
        return self.explain(self, network, batch, index)

    def fit(self, network: Any, batches: Iterable[Tensor]) -> None:
        """Learn from normalised images of the training split."""
        features = []
        with gradients.frozen(network), torch.no_grad():
            for image in batches:
                with gradients.tap(network, cut=False) as found:
                    network(image)
                rows = found[0].float().clamp(min=0).permute(0, 2, 3, 1)
                features.append(rows.flatten(0, 2))
        if not isinstance(self.parts, int) or not features:
            raise ExplainerError(f"{self.name}: there is nothing to fit")
        self.state = dff.factorise(torch.cat(features), self.parts)[1]


def _own(explainer: Explainer, network: Any, batch: Batch, index: Tensor | None) -> Output:
    if index is not None and (network.class_stages or network.bound_parts):  # its parts are of a class: that one's
        shown: Output = network.show(batch.image, index)
        return shown
    output: Output = network.respond(batch)
    return output if index is None else output._replace(saliency=network.explain_batch(batch, index))


def _saliency(find: Callable[..., gradients.Cam]) -> Callable[..., Output]:
    def explain(explainer: Explainer, network: Any, batch: Batch, index: Tensor | None) -> Output:
        output, saliency = find(Asked(network, batch), batch.image, index)
        return Output(output.logits, saliency)

    return explain


def _floor(find: Callable[[Batch], Float[Tensor, "b u v"]]) -> Callable[..., Output]:
    def explain(explainer: Explainer, network: Any, batch: Batch, index: Tensor | None) -> Output:
        return Output(network.respond(batch).logits, find(batch))

    return explain


def _random_parts(explainer: Explainer, network: Any, batch: Batch, index: Tensor | None) -> Output:
    parts = explainer.parts if isinstance(explainer.parts, int) else PARTS
    return Output(network.respond(batch).logits, None, floor_maps.random_part_maps(batch, parts))


def _dff(explainer: Explainer, network: Any, batch: Batch, index: Tensor | None) -> Output:
    if explainer.state is None:
        raise ExplainerError(f"{explainer.name}: it must be fitted on images of the training split first")
    with torch.no_grad(), gradients.tap(network, cut=False) as found:
        output: Output = network.respond(batch)
        maps = dff.part_maps(found[0], explainer.state.to(found[0].device))
        return Output(output.logits, None, network.over_image(maps, batch.image))


class Kind(NamedTuple):
    """How an explainer is made, and what it is in one line."""

    explain: Callable[..., Output]
    text: str
    makes_parts: bool = False
    fit_images: int = 0


EXPLAINERS: dict[str, Kind] = {
    "own": Kind(_own, "the method's own evidence"),
    "cam": Kind(_saliency(gradients.cam), "class activation map; where logits are linear in the mean of the map"),
    "gradcam": Kind(_saliency(gradients.grad_cam), "Grad-CAM at the backbone's last stage"),
    "guided_gradcam": Kind(_saliency(gradients.guided_grad_cam), "Guided Grad-CAM"),
    "integrated_gradients": Kind(_saliency(gradients.integrated), "integrated gradients from black, 32 points"),
    "dff": Kind(_dff, "parts by deep feature factorisation of the last stage's map", True, FIT_IMAGES),
    "centre": Kind(_floor(floor_maps.centre_map), "floor: the image's centre"),
    "box_centre": Kind(_floor(floor_maps.box_map), "ceiling: the true box's centre"),
    "random_map": Kind(_floor(partial(floor_maps.random_map, seed=0)), "floor: a random map of each image"),
    "random_parts": Kind(_random_parts, "floor: random points as parts", True),
}


def parse(name: str) -> tuple[bool, str, int | None]:
    """Whether the weights are fresh, which kind, and how many parts; as a name says.

    >>> parse("random_weights+dff9"), parse("random_weights"), parse("gradcam")
    ((True, 'dff', 9), (True, 'own', None), (False, 'gradcam', None))

    Raises:
        ExplainerError: there is no such explainer; lists those that there are.
    """
    fresh = name == RANDOM or name.startswith(f"{RANDOM}+")
    rest = name.removeprefix(RANDOM).removeprefix("+") if fresh else name
    found = re.fullmatch(r"([a-z_]+?)(\d*)", rest or "own")
    kind, number = (found[1], found[2]) if found else ("", "")
    if kind not in EXPLAINERS or (number and (not EXPLAINERS[kind].makes_parts or int(number) < 1)):
        known = ", ".join([*EXPLAINERS, RANDOM])
        raise ExplainerError(
            f"there is no explainer {name!r}; known: {known}. dff and random_parts take a number of parts (dff9), "
            f"{RANDOM}+ before a name explains a network with fresh weights"
        )
    return fresh, kind, (int(number) if number else PARTS) if EXPLAINERS[kind].makes_parts else None


def make_explainer(name: str) -> Explainer:
    """The explainer of a name, whatever the weights.

    Raises:
        ExplainerError: there is none.
    """
    _, kind, parts = parse(name)
    found = EXPLAINERS[kind]
    return Explainer(name, found.explain, "own" if kind == "own" else parts, found.fit_images)
