"""Saliency from gradients, for any network with a backbone: CAM, Grad-CAM, Guided Grad-CAM, integrated gradients.

* CAM (Zhou et al., CVPR 2016): the linear layer's weights applied to each cell, cut at zero; only where the logits are
  a linear function of the map's mean.
* Grad-CAM (Selvaraju et al., ICCV 2017): the same with the gradient's mean over cells for weights. Where there is a
  CAM, both are equal up to the number of cells.
* Guided Grad-CAM (same paper): guided backpropagation (Springenberg et al., 2015), times Grad-CAM resized to the image.
  The paper says nothing of turning three colours into one map: here it is the largest absolute value over colours, as
  Simonyan et al. (2014) do for gradients.
* Integrated gradients (Sundararajan et al., 2017): from black to the image, Gauss-Legendre points along the line,
  summed over colours; what speaks against the class is cut off.

The map of both CAMs is that of the backbone's last stage, whatever follows it. All are of one logit per image, the
largest one by default (for attributes too). Images of a batch do not mix in evaluation mode, so the gradient of the
sum of the chosen logits is, for each image, the gradient of its own. No parameter gets a gradient or a graph, and
gradients are asked for with ``torch.autograd.grad``, which leaves no trace under DDP.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fgbench.types import Output

STEPS = 32  # points of the integral


@runtime_checkable
class Network(Protocol):
    """What an explainer asks of a method; every ``Method`` is one.

    Its ``backbone.stages[-1]`` gives the map that CAMs are made of.
    """

    backbone: Any
    training: bool

    def __call__(self, image: Tensor) -> Output:
        """Logits of normalised images."""

    def normalise(self, image: Tensor) -> Tensor:
        """RGB bytes as the network wants them."""

    def over_image(self, maps: Tensor, image: Tensor) -> Tensor:
        """Maps (``b n u v``) over what the backbone sees, as maps over the image."""

    def linear_evidence(self) -> Tensor | None:
        """``k d``, where logits are linear in the mean of the backbone's map."""


class Cam(NamedTuple):
    """What an explainer found: the network's output, and ``b u v`` saliency over the image."""

    output: Output
    saliency: Tensor


@contextmanager
def frozen(network: Any) -> Iterator[None]:
    """Inside, gradients are computed, in evaluation mode, and no parameter wants one; afterwards all is as before."""
    wanting = [parameter for parameter in network.parameters() if parameter.requires_grad]
    modes = [(module, module.training) for module in network.modules()] if network.training else []
    if modes:
        network.eval()
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


@contextmanager
def tap(network: Any, cut: bool) -> Iterator[list[Tensor]]:
    """The map of the backbone's last stage, once the network has run: the first, where it runs twice (mirrored images).

    Args:
        network: to be run inside.
        cut: start the graph at the map, so that nothing before it is remembered.
    """
    found: list[Tensor] = []

    def keep(stage: nn.Module, arguments: Any, result: Tensor) -> Tensor | None:
        if found:
            return None
        found.append(result.detach().requires_grad_() if cut else result)
        return found[0]

    handle = network.backbone.stages[-1].register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def chosen(logits: Float[Tensor, "b k"], index: Int[Tensor, " b"] | None) -> Float[Tensor, ""]:
    """The sum over images of one logit each, the largest by default."""
    index = logits.detach().argmax(1) if index is None else index
    return logits.gather(1, index[:, None]).sum()


def weigh(maps: Float[Tensor, "b d u v"], weights: Float[Tensor, "b d"]) -> Float[Tensor, "b u v"]:
    """The positive part of the weighted sum of channels, in float32."""
    with torch.autocast(maps.device.type, enabled=False):
        return torch.einsum("bd,bduv->buv", weights.float(), maps.detach().float()).relu()


def cam(network: Network, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"] | None = None) -> Cam:
    """Class activation maps.

    Raises:
        ValueError: the network's logits are not linear in the mean of its map.
    """
    evidence = network.linear_evidence()
    if evidence is None:
        raise ValueError(
            f"{named(network)} has no CAM as configured: its logits are not a linear function of the mean of "
            "the backbone's map. Take gradcam, which is the same where there is a CAM"
        )
    with frozen(network), torch.no_grad(), tap(network, cut=False) as found:
        output = network(image)
        index = output.logits.argmax(1) if index is None else index
        saliency = weigh(found[0], evidence[index])
        return Cam(output, network.over_image(saliency[:, None], image)[:, 0])


def grad_cam(network: Network, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"] | None = None) -> Cam:
    """Grad-CAM at the last stage; one forward pass, and backward through what follows the stage only."""
    with frozen(network), tap(network, cut=True) as found:
        output = network(image)
        (gradient,) = torch.autograd.grad(chosen(output.logits, index), found[0])
    return Cam(detached(output), _over_image(network, found[0], gradient, image))


def guided_grad_cam(network: Network, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"] | None = None) -> Cam:
    """Guided backpropagation times Grad-CAM, at the image's resolution; one forward pass, one backward."""
    image = image.detach().requires_grad_()
    rule = GuidedRule()
    with frozen(network), tap(network, cut=False) as found, rule:
        output = network(image)
        score = chosen(output.logits, index)
        (gradient,) = torch.autograd.grad(score, found[0], retain_graph=True)
        rule.guides = True
        (guided,) = torch.autograd.grad(score, image)
    image = image.detach()
    coarse = _over_image(network, found[0], gradient, image)
    size = (image.shape[2], image.shape[3])
    large = nn.functional.interpolate(coarse[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return Cam(detached(output), guided.abs().amax(1).float() * large)


def integrated_gradients(
    network: Network, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"] | None = None, steps: int = STEPS
) -> tuple[Output, Float[Tensor, "b 3 h w"]]:
    """What each value of the image adds to the logit, compared with a black image.

    Over an image these add up to the difference of both logits, as far as the points of the integral are dense enough.
    """
    black = network.normalise(torch.zeros(1, 3, 1, 1, dtype=torch.uint8, device=image.device)).to(image.dtype)
    with frozen(network), torch.no_grad():
        output = network(image)
    index = output.logits.argmax(1) if index is None else index
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(image)
    with frozen(network):
        for node, weight in zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True):
            point = torch.lerp(black.expand_as(image), image, node).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(chosen(network(point).logits, index), point)
            total += weight * gradient
    return output, total * (image - black)


def integrated(network: Network, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"] | None = None) -> Cam:
    """The positive part of ``integrated_gradients``, summed over colours."""
    output, attribution = integrated_gradients(network, image, index)
    return Cam(output, attribution.sum(1).relu().float())


def named(network: Any) -> str:
    """The name of a network's class, also of one that is asked for a batch (``explainers.Asked``)."""
    return type(getattr(network, "asks", network)).__name__


def detached(output: Output) -> Output:
    """An output without its graph."""
    return Output._make(None if value is None else value.detach() for value in output)


def _over_image(network: Network, maps: Tensor, gradient: Tensor, image: Tensor) -> Float[Tensor, "b u v"]:
    """Grad-CAM from a map and its gradient."""
    saliency = weigh(maps, gradient.float().mean((2, 3)))
    with torch.no_grad():
        return network.over_image(saliency[:, None], image)[:, 0]


# ---- guided backpropagation


class _Clipped(torch.autograd.Function):
    """ReLU, or with a ``top`` ReLU6, whose backward pass asks the rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float | None, rule: "GuidedRule") -> Tensor:
        y = x.clamp(0, top) if top is not None else x.clamp(min=0)
        ctx.save_for_backward(y)
        ctx.top, ctx.rule = top, rule
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient, (y,) = gradients[0], ctx.saved_tensors
        if ctx.rule.guides:
            gradient = gradient.clamp(min=0)
        if ctx.top is not None:
            return torch.ops.aten.hardtanh_backward(gradient, y, 0.0, ctx.top), None, None
        return torch.ops.aten.threshold_backward(gradient, y, 0.0), None, None


class GuidedRule(TorchFunctionMode):
    """Inside, every ReLU and ReLU6, be it a module or a function, in place or not, follows the guided rule.

    Its gradient passes where the input was positive (and below 6) and, while ``guides`` is set, where it is positive
    itself. In-place ones do not overwrite their input: a graph could not be walked twice otherwise. Modules stay as
    they are; other activations keep their own gradients.

    Attributes:
        guides: whether backward passes follow the rule; else they are ordinary.
    """

    RELU = frozenset(
        [torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_, nn.functional.relu, nn.functional.relu_]
    )
    HARDTANH = frozenset([nn.functional.hardtanh, nn.functional.hardtanh_])

    def __init__(self) -> None:
        super().__init__()
        self.guides = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        tops: dict[Any, float | None] = dict.fromkeys(self.RELU) | {nn.functional.relu6: 6.0}
        if func in self.HARDTANH:
            low, high = (*args[1:3], given.get("min_val", -1.0), given.get("max_val", 1.0))[:2]
            tops |= {func: float(high)} if low == 0 else {}
        if func not in tops:
            return func(*args, **given)
        return _Clipped.apply(_input(args, given), tops[func], self)  # type: ignore[no-untyped-call]  # torch's own


def _input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The first argument of an activation."""
    tensor: Tensor = args[0] if args else kwargs["input"]
    return tensor
