"""Boxes cut out of an image on the device, maps of them put back into it, and boxes that look at nothing.

Boxes are ``x0 y0 x1 y1`` in input pixels, or, as ``fractions``, in units of the image's sides. Where a cut-out begins
and ends follows Shroff's code (thesis, Texas A&M 2020): the centres of its outer pixels are those of the box's outer
pixels, ``align_corners`` in torch's words.
"""

import math

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn.functional import grid_sample

from fgbench.layers.hashed import hashed_uniform
from fgbench.layers.patches import high_activation_boxes

GRID_SIDE = 0.42  # of the image's side: the released boxes cover 17.7 % of the image on average
AREAS = (
    0.05,
    0.5,
)  # shares of the image, of random boxes; the released ones lie between 0.053 and 0.999, 93 % below 0.5
ASPECT = 2.0  # width over height of random boxes: from 1 / 2 to 2
RASTER = 64  # rows and columns on which an activation map is cut


def cut(image: Float[Tensor, "b 3 h w"], boxes: Float[Tensor, "b n 4"], size: int) -> Float32[Tensor, "bn 3 s s"]:
    """The boxes' pixels, bilinearly resized to squares, all in one call; those of an image one after the other."""
    height, width = image.shape[2:]
    with torch.autocast(image.device.type, enabled=False):
        place = torch.arange(size, device=image.device) / max(size - 1, 1)
        x0, y0, x1, y1 = boxes.float().unbind(-1)
        columns = _between(x0, x1, place) * (2 / max(width - 1, 1)) - 1
        rows = _between(y0, y1, place) * (2 / max(height - 1, 1)) - 1
        grid = torch.stack(torch.broadcast_tensors(columns[:, :, None, :], rows[:, :, :, None]), -1)
        found = grid_sample(image.float(), grid.flatten(1, 2), padding_mode="border", align_corners=True)
        patches: Tensor = found.unflatten(2, (boxes.shape[1], size)).transpose(1, 2).flatten(0, 1)
        return patches.contiguous(memory_format=torch.channels_last)


def _between(low: Tensor, high: Tensor, place: Tensor) -> Float[Tensor, "b n s"]:
    """Indices of pixels from the first to the last one of the interval ``[low, high]``."""
    return low[..., None] + place * (high - 1 - low).clamp(min=0)[..., None]


def paste(
    maps: Float[Tensor, "b n t u v"], boxes: Float[Tensor, "b n 4"], image: tuple[int, int], cells: tuple[int, int]
) -> Float[Tensor, "b n t r c"]:
    """Maps of patches as maps of the image, zero outside of the box: bilinear, read at the centres of the new cells.

    Args:
        maps: ``t`` of each patch.
        boxes: where the patches are, input pixels.
        image: height and width, pixels.
        cells: rows and columns of the new maps.
    """
    (height, width), (rows, columns) = image, cells
    x0, y0, x1, y1 = boxes.to(maps.dtype).flatten(0, 1).unbind(-1)
    y = (torch.arange(rows, device=maps.device) + 0.5) * (height / rows)
    x = (torch.arange(columns, device=maps.device) + 0.5) * (width / columns)
    down = (y - y0[:, None]) / (y1 - y0).clamp(min=1e-6)[:, None]
    along = (x - x0[:, None]) / (x1 - x0).clamp(min=1e-6)[:, None]
    grid = torch.stack(torch.broadcast_tensors(2 * along[:, None, :] - 1, 2 * down[:, :, None] - 1), -1)
    inside = ((down >= 0) & (down <= 1))[:, :, None] & ((along >= 0) & (along <= 1))[:, None, :]
    found = grid_sample(maps.flatten(0, 1), grid.to(maps.dtype), padding_mode="border", align_corners=False)
    placed: Tensor = (found * inside[:, None]).unflatten(0, maps.shape[:2])
    return placed


def in_pixels(fractions: Float[Tensor, "#b n 4"], height: int, width: int) -> Float32[Tensor, "#b n 4"]:
    """Boxes in units of the image's sides as boxes in pixels, nothing copied to the device."""
    sides = [torch.full((), float(side), device=fractions.device) for side in (width, height, width, height)]
    return fractions.float() * torch.stack(sides)


def grid_fractions(count: int, side: float = GRID_SIDE) -> Float32[Tensor, "n 4"]:
    """Squares of one size on an even grid over the image, the most central ones first.

    >>> grid_fractions(1, 0.5)
    tensor([[0.2500, 0.2500, 0.7500, 0.7500]])
    """
    rows = math.ceil(math.sqrt(count))
    columns = math.ceil(count / rows)
    y, x = torch.meshgrid(_centres(rows, side), _centres(columns, side), indexing="ij")
    centres = torch.stack([x.flatten(), y.flatten()], 1)
    nearest = (centres - 0.5).square().sum(1).argsort(stable=True)[:count]
    return torch.cat([centres[nearest] - side / 2, centres[nearest] + side / 2], 1)


def _centres(count: int, side: float) -> Tensor:
    return torch.linspace(side / 2, 1 - side / 2, count) if count > 1 else torch.full((1,), 0.5)


def random_fractions(image_id: Int64[Tensor, " b"], count: int, seed: int = 0) -> Float32[Tensor, "b n 4"]:
    """Boxes drawn from the image's id and a seed: areas and aspects uniform in their logarithms, positions uniform."""
    draws = torch.arange(4 * count, device=image_id.device)
    area, aspect, x, y = hashed_uniform(image_id[:, None], draws, seed).unflatten(1, (count, 4)).unbind(-1)
    area = AREAS[0] * (AREAS[1] / AREAS[0]) ** area
    root = ASPECT ** (aspect - 0.5)
    width, height = (area.sqrt() * root).clamp(max=1), (area.sqrt() / root).clamp(max=1)
    x0, y0 = x * (1 - width), y * (1 - height)
    return torch.stack([x0, y0, x0 + width, y0 + height], -1).float()


def activation_fractions(maps: Float[Tensor, "b n u v"]) -> Float32[Tensor, "b n 4"]:
    """High-activation boxes on a raster of ``RASTER`` cells a side: finding them among all pixels is slow."""
    with torch.autocast(maps.device.type, enabled=False):
        return high_activation_boxes(maps, RASTER, RASTER) / RASTER


def to_original(boxes: Float[Tensor, "b n 4"], frame: Float[Tensor, "b 6"]) -> Float32[Tensor, "b n 4"]:
    """Boxes of the input as boxes of the original file, upright: ``Batch.frame`` applied to their corners."""
    corners = _corners(boxes)
    matrix, shift = frame.double().unflatten(1, (2, 3)).split([2, 1], 2)
    return _ordered(torch.einsum("bij,bnkj->bnki", matrix, corners) + shift[:, None, None, :, 0])


def to_input(boxes: Float[Tensor, "b n 4"], frame: Float[Tensor, "b 6"]) -> Float32[Tensor, "b n 4"]:
    """Boxes of the original file as boxes of the input, upright, not clipped."""
    corners = _corners(boxes)
    matrix, shift = frame.double().unflatten(1, (2, 3)).split([2, 1], 2)
    (a, b), (d, e) = (row.unbind(1) for row in matrix.unbind(1))
    inverse = torch.stack([e, -b, -d, a], 1).unflatten(1, (2, 2)) / (a * e - b * d)[:, None, None]
    return _ordered(torch.einsum("bij,bnkj->bnki", inverse, corners - shift[:, None, None, :, 0]))


def _corners(boxes: Float[Tensor, "b n 4"]) -> Float64[Tensor, "b n 4 2"]:
    """All four: an image may be turned."""
    return boxes.double()[..., [[0, 1], [2, 3], [0, 3], [2, 1]]]


def _ordered(corners: Tensor) -> Float32[Tensor, "b n 4"]:
    return torch.cat([corners.amin(2), corners.amax(2)], 2).float()


def within(boxes: Float[Tensor, "b n 4"], height: int, width: int, least: float) -> Float32[Tensor, "b n 4"]:
    """Boxes cut off at the border of the input; the whole input where less than ``least`` of a box is left."""
    ones = torch.ones(1, 1, 2, device=boxes.device)  # filled on the device: copying would wait for it
    whole = in_pixels(torch.cat([0 * ones, ones], 2), height, width)
    cut_off = torch.minimum(boxes.float().clamp(min=0), whole[..., 2:].repeat(1, 1, 2))
    there = _area(cut_off) > least * _area(boxes.float())
    return torch.where(there[..., None], cut_off, whole)


def _area(boxes: Tensor) -> Float32[Tensor, "b n"]:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)
