"""What evidence is worth that looks at nothing: the centre of the image, of the box, and random points.

All are pure functions of a batch, in the coordinates of ``fgbench.types``; random ones depend on ``image_id`` and a
seed only, so they do not change with the batch, the process or the order of images.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from fgbench.layers.hashed import hashed_uniform
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
    fractions: Tensor = hashed_uniform(batch.image_id[:, None], draws, seed).unflatten(1, (parts, 2))
    return fractions * size_of(batch)


def random_numbers(batch: Batch, count: int, seed: int = 0) -> Float64[Tensor, "b {count}"]:
    """Numbers drawn uniformly from [0, 1), independent for each image."""
    return hashed_uniform(batch.image_id[:, None], torch.arange(count, device=batch.image_id.device), seed)


def size_of(batch: Batch) -> Float64[Tensor, " 2"]:
    """Width and height of the input, filled in on the device: copying them there would wait for it at every step."""
    device = batch.image_id.device
    return torch.stack([torch.full((), side, dtype=torch.float64, device=device) for side in batch.image.shape[:1:-1]])
