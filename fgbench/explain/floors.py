"""What evidence is worth that looks at nothing: the centre of the image, of the box, and random points.

All are pure functions of a batch, in the coordinates of ``fgbench.types``; random ones depend on ``image_id`` and a
seed only, so they do not change with the batch, the process or the order of images.
"""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from fgbench.types import Batch


def image_centre(batch: Batch) -> Float64[Tensor, "b 1 2"]:
    """The centre of the input."""
    return size_of(batch).expand(len(batch.image_id), 1, 2) / 2


def box_centre(batch: Batch) -> Float64[Tensor, "b 1 2"]:
    """The centre of an image's first valid box; the image's centre where there is no box."""
    if batch.boxes.shape[1] == 0:
        return image_centre(batch)
    first = batch.box_valid.to(torch.uint8).argmax(1)
    box = batch.boxes.double()[torch.arange(len(first), device=first.device), first]
    centre = (box[:, :2] + box[:, 2:]) / 2
    return torch.where(batch.box_valid.any(1)[:, None], centre, size_of(batch) / 2)[:, None]


def random_parts(batch: Batch, parts: int, seed: int = 0) -> Float64[Tensor, "b p 2"]:
    """Points drawn uniformly from the input, independent for each image and part.

    The first ones do not depend on ``parts``.
    """
    draws = torch.arange(2 * parts, device=batch.image_id.device)
    fractions: Tensor = _uniform(batch.image_id[:, None], draws, seed).unflatten(1, (parts, 2))
    return fractions * size_of(batch)


def random_numbers(batch: Batch, count: int, seed: int = 0) -> Float64[Tensor, "b {count}"]:
    """Numbers drawn uniformly from [0, 1), independent for each image."""
    return _uniform(batch.image_id[:, None], torch.arange(count, device=batch.image_id.device), seed)


def size_of(batch: Batch) -> Float64[Tensor, " 2"]:
    """Width and height of the input, filled in on the device: copying them there would wait for it at every step."""
    device = batch.image_id.device
    return torch.stack([torch.full((), side, dtype=torch.float64, device=device) for side in batch.image.shape[:1:-1]])


def _uniform(image_id: Int64[Tensor, "b 1"], draw: Int64[Tensor, " n"], seed: int) -> Float64[Tensor, "b n"]:
    """Numbers in [0, 1) that depend on the arguments only: the mixing function of SplitMix64 (Steele et al., 2014)."""
    state = (image_id * 0x100000001B3 + draw + 1) * _signed(0x9E3779B97F4A7C15) + seed * 0x632BE59BD9B4E019 % 2**63
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        state = (state ^ _shifted(state, shift)) * _signed(factor)
    return _shifted(state, 11).double() / 2**53


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _shifted(state: Int64[Tensor, "b n"], bits: int) -> Int64[Tensor, "b n"]:
    """Shift to the right without the sign."""
    return torch.bitwise_and(state >> bits, 2 ** (64 - bits) - 1)
