"""Attention as a density of sampling: an image is read more densely where its attention is high.

An attention map over the image is reduced to one curve per axis (the maximum over the other axis), each curve is
bounded and becomes a density, and the sampling positions of an axis are where the integral of its density reaches
equal steps (inverse transform). The grid is rectangular, so straight horizontal and vertical lines stay straight.
Zheng et al., Looking for the Devil in the Details, CVPR 2019, section 3.2, and the authors' MXNet operator.

Two conventions:

* ``centred``: half-pixel centres everywhere. Constant attention gives ``interpolate(mode="bilinear",
  align_corners=False)``, and flips and transposes commute with sampling. Outside of the image its border counts.
* ``official``: the positions of the authors' operator. Quirks, all kept: pixel indices instead of pixel centres; the
  density of the first pixel is dropped from the integral; targets start at the first pixel and stop a step short of
  the last, so constant attention gives positions ``i * (size - 1) / out``, biased to the top left, and sampling
  does not commute with flips; positions are divided as ``align_corners=True`` does; zeros outside. The integral starts
  at 0, as in their PyTorch port. In MXNet it starts at 1, so that the operator reads in front of its array for the
  first target (undefined) and the others lie up to an output pixel further to the top left: a mistake, not kept.

Nothing of size ``maps x h x w`` is made: along the axis that is maximised over, an interpolated map is linear between
two cells, so its maximum over all pixels is that over the first and last pixel of each cell. The curves are exact for
the map as interpolated to all pixels. Everything up to the positions is float64: an error of a curve is divided by its
density, which can be 1/100, and the tensors are small.
"""

from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

Convention = Literal["centred", "official"]

AT_ONCE = 4  # images that a CPU samples at once: what it writes then stays in its cache until it is put in place
DENSE = 4.0  # largest magnification over the uniform one, before what is cut off is spread; the authors' code
FINER = 4  # cells per side of a map that is written back, for each cell of the map
ITERATIONS = 5  # of cutting and spreading; the authors' code

Size = tuple[int, int]


def _cells_of_pixels(cells: int, pixels: int, convention: Convention, device: torch.device) -> Float64[Tensor, " n"]:
    """Position of each pixel of an axis in units of cells, as bilinear interpolation places it."""
    pixel = torch.arange(pixels, dtype=torch.float64, device=device)
    if convention == "official":
        return pixel * ((cells - 1) / max(pixels - 1, 1))
    return ((pixel + 0.5) * (cells / pixels) - 0.5).clamp(0, cells - 1)


def _hats(positions: Float64[Tensor, " n"], cells: int) -> Float64[Tensor, "n cells"]:
    """Weights of linear interpolation: a row per position, a column per cell."""
    cell = torch.arange(cells, dtype=torch.float64, device=positions.device)
    return (1 - (positions[:, None] - cell).abs()).clamp(min=0)


def _turning_points(positions: Float64[Tensor, " n"], cells: int) -> Float64[Tensor, " m"]:
    """The positions among which any function that is linear between cells has its maximum: two for each cell."""
    cell = torch.arange(cells, dtype=torch.float64, device=positions.device)
    first = torch.searchsorted(positions, cell)
    return positions[torch.cat([first, first - 1]).clamp(0, len(positions) - 1)]


def axis_curves(
    attention: Float[Tensor, "n u v"], size: Size, convention: Convention = "centred"
) -> tuple[Float64[Tensor, "n h"], Float64[Tensor, "n w"]]:
    """Maximum over each row, and over each column, of the maps interpolated to ``size`` (height, width) pixels.

    Negative attention counts as none.
    """
    u, v = attention.shape[1:]
    maps = attention.double().clamp(min=0)
    y = _turning_points(_cells_of_pixels(u, size[0], convention, maps.device), u)
    x = _turning_points(_cells_of_pixels(v, size[1], convention, maps.device), v)
    rows, columns = maps @ _hats(x, v).T, _hats(y, u) @ maps
    return _stretch(rows, (size[0], len(x)), convention).amax(2), _stretch(columns, (len(y), size[1]), convention).amax(
        1
    )


def _stretch(
    maps: Float64[Tensor, "n u v"], size: Size, convention: Convention
) -> Float64[Tensor, "n {size[0]} {size[1]}"]:
    """Bilinear interpolation to pixels; the axis whose length stays, stays."""
    corners = convention == "official"
    stretched: Tensor = torch.nn.functional.interpolate(maps[None], size, mode="bilinear", align_corners=corners)[0]
    return stretched


def magnification(
    rows: Float64[Tensor, "n h"], columns: Float64[Tensor, "n w"], dense: float = DENSE, iterations: int = ITERATIONS
) -> tuple[Float64[Tensor, "n h"], Float64[Tensor, "n w"]]:
    """Densities of sampling, in units of the uniform density: mean 1, bounded, with equal peaks on both axes.

    Each round cuts both axes at the lower of their peaks (the first one at ``dense`` at most) and spreads what was cut
    off evenly. So no axis is magnified more than the other, no pixel is without density, and peaks can exceed
    ``dense`` a little. An axis of zeros is uniform.
    """
    curves = []
    for curve in (rows, columns):
        peak = curve.amax(1, keepdim=True)
        curve = torch.where(peak > 0, curve / peak.clamp(min=torch.finfo(torch.float64).tiny), 1.0)
        curves.append(curve / curve.mean(1, keepdim=True))
    r, c = curves
    for round_ in range(iterations):
        top = torch.minimum(r.amax(1, keepdim=True), c.amax(1, keepdim=True))
        top = top.clamp(max=dense) if round_ == 0 else top
        r, c = torch.minimum(r, top), torch.minimum(c, top)
        r, c = r + (1 - r.mean(1, keepdim=True)), c + (1 - c.mean(1, keepdim=True))
    return r, c


def inverse_transform(
    density: Float64[Tensor, "n s"], out: int, convention: Convention = "centred"
) -> Float64[Tensor, "n {out}"]:
    """Where the integral of a density over ``s`` pixels reaches ``out`` equal steps, in pixels.

    The centre of pixel ``i`` is at ``i`` (as an index) in both conventions.
    """
    at_zero = density.new_zeros(len(density), 1)
    if convention == "official":
        integral = torch.cat([at_zero, density[:, 1:].cumsum(1)], 1)
        targets = torch.arange(out, device=density.device) * (integral[:, -1:] / out)
    else:
        integral = torch.cat([at_zero, density.cumsum(1)], 1)  # at the edges of pixels
        targets = (torch.arange(out, device=density.device) + 0.5) * (integral[:, -1:] / out)
    above = torch.searchsorted(integral, targets).clamp(1, integral.shape[1] - 1)
    high, low = integral.gather(1, above), integral.gather(1, (above - 1).clamp(min=0))
    step = (high - low).clamp(min=torch.finfo(torch.float64).tiny)
    if convention == "official":
        return above + (targets - high) / step
    return above - 1.5 + (targets - low) / step


def sampling_positions(
    attention: Float[Tensor, "n u v"],
    size: Size,
    out: Size,
    convention: Convention = "centred",
    power: float | Float[Tensor, " n"] = 1.0,
    dense: float = DENSE,
    iterations: int = ITERATIONS,
) -> tuple[Float64[Tensor, "n oh"], Float64[Tensor, "n ow"]]:
    """Rows and columns of an image at which each map samples it, as pixel indices (pixel 0's centre is 0).

    Args:
        attention: maps over the whole image; their scale does not matter.
        size: height and width of the image.
        out: height and width of the sampled image.
        convention: see the module.
        power: of each interpolated map; 2 sharpens it. (The maximum of a power is the power of the maximum.)
        dense: see ``magnification``.
        iterations: see ``magnification``.
    """
    rows, columns = axis_curves(attention, size, convention)
    exponent = power.double()[:, None] if isinstance(power, Tensor) else power
    # The square of the largest float32 is a float64 still; so is that of the smallest.
    rows, columns = magnification(rows**exponent, columns**exponent, dense, iterations)
    return inverse_transform(rows, out[0], convention), inverse_transform(columns, out[1], convention)


def uniform_positions(
    attention: Float[Tensor, "n u v"], size: Size, out: Size, threshold: float = 0.5
) -> tuple[Float64[Tensor, "n oh"], Float64[Tensor, "n ow"]]:
    """The comparison of the paper: the crop around the binarised attention, sampled uniformly, half-pixel centres.

    The paper does not say how it binarises. Here: attention of at least ``threshold`` times its maximum; the box around
    all of that; made to have the proportions of the image by widening it, and moved inside.
    """
    boxes = []
    for curve in axis_curves(attention, size):
        pixels = curve.shape[1]
        inside = (curve >= threshold * curve.amax(1, keepdim=True)).to(torch.uint8)
        low = inside.argmax(1)
        high = pixels - inside.flip(1).argmax(1)
        boxes.append((low / pixels, high / pixels))
    extent = torch.stack([high - low for low, high in boxes]).amax(0).double()
    positions = []
    for (low, high), pixels, cells in zip(boxes, size, out, strict=True):
        start = ((low + high) / 2 - extent / 2).clamp(min=0)
        start = torch.minimum(start, 1 - extent)
        step = (torch.arange(cells, dtype=torch.float64, device=attention.device) + 0.5) / cells
        positions.append((start[:, None] + extent[:, None] * step) * pixels - 0.5)
    return positions[0], positions[1]


def grid_of(
    rows: Float64[Tensor, "n oh"], columns: Float64[Tensor, "n ow"], size: Size, convention: Convention = "centred"
) -> Float[Tensor, "n oh ow 2"]:
    """The float32 grid of ``grid_sample`` for rectangular positions; in memory all ``x``, then all ``y``.

    ``grid_sample`` reads that as fast as pairs, and it is written faster.
    """
    scaled = []
    for position, pixels in zip((rows, columns), size, strict=True):
        if convention == "official":
            scaled.append(position * (2 / max(pixels - 1, 1)) - 1)
        else:
            scaled.append((2 * position + 1) / pixels - 1)
    y, x = (axis.float() for axis in scaled)
    shape = (len(y), y.shape[1], x.shape[1])
    return torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], 1).permute(0, 2, 3, 1)


def read(
    image: Float[Tensor, "b c h w"], grid: Float[Tensor, "n oh ow 2"], convention: Convention = "centred"
) -> Float[Tensor, "n c oh ow"]:
    """Bilinear samples of each image at its grids, in float32 and channels-last memory; gradients reach the image.

    Args:
        image: ``b`` images.
        grid: ``n = m b`` grids: first one for each image, then the second of each, and so on. The images are not
            copied: the grids of an image are read below each other, in one call.
        convention: whether -1 and 1 are centres (official) or edges (centred) of the outermost pixels.
    """
    images, (oh, ow) = len(image), grid.shape[1:3]
    below = grid.permute(3, 0, 1, 2).unflatten(1, (-1, images)).permute(2, 0, 1, 3, 4).reshape(images, 2, -1, ow)
    below = below.permute(0, 2, 3, 1)
    official = convention == "official"
    # Grids apart and channels last by one copy; as a view of it in the usual order of axes.
    last = image.new_empty(len(grid) // images, images, oh, ow, image.shape[1], dtype=torch.float32)
    at_once = AT_ONCE if image.device.type == "cpu" else images
    with torch.autocast(image.device.type, enabled=False):
        for some in (slice(first, first + at_once) for first in range(0, images, at_once)):
            sampled = torch.nn.functional.grid_sample(
                image[some].float(),
                below[some].float(),
                "bilinear",
                "zeros" if official else "border",
                align_corners=official,
            )
            last[:, some] = sampled.unflatten(2, (-1, oh)).permute(2, 0, 3, 4, 1)
    return last.flatten(0, 1).permute(0, 3, 1, 2)


def write_back(
    maps: Float[Tensor, "b n u v"],
    grid: Float[Tensor, "b oh ow 2"],
    image: Float[Tensor, "b c h w"],
    convention: Convention = "centred",
) -> Float[Tensor, "b n u2 v2"]:
    """Maps over sampled images as maps over the images: each sampled pixel's value at the place that it was read from.

    Where several were read, their mean, weighed as ``read`` weighs; 0 where nothing was read.

    Args:
        maps: over the sampled image, of any resolution.
        grid: where that was read.
        image: only its size counts.
        convention: of the grid.

    Returns:
        Maps with ``FINER`` times the cells per side, but no more than the image has pixels.
    """
    cells = [min(FINER * side, pixels) for side, pixels in zip(maps.shape[2:], image.shape[2:], strict=True)]
    if convention == "official":  # the outermost cells reach to the edges, in maps of any convention
        sides = torch.tensor([image.shape[3], image.shape[2]], device=grid.device)
        grid = ((grid + 1) * (sides - 1) + 1) / sides - 1
    with torch.enable_grad(), torch.autocast(image.device.type, enabled=False):
        values = torch.nn.functional.interpolate(maps.float(), grid.shape[1:3], mode="bilinear", align_corners=False)
        values = torch.cat([values, torch.ones_like(values[:, :1])], 1).detach()
        empty = values.new_zeros(len(maps), values.shape[1], *cells, requires_grad=True)
        # Reading is linear, so its gradient writes: what was read from a cell with some weight goes back with it.
        (written,) = torch.autograd.grad(read(empty, grid.detach()), empty, values)
    return written[:, :-1] / written[:, -1:].clamp(min=1e-6)


def sample(
    image: Float[Tensor, "b c h w"],
    attention: Float[Tensor, "n u v"],
    out: Size,
    convention: Convention = "centred",
    power: float | Float[Tensor, " n"] = 1.0,
    dense: float = DENSE,
    iterations: int = ITERATIONS,
) -> Float[Tensor, "n c oh ow"]:
    """Images sampled by attention: ``n = m b`` maps, first one for each of ``b`` images, then the second, and so on.

    Everything runs on the images' device and nothing waits for it. No gradient reaches the attention.

    >>> image = torch.rand(1, 3, 64, 64)
    >>> smaller = torch.nn.functional.interpolate(image, (32, 32), mode="bilinear", align_corners=False)
    >>> bool(torch.allclose(sample(image, torch.ones(1, 8, 8), (32, 32)), smaller, atol=1e-5))
    True
    """
    size = (image.shape[2], image.shape[3])
    with torch.no_grad():
        rows, columns = sampling_positions(attention, size, out, convention, power, dense, iterations)
        grid = grid_of(rows, columns, size, convention)
    return read(image, grid, convention)


def panels(
    image: Float[Tensor, "1 c h w"],
    attention: Float[Tensor, "1 u v"],
    grid: Float[Tensor, "1 oh ow 2"],
    convention: Convention = "centred",
    power: float | None = None,
) -> dict[str, Tensor]:
    """What Figure 4 of the paper shows of an image, but for the sampled image.

    Args:
        image: only its size counts.
        attention: the map.
        grid: where it was sampled.
        convention: of the grid.
        power: of the map; None where the sampling is not by densities of the two axes.

    Returns:
        ``attention`` (u v), ``points`` (oh ow 2, ``x y`` in pixels as ``fgbench.types`` defines them); with ``power``
        also ``rows`` (h) and ``columns`` (w), the magnification along each axis (mean 1).
    """
    height, width = image.shape[2:]
    sides = torch.tensor([width, height], device=grid.device)
    scale = sides - 1 if convention == "official" else sides
    found = {"attention": attention[0].float(), "points": (grid[0] + 1) / 2 * scale + 0.5 * (sides - scale)}
    if power is None:
        return found
    # As ``sampling_positions`` makes them.
    rows, columns = (curve**power for curve in axis_curves(attention, (height, width), convention))
    rows, columns = magnification(rows, columns)
    return found | {"rows": rows[0], "columns": columns[0]}
