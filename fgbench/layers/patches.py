"""Patches: the box around what a map highlights, and the boxes of the strongest of many maps. No labels anywhere.

Boxes are ``x0 y0 x1 y1`` in pixels; pixel ``i`` covers ``[i, i + 1]``, so a box ends where its last pixel ends.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

PERCENTILE = 95.0  # of the pixels of an up-sampled map: those above are highlighted


def percentile(flat: Float[Tensor, "*n pixels"], percent: float) -> Float[Tensor, "*n"]:
    """Percentile of each row, interpolated linearly between order statistics as numpy does.

    ``torch.quantile`` refuses more than 16 million numbers.
    """
    place = percent / 100 * (flat.shape[-1] - 1)
    low = int(place)
    largest = flat.topk(flat.shape[-1] - low, dim=-1, sorted=True).values
    upper = largest[..., -2] if largest.shape[-1] > 1 else largest[..., -1]
    return torch.lerp(largest[..., -1], upper, place - low)


def high_activation_boxes(
    maps: Float[Tensor, "b n u v"], height: int, width: int, percent: float = PERCENTILE
) -> Float[Tensor, "b n 4"]:
    """The tight box around the pixels of each map, up-sampled bicubically, that reach its percentile.

    A map with several peaks gives a box that spans them all.
    """
    up = nn.functional.interpolate(maps.float(), (height, width), mode="bicubic", align_corners=False)
    rounding = 1e-6 * up.abs().amax((2, 3))  # else it would choose among the pixels of a flat map
    high = up >= (percentile(up.flatten(2), percent) - rounding)[..., None, None]
    rows, columns = high.any(3).to(torch.uint8), high.any(2).to(torch.uint8)
    edges = [columns.argmax(2), rows.argmax(2), width - columns.flip(2).argmax(2), height - rows.flip(2).argmax(2)]
    return torch.stack(edges, dim=-1).float()


def strongest(maps: Float[Tensor, "b p u v"], count: int) -> tuple[Float[Tensor, "b n u v"], Int[Tensor, "b n"]]:
    """The maps with the highest peaks, the highest first, and their numbers; of equal peaks the earlier map."""
    peaks = maps.flatten(2).amax(2)
    order = peaks.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return maps.gather(1, order[..., None, None].expand(-1, -1, *maps.shape[2:])), order


def strongest_boxes(
    maps: Float[Tensor, "b p u v"], count: int, height: int, width: int, percent: float = PERCENTILE
) -> Float[Tensor, "b n 4"]:
    """The boxes of the ``count`` maps with the highest peaks, the highest first."""
    return high_activation_boxes(strongest(maps, count)[0], height, width, percent)
