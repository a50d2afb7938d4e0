"""The sampler of saliency-based sampling networks: each point of the output is pulled towards salient places nearby.

Recasens et al., Learning to Zoom: a Saliency-Based Sampling Layer for Neural Networks, ECCV 2018: the position of
output point ``p`` is the mean of the places ``q`` around it, weighted by saliency and a Gaussian of their distance.
Computed on a coarse square of cells and interpolated to the output. The two axes are not separated, so lines bend.

The saliency is continued beyond its border by its border, so constant saliency gives the identity. Gradients reach the
saliency. No code of the authors is used; the width of the Gaussian, relative to the map, is the caller's.
"""

import torch
from jaxtyping import Float
from torch import Tensor

CELLS = 31  # side of the coarse grid; the paper
SIGMA = 5.52 / 31  # of the Gaussian, in sides of the map: full width at half maximum 13 of 31 cells


def ssn_grid(
    saliency: Float[Tensor, "n u v"], out: tuple[int, int], sigma: float = SIGMA, cells: int = CELLS
) -> Float[Tensor, "n oh ow 2"]:
    """A ``grid_sample`` grid (``x y``, -1 and 1 at the image's edges: ``align_corners=False``), in float32.

    Args:
        saliency: non-negative; its scale does not matter. A map of zeros counts as constant.
        out: height and width of the sampled image.
        sigma: of the Gaussian, in sides of the map.
        cells: side of the square on which positions are computed.
    """
    with torch.autocast(saliency.device.type, enabled=False):
        coarse = torch.nn.functional.interpolate(
            saliency[:, None].float(), (cells, cells), mode="bilinear", align_corners=False
        )
        coarse = coarse / coarse.amax((2, 3), keepdim=True).clamp(min=1e-20) + 1e-6
        margin = cells - 1
        padded = torch.nn.functional.pad(coarse, (margin,) * 4, mode="replicate")
        offset = torch.arange(-margin, margin + 1, device=saliency.device, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (offset / (sigma * cells)) ** 2)
        kernel = kernel / kernel.sum()
        moment = kernel * offset * (2 / cells)  # displacement in units of the grid
        total = _convolve(padded, kernel, kernel)
        shift = torch.cat([_convolve(padded, kernel, moment), _convolve(padded, moment, kernel)], 1) / total
        # Shifts, not positions, are interpolated: they are nearly constant beyond the outermost cells' centres.
        shift = torch.nn.functional.interpolate(shift, out, mode="bilinear", align_corners=False)
        y, x = ((torch.arange(n, device=saliency.device) + 0.5) * (2 / n) - 1 for n in out)
        identity = torch.stack([x.expand(out), y[:, None].expand(out)])
        return (identity + shift).clamp(-1, 1).permute(0, 2, 3, 1)


def _convolve(maps: Tensor, along_y: Tensor, along_x: Tensor) -> Tensor:
    """Separable cross-correlation without padding."""
    maps = torch.nn.functional.conv2d(maps, along_y.view(1, 1, -1, 1))
    return torch.nn.functional.conv2d(maps, along_x.view(1, 1, 1, -1))
