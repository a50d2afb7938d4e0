"""Backbones: torchvision's networks and tiny ones, cut into stages, with weights that know their normalisation.

A backbone is a list of stages. A stage ends where torchvision's network is about to halve its map, except that the last
convolution of MobileNetV2 belongs to its last stage. Strides of the stages, and channels:

==================  ==============================================================================
resnet18/34         4 (64), layer1 4 (64), layer2 8 (128), layer3 16 (256), layer4 32 (512)
resnet50/101        4 (64), layer1 4 (256), layer2 8 (512), layer3 16 (1024), layer4 32 (2048)
vgg16/16_bn/19      1 (64), 2 (128), 4 (256), 8 (512), 16 (512): each begins with a pool; the fifth pool is left out
mobilenet_v2        2 (16), 4 (24), 8 (32), 16 (96), 32 (1280)
squeezenet1_1       2 (64), 4 (128), 8 (256), 16 (512); no padding, so 224 pixels give 13 cells
resnet_tiny         2 (32), layer1 4 (32), layer2 8 (64), layer3 8 (96), layer4 8 (96): 0.4 M parameters, for toybirds
resnet_nano         2 (8), layer1 4 (8), layer2 8 (16), layer3 16 (16): for tests
==================  ==============================================================================

A method that asks for a map of at most stride 16 therefore gets conv1..layer3 of a ResNet and conv1..conv5_3 of a VGG.
The classification heads are left out; who uses a backbone pools its map.

May import: layers, types, pretrained. Must not import: any other room. Reads: weights files. Writes: those that it is
told to, and torchvision's download cache.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import cfgs, make_layers

from fgbench.pretrained import (
    SHIPPED,
    TORCHVISION,
    Colour,
    WeightsError,
    check_arch,
    colour_of,
    read_weights,
    weight_tag,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Architecture(NamedTuple):
    """How a network is built and cut.

    Attributes:
        build: the network, randomly initialised; its parameter names are those of weights files.
        cut: its stages, sharing its parameters.
        channels: of each stage.
        strides: of each stage.
        heads: prefixes of parameters that the stages do not use.
        pretrained: name of torchvision's ImageNet V1 weights.
    """

    build: Callable[[], nn.Module]
    cut: Callable[[nn.Module], list[nn.Sequential]]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    heads: tuple[str, ...]
    pretrained: str | None


class TinyResNet(nn.Module):
    """A residual network of basic blocks with a small stem, with torchvision's names.

    Args:
        widths: channels of the stem, which also are those of layer1, and of the layers after it.
        strides: of the layers; the stem has stride 2.
    """

    def __init__(self, widths: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        before = widths[0]
        for number, (width, stride) in enumerate(zip(widths, strides, strict=True), start=1):
            shortcut = None
            if stride != 1 or before != width:
                shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            setattr(self, f"layer{number}", BasicBlock(before, width, stride, shortcut))
            before = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class VGGFeatures(nn.Module):
    """The convolutions of a VGG under torchvision's names (without building its 120 M parameters of classifier).

    With batch norm, torch's own initialisation stays: that of the authors who train this network from scratch.
    """

    def __init__(self, layout: str, batch_norm: bool = False) -> None:
        super().__init__()
        self.features = make_layers(cfgs[layout], batch_norm=batch_norm)
        for module in [] if batch_norm else self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.constant_(cast(Tensor, module.bias), 0)


def _cut_resnet(net: nn.Module) -> list[nn.Sequential]:
    stem = [getattr(net, name) for name in ("conv1", "bn1", "relu", "maxpool") if hasattr(net, name)]
    layers = [getattr(net, name) for name in ("layer1", "layer2", "layer3", "layer4") if hasattr(net, name)]
    return [nn.Sequential(*stem), *(nn.Sequential(layer) for layer in layers)]


def _cut_features(net: nn.Module, starts: tuple[int, ...]) -> list[nn.Sequential]:
    features = cast(nn.Sequential, net.features)
    ends = (*starts[1:], len(features))
    return [nn.Sequential(*list(features)[start:end]) for start, end in zip(starts, ends, strict=True)]


def _cut_vgg(net: nn.Module) -> list[nn.Sequential]:
    features = cast(nn.Sequential, net.features)
    pools = [i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    starts = (0, *pools)
    return [nn.Sequential(*list(features)[start:end]) for start, end in zip(starts, pools, strict=False)]


def _resnet(name: str, channels: tuple[int, ...]) -> Architecture:
    build = getattr(models, name)
    return Architecture(build, _cut_resnet, channels, (4, 4, 8, 16, 32), ("fc.",), f"ResNet{name[6:]}_Weights")


def _tiny(widths: tuple[int, ...], strides: tuple[int, ...]) -> Architecture:
    reached = [2]
    for stride in strides:
        reached.append(reached[-1] * stride)
    build = partial(TinyResNet, widths, strides)
    return Architecture(build, _cut_resnet, (widths[0], *widths), tuple(reached), ("fc.",), None)


def _vgg(name: str, layout: str, batch_norm: bool = False) -> Architecture:
    channels, strides = (64, 128, 256, 512, 512), (1, 2, 4, 8, 16)
    build = partial(VGGFeatures, layout, batch_norm)
    return Architecture(build, _cut_vgg, channels, strides, ("classifier.",), f"{name}_Weights")


def _by_features(
    name: str, starts: tuple[int, ...], channels: tuple[int, ...], strides: tuple[int, ...]
) -> Architecture:
    weights = {"mobilenet_v2": "MobileNet_V2_Weights", "squeezenet1_1": "SqueezeNet1_1_Weights"}[name]
    build, cut = getattr(models, name), partial(_cut_features, starts=starts)
    return Architecture(build, cut, channels, strides, ("classifier.",), weights)


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": _resnet("resnet18", (64, 64, 128, 256, 512)),
    "resnet34": _resnet("resnet34", (64, 64, 128, 256, 512)),
    "resnet50": _resnet("resnet50", (64, 256, 512, 1024, 2048)),
    "resnet101": _resnet("resnet101", (64, 256, 512, 1024, 2048)),
    "vgg16": _vgg("VGG16", "D"),
    "vgg16_bn": _vgg("VGG16_BN", "D", batch_norm=True),
    "vgg19": _vgg("VGG19", "E"),
    "mobilenet_v2": _by_features("mobilenet_v2", (0, 2, 4, 7, 14), (16, 24, 32, 96, 1280), (2, 4, 8, 16, 32)),
    "squeezenet1_1": _by_features("squeezenet1_1", (0, 2, 5, 8), (64, 128, 256, 512), (2, 4, 8, 16)),
    "resnet_tiny": _tiny((32, 64, 96, 96), (2, 2, 1, 1)),
    "resnet_nano": _tiny((8, 16, 16), (2, 2, 2)),
}


class Backbone(nn.Module):
    """An architecture's first stages with weights.

    Args:
        arch: name of an architecture, a key of ``ARCHITECTURES``.
        weights: None (from scratch), ``imagenet1k_v1`` (torchvision's, through its own loader), ``toybirds_v1`` (the
            suite's, of resnet_tiny), or a path to a .safetensors, .pth or .pt file with torchvision's names. The
            metadata of a safetensors file may say ``arch``, ``mean``, ``std`` and ``source``.
        stages: how many stages; None for all (all up to ``stride``, if that is given).
        stride: largest stride of the map. Later stages, where ``stages`` asks for them, run dilated instead of strided.
        unstrided: numbers of stages, counted from 0 (-1: the last), that keep the size of their map, without dilation:
            the map is finer, and later layers see less of the image than their weights were trained on. Not with
            ``stride``.
        mean: per channel, of RGB in [0, 1]; None takes what the weights say, else ImageNet's.
        std: like ``mean``.

    Raises:
        ValueError: for an architecture that is not known, or stages that it does not have.
        WeightsError: for weights that do not fit.
    """

    _scale: Tensor
    _shift: Tensor

    def __init__(
        self,
        arch: str,
        weights: str | None = None,
        *,
        stages: int | None = None,
        stride: int | None = None,
        unstrided: tuple[int, ...] = (),
        mean: Colour | None = None,
        std: Colour | None = None,
    ) -> None:
        super().__init__()
        if arch not in ARCHITECTURES:
            raise ValueError(f"there is no backbone {arch!r}; known: {', '.join(ARCHITECTURES)}")
        spec = ARCHITECTURES[arch]
        if stages is None:
            stages = len(spec.strides) if stride is None else sum(s <= stride for s in spec.strides)
        if not 1 <= stages <= len(spec.strides):
            raise ValueError(f"{arch} has stages 1 to {len(spec.strides)} (strides {spec.strides}), not {stages}")
        unstrided = tuple(number + stages if number < 0 else number for number in unstrided)
        if unstrided and (stride is not None or not all(0 < number < stages for number in unstrided)):
            raise ValueError(
                f"unstrided stages {unstrided} must be among 1 to {stages - 1} of {arch}, and exclude a largest stride "
                "(stage 0 holds the stem, whose stride stays)"
            )
        net = spec.build()
        own_mean, own_std = load_weights(net, arch, weights)
        self.arch = arch
        self.weight_tag = weight_tag(weights)
        self.mean, self.std = mean or own_mean or IMAGENET_MEAN, std or own_std or IMAGENET_STD
        self.channels = spec.channels[:stages]
        self.strides = tuple(min(s, stride or s) for s in spec.strides[:stages])
        self.stages = nn.ModuleList(spec.cut(net)[:stages])
        for stage, before, after in zip(self.stages[1:], spec.strides, spec.strides[1:stages], strict=False):
            if stride is not None and after > stride:
                dilate(stage, max(1, before // stride), after // stride)
        for number in unstrided:
            unstride(self.stages[number])
            halvings = spec.strides[number] // spec.strides[number - 1]
            self.strides = (*self.strides[:number], *(s // halvings for s in self.strides[number:]))
        # Tensors on the device: making them anew for each batch would wait for a GPU.
        scale, shift = [1 / (255 * s) for s in self.std], [-m / s for m, s in zip(self.mean, self.std, strict=True)]
        self.register_buffer("_scale", torch.tensor(scale).view(3, 1, 1), persistent=False)
        self.register_buffer("_shift", torch.tensor(shift).view(3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def content_tag(self) -> str:
        """``weight_tag``; where weights were drawn a digest of them, for these differ from seed to seed."""
        if self.weight_tag != weight_tag(None):
            return self.weight_tag
        content = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            content.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return f"drawn@{content.hexdigest()[:12]}"

    @property
    def out_channels(self) -> int:
        """Channels of the last stage."""
        return self.channels[-1]

    def normalise(self, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """RGB bytes as the weights want them, in channels-last memory."""
        pixels = image.contiguous(memory_format=torch.channels_last).float()
        return torch.addcmul(self._shift, pixels, self._scale)

    def to_bytes(self, image: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
        """The RGB that a normalised image was made from, for pictures."""
        return ((image - self._shift) / self._scale).round().clamp(0, 255).to(torch.uint8)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d u v"]:
        """The map after the last stage."""
        for stage in self.stages:
            image = stage(image)
        return image


def dilate(stage: nn.Module, before: int, after: int) -> None:
    """Turn a stage's stride into dilation: the map keeps its size, the weights keep their meaning.

    Args:
        stage: of strided convolutions, changed in place.
        before: cells of the map that enters, per cell that the weights were trained on.
        after: the same of the map that leaves.

    Raises:
        ValueError: if the stage pools instead of striding.
    """
    dilation = before
    for layer in stage.modules():
        if isinstance(layer, nn.MaxPool2d):
            raise ValueError("a stage that begins with a pool cannot be dilated; ask for fewer stages")
        if isinstance(layer, nn.Conv2d):
            strided = layer.stride[0] > 1
            layer.stride = (1, 1)
            layer.dilation = (layer.dilation[0] * dilation, layer.dilation[1] * dilation)
            layer.padding = tuple(d * (k // 2) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
            # The strided convolution itself still samples the old grid; what follows it must step over the new cells.
            dilation = after if strided else dilation


def unstride(stage: nn.Module) -> None:
    """Let a stage keep the size of its map: strides become 1, in shortcuts too; weights stay. A pool becomes 3 x 3."""
    for layer in stage.modules():
        if isinstance(layer, nn.MaxPool2d):
            layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode = 3, 1, 1, False
        elif isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)


def load_weights(net: nn.Module, arch: str, weights: str | None) -> tuple[Colour | None, Colour | None]:
    """Load into a whole network; every parameter outside of its head must be there, and no other.

    Returns:
        Mean and standard deviation of RGB in [0, 1] that the weights ask for; None where they do not say.

    Raises:
        WeightsError: names the file and lists what is missing or too much.
    """
    spec = ARCHITECTURES[arch]
    mean: Colour | None
    std: Colour | None
    if weights is None:
        return None, None
    if weights == TORCHVISION:
        if spec.pretrained is None:
            raise WeightsError(f"torchvision has no weights for {arch}; give weights: null or a file")
        state = getattr(models, spec.pretrained).IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    else:
        state, metadata = read_weights(str(SHIPPED.get(weights, weights)))
        check_arch(weights, arch, metadata.get("arch"))
        mean, std = (colour_of(weights, key, metadata.get(key)) for key in ("mean", "std"))
    own = net.state_dict()
    if not any(name in own for name in state):  # a file of ``net.features`` alone
        state = {f"features.{name}": tensor for name, tensor in state.items()}
    wanted = {name for name in own if not name.startswith(spec.heads)}
    given = {name for name in state if not name.startswith(spec.heads)}
    missing = sorted(name for name in wanted - given if not name.endswith("num_batches_tracked"))
    shapes = sorted(name for name in wanted & given if own[name].shape != state[name].shape)
    problems = {"missing": missing, "unexpected": sorted(given - wanted), "of another shape": shapes}
    if any(problems.values()):
        told = "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in problems.items() if names)
        raise WeightsError(
            f"{weights}: not the weights of {arch}: {told}. Choose the backbone that the file was saved from"
        )
    net.load_state_dict({name: state[name].to(own[name].dtype) for name in wanted & given}, strict=False)
    return mean, std


def save_weights(backbone: Backbone, path: Path, source: str) -> None:
    """Write a backbone as a safetensors file under torchvision's names, with its normalisation, whole or not at all.

    Args:
        backbone: with all stages of its architecture, none of them dilated.
        path: to be written.
        source: where the weights come from, for the file's metadata.

    Raises:
        WeightsError: stages are missing.
    """
    spec = ARCHITECTURES[backbone.arch]
    if backbone.strides != spec.strides:
        raise WeightsError(
            f"{path}: the backbone has stages of stride {backbone.strides}, but {backbone.arch} has {spec.strides}; "
            "save a run that uses the whole network"
        )
    net = spec.build()
    nn.ModuleList(spec.cut(net)).load_state_dict(backbone.stages.state_dict())
    state = {name: value for name, value in net.state_dict().items() if not name.startswith(spec.heads)}
    colours = {key: ",".join(f"{value:g}" for value in getattr(backbone, key)) for key in ("mean", "std")}
    write_tensors(path, state, {"arch": backbone.arch, "source": source, **colours})


def write_tensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(save({name: value.contiguous() for name, value in state.items()}, dict(metadata)))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
