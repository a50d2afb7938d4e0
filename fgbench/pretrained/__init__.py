"""Files of weights: what they hold, what they say of themselves, and the suite's own.

``toybirds_v1`` is resnet_tiny trained on the species 11 to 110 of toybirds: for toy data, what ImageNet is for
photographs. No image of the default protocol's ten species was used. It is the last checkpoint of ``make bench
METHOD=baseline DATASET=toybirds_others SEED=0``, written by ``fgbench weights``; its metadata name the commit.

May import: the standard library, torch, safetensors. Must not import: any room. Reads: weights files. Writes: nothing.
"""

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

TORCHVISION = "imagenet1k_v1"
SHIPPED = {"toybirds_v1": Path(__file__).parent / "resnet_tiny_toybirds_v1.safetensors"}
NAMED = (TORCHVISION, *SHIPPED)

Colour = tuple[float, float, float]


class WeightsError(ValueError):
    """Weights that cannot be used; the message names the file and what to do."""


def read_weights(path: str) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """Tensors by name, and the metadata of a safetensors file. Nothing in the file is executed.

    Raises:
        WeightsError: if there is no such file, or it holds no weights.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(
            f"{path}: no such file; weights are null, {', '.join(NAMED)}, or a path to a .safetensors, .pth or .pt file"
        )
    if file.suffix not in (".safetensors", ".pth", ".pt"):
        raise WeightsError(f"{path}: weights files end in .safetensors, .pth or .pt")
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as content:
                return {name: content.get_tensor(name) for name in content.keys()}, content.metadata() or {}  # noqa: SIM118
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: not a weights file, or damaged ({reason}); save a state_dict again") from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: holds no tensors by name; save network.state_dict() into it")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}, {}


def weight_tag(weights: str | None) -> str:
    """What the leaderboard says of the weights: where they are from, a file with a digest of its content.

    >>> weight_tag(None), weight_tag("imagenet1k_v1")
    ('none', 'torchvision/imagenet1k_v1')
    """
    if weights is None:
        return "none"
    if weights == TORCHVISION:
        return f"torchvision/{TORCHVISION}"
    path = SHIPPED.get(weights, Path(weights))
    if not path.is_file():
        raise WeightsError(f"{weights}: no such file; weights are null, {', '.join(NAMED)}, or a path to a file")
    with path.open("rb") as file:  # not cached: two writes can share a time stamp
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    return f"fgbench/{weights}@{digest}" if weights in SHIPPED else f"file:{path.name}@{digest}"


def check_arch(path: str, arch: str, said: str | None) -> None:
    """Refuse a file whose metadata name another architecture.

    Raises:
        WeightsError: names both.
    """
    words = re.findall(r"[\w.]+", said or arch)
    if arch not in words:
        raise WeightsError(f"{path}: says that it is for {said!r}, but the backbone is {arch!r}")


def colour_of(path: str, key: Literal["mean", "std"], said: str | None) -> Colour | None:
    """Three numbers of a file's metadata; None where it does not say.

    Raises:
        WeightsError: it says something else.
    """
    if said is None:
        return None
    try:
        red, green, blue = (float(number) for number in said.split(","))
    except ValueError:
        raise WeightsError(
            f"{path}: its metadata say {key}={said!r}, not three numbers; give {key} in the configuration"
        ) from None
    return red, green, blue
