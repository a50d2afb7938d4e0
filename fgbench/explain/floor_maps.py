"""The floors as maps: what saliency and parts are worth that look at nothing, measured by any metric of maps.

Points come from ``floors``; here they become maps that metrics of points, of masses and of masks can all read. Like
those, they are pure functions of a batch: random ones depend on ``image_id`` and a seed only.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from fgbench.explain import floors
from fgbench.types import Batch

CELLS = 28  # rows and columns of random maps
WIDTH = 0.25  # standard deviation of a centre's Gaussian, in sides of the image or of the box


def centre_map(batch: Batch) -> Float[Tensor, "b h w"]:
    """A Gaussian at the image's centre, a quarter of the sides wide."""
    size = floors.size_of(batch)
    return _gaussian(batch, floors.image_centre(batch)[:, 0], (size * WIDTH).expand(len(batch.image), 2))


def box_map(batch: Batch) -> Float[Tensor, "b h w"]:
    """A Gaussian at the centre of the first valid box, a quarter of its sides wide; the image's without a box."""
    spread = (floors.size_of(batch) * WIDTH).expand(len(batch.image), 2)
    if batch.boxes.shape[1]:
        image = torch.arange(len(batch.image), device=batch.boxes.device)
        corners = batch.boxes.double()[image, batch.box_valid.to(torch.uint8).argmax(1)].unflatten(1, (2, 2))
        own = ((corners[:, 1] - corners[:, 0]).abs() * WIDTH).clamp(min=1)  # a flip exchanges the corners
        spread = torch.where(batch.box_valid.any(1)[:, None], own, spread)
    return _gaussian(batch, floors.box_centre(batch)[:, 0], spread)


def random_map(batch: Batch, seed: int = 0) -> Float[Tensor, "b u v"]:
    """Independent uniform numbers in ``CELLS`` x ``CELLS`` cells."""
    drawn: Tensor = floors.random_numbers(batch, CELLS * CELLS, seed).float().unflatten(1, (CELLS, CELLS))
    return drawn


def random_part_maps(batch: Batch, parts: int, seed: int = 0) -> Float[Tensor, "b p u v"]:
    """All of a part's mass at a point drawn uniformly from the image, shared by the four cells around it.

    So the centre of mass is the point; points beyond the centres of the outermost cells are moved to them.
    """
    points = floors.random_parts(batch, parts, seed) / floors.size_of(batch) * CELLS - 0.5
    cell = torch.arange(CELLS, device=points.device)
    hats = (1 - (points.clamp(0, CELLS - 1)[..., None] - cell).abs()).clamp(min=0).float()
    return torch.einsum("bpu,bpv->bpuv", hats[:, :, 1], hats[:, :, 0])


def _gaussian(batch: Batch, centre: Float64[Tensor, "b 2"], spread: Float64[Tensor, "b 2"]) -> Float[Tensor, "b h w"]:
    """Separable, 1 at the centre."""
    height, width = batch.image.shape[2:]
    curves = []
    for axis, pixels in ((1, height), (0, width)):
        place = torch.arange(pixels, dtype=torch.float64, device=centre.device) + 0.5
        curves.append((-0.5 * ((place - centre[:, axis, None]) / spread[:, axis, None]).square()).exp().float())
    return torch.einsum("bu,bv->buv", *curves)
