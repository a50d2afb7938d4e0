"""Rectangles of cells on a feature map: drawn by a seed, pooled and scored in blocks, never one by one.

A rectangle is ``y0 x0 y1 x1`` in cells, its end not included. The mean of its cells is linear in the map, so a score of
a mean is the mean of scores: a linear layer may come before or after the pooling, with the same result, and the cheaper
of the two is taken (``scores_first``).
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

Sampling = Literal["uniform_corners", "area_range", "fixed_grid", "all"]
ASPECT = 3.0  # area_range: sides differ by this factor at most
MEMORY = 2**25  # scores held at once, numbers
CACHE = 2**18  # of a block on a CPU: 1 MB
READ = 16  # products of a matrix product that take as long as one value read or added in pooling; on a CPU, measured


def _mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Splitmix64's finaliser: 64 bits to 64 bits that look drawn; the same on every device."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def uniform(seed: int, keys: Int[Tensor, " b"], count: int, draws: int) -> Float[Tensor, "b count draws"]:
    """Numbers in [0, 1) that are a function of seed and key only."""
    step = torch.arange(count * draws, device=keys.device).view(count, draws)
    start = _mix(keys + _mix(torch.full_like(keys, seed + 1)))
    bits: Tensor = (_mix(start[:, None, None] + _mix(step + 1)) >> 11) & ((1 << 53) - 1)
    return bits.double() * 2.0**-53


def on_device(numbers: Sequence[int | float], device: torch.device) -> Shaped[Tensor, " n"]:
    """A few numbers, filled in on the device: copying them there would wait for it at every step."""
    return torch.stack([torch.full((), number, device=device) for number in numbers])


def draw_boxes(
    sampling: Sampling,
    count: int,
    size: tuple[int, int],
    seed: int,
    keys: Int[Tensor, " b"],
    area: tuple[float, float] = (0.02, 0.5),
) -> Int[Tensor, "b r 4"]:
    """Rectangles for each key.

    Args:
        sampling: ``uniform_corners``: two rows and two columns, each drawn from all and put in order. ``area_range``: a
            share of the map's area and a ratio of sides (log-uniform up to ``ASPECT``), then a place. ``fixed_grid``:
            for n = 1, 2, ... n x n evenly spread windows of 2 / (n + 1) of the sides, as many whole levels as ``count``
            allows, the same for all keys. ``all``: every rectangle, whatever ``count``.
        count: rectangles.
        size: rows and columns of the map.
        seed: with the key it decides the draws.
        keys: one per image.
        area: least and greatest share of the map, for ``area_range``.
    """
    if sampling in ("fixed_grid", "all"):
        boxes = _grid(count, size) if sampling == "fixed_grid" else _all(size)
        return boxes.to(keys.device).expand(len(keys), -1, -1)
    sides = on_device(size, keys.device)
    u = uniform(seed, keys, count, 4)
    if sampling == "uniform_corners":
        ends = (u.unflatten(2, (2, 2)) * sides).long().sort(dim=2).values  # b r end axis
        return torch.cat([ends[:, :, 0], ends[:, :, 1] + 1], dim=2)
    share = area[0] + (area[1] - area[0]) * u[..., 0]
    ratio = ASPECT ** (2 * u[..., 1] - 1)
    lengths = torch.stack([(share * ratio).sqrt(), (share / ratio).sqrt()], dim=2) * sides
    lengths = lengths.round().long().clamp(min=1).minimum(sides)
    first = (u[..., 2:] * (sides - lengths + 1)).long()
    return torch.cat([first, first + lengths], dim=2)


def _grid(count: int, size: tuple[int, int]) -> Int[Tensor, "r 4"]:
    levels = 1
    while sum(n * n for n in range(1, levels + 2)) <= count:
        levels += 1
    found = []
    for n in range(1, levels + 1):
        axes = []
        for side in size:
            length = max(1, round(2 * side / (n + 1)))
            first = torch.linspace(0, side - length, n).round().long()
            axes.append(torch.stack([first, first + length], dim=1))
        rows, columns = axes[0].repeat_interleave(n, 0), axes[1].repeat(n, 1)
        found.append(torch.stack([rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1]], dim=1))
    return torch.cat(found)


def _all(size: tuple[int, int]) -> Int[Tensor, "r 4"]:
    rows, columns = (torch.combinations(torch.arange(side + 1)) for side in size)
    rows, columns = rows.repeat_interleave(len(columns), 0), columns.repeat(len(rows), 1)
    return torch.stack([rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1]], dim=1)


def _means(boxes: Int[Tensor, "i r 4"], size: tuple[int, int]) -> Float[Tensor, "i r n"]:
    """The matrix that makes means of rectangles."""
    masks = cell_masks(boxes, size)
    return masks / masks.sum(2, keepdim=True)


def cell_masks(boxes: Int[Tensor, "b r 4"], size: tuple[int, int]) -> Float[Tensor, "b r n"]:
    """1 in the cells of each rectangle, in reading order, 0 elsewhere."""
    inside = []
    for axis, side in enumerate(size):
        cell = torch.arange(side, device=boxes.device)
        inside.append((cell >= boxes[..., axis, None]) & (cell < boxes[..., axis + 2, None]))
    return (inside[0][..., :, None] & inside[1][..., None, :]).flatten(2).float()


class Regions(NamedTuple):
    """The regions of some images.

    Attributes:
        cells: ``b n d``, features of the map's cells in reading order; or of the regions themselves.
        boxes: ``b r 4`` (or ``1 r 4``, the same for all images), rectangles of cells; None where ``cells`` are regions.
        size: rows and columns of the map.
    """

    cells: Tensor
    boxes: Tensor | None
    size: tuple[int, int] = (0, 0)

    @property
    def number(self) -> int:
        """Regions of an image."""
        return self.cells.shape[1] if self.boxes is None else self.boxes.shape[1]

    def features(self) -> Float[Tensor, "b r d"]:
        """The mean of each region."""
        return self.cells if self.boxes is None else pool(self.cells, self.boxes, self.size)

    def some(self, images: slice) -> "Regions":
        """Those of some of the images."""
        boxes = self.boxes
        return Regions(self.cells[images], boxes if boxes is None or len(boxes) == 1 else boxes[images], self.size)


def regions_of(maps: Float[Tensor, "b d u v"], boxes: Int[Tensor, "i r 4"], normalise: bool = False) -> Regions:
    """Regions of maps, in float32; with ``normalise`` each region's mean is brought to length one."""
    # once, for several products; float16 is converted and put in order by one copy (``float()`` would keep the order)
    cells = maps.flatten(2).transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format).contiguous()
    regions = Regions(cells, boxes, (maps.shape[2], maps.shape[3]))
    return Regions(normalize(regions.features(), dim=2), None) if normalise else regions


def pool(values: Float[Tensor, "b n x"], boxes: Int[Tensor, "i r 4"], size: tuple[int, int]) -> Float[Tensor, "b r x"]:
    """Means of rectangles of cells, in float32.

    Without gradients by sums over the rectangles that begin at the first cell (four of them give any other), of values
    around their mean, so that little is lost in the differences; in blocks that a processor's cache holds. With
    gradients by one product with the matrix of means.
    """
    values = values.float()
    if values.requires_grad and torch.is_grad_enabled():
        product: Tensor = _means(boxes, size) @ values
        return product
    corners, shares = _corners(boxes, size)
    found = values.new_empty(len(values), boxes.shape[1], values.shape[2])
    width, images = _blocks(values, size)
    for first in range(0, len(values), images):
        some = slice(first, first + images)
        which = slice(None) if len(boxes) == 1 else some
        for channel in range(0, values.shape[2], width):
            block = slice(channel, channel + width)
            means = _block_means(values[some, :, block], corners[which], shares[which], size)
            torch.add(*means, out=found[some, :, block])
    return found


def _corners(boxes: Int[Tensor, "i r 4"], size: tuple[int, int]) -> tuple[Int[Tensor, "i r 4"], Float[Tensor, "i r 4"]]:
    """Where a table of sums from the first cell on is read for each rectangle, and the signs over the area."""
    y0, x0, y1, x1 = boxes.unbind(2)
    row = size[1] + 1
    places = torch.stack([y1 * row + x1, y0 * row + x0, y0 * row + x1, y1 * row + x0], dim=2)
    sign = on_device((1.0, 1.0, -1.0, -1.0), boxes.device)
    return places, sign / ((y1 - y0) * (x1 - x0))[..., None]


def _blocks(values: Float[Tensor, "b n x"], size: tuple[int, int]) -> tuple[int, int]:
    """How many channels, and how many images, are worked on at once."""
    cells = (size[0] + 1) * (size[1] + 1)
    room = MEMORY if values.device.type == "cuda" else CACHE
    width = max(1, min(values.shape[2], room // cells))
    return width, max(1, room // (cells * width))


def _block_means(
    values: Float[Tensor, "b n x"], corners: Int[Tensor, "i r 4"], shares: Float[Tensor, "i r 4"], size: tuple[int, int]
) -> tuple[Float[Tensor, "b r x"], Float[Tensor, "b 1 x"]]:
    """Means of rectangles over the mean of all cells, and that mean."""
    (rows, columns), (images, _, width) = size, values.shape
    mean = values.mean(1, keepdim=True)
    sums = values.new_zeros(images, rows + 1, columns + 1, width)
    torch.sub(values.unflatten(1, size), mean[:, None], out=sums[:, 1:, 1:])
    sums = sums.cumsum_(1).cumsum_(2)
    offset = ((rows + 1) * (columns + 1)) * torch.arange(images, device=values.device)[:, None, None]
    bags = (corners + offset).flatten(0, 1)
    weights = shares.to(values.dtype).expand(images, -1, -1).reshape(-1, 4)
    found: Tensor = embedding_bag(bags, sums.view(-1, width), mode="sum", per_sample_weights=weights)
    return found.unflatten(0, (images, -1)), mean


def scores_first(cells: int, regions: int, features: int, parts: int, learns: bool = False) -> bool:
    """Whether scoring every cell and pooling the scores is cheaper than pooling and scoring every region.

    Counted are products, and what pooling reads of tables of sums (``READ`` products each). Where scores hand gradients
    back (``learns``) they are pooled by a product; features never do, for the map is frozen.

    >>> scores_first(289, 500, 2048, 4000), scores_first(289, 100, 2048, 10000)
    (True, False)
    """
    sums = READ * (4 * regions + 2 * cells)
    before = features * cells * parts + (cells * regions if learns else sums) * parts
    return before < sums * features + regions * features * parts


def region_scores(parts: Float[Tensor, "p d"], regions: Regions, first: bool | None = None) -> Float[Tensor, "b r p"]:
    """What each part says of each region, by the cheaper route (or by the one asked for)."""
    cells, boxes, size = regions
    if boxes is None or not (_scores_first(parts, regions) if first is None else first):
        return regions.features() @ parts.mT
    scores = (cells.flatten(0, 1) @ parts.mT).unflatten(0, cells.shape[:2])  # one large product
    return pool(scores, boxes, size)


def parts_gradient(slopes: Float[Tensor, "b r p"], regions: Regions) -> Float[Tensor, "p d"]:
    """What ``region_scores`` hands back to the parts, for the derivatives of its scores; by the cheaper route."""
    cells, boxes, size = regions
    if boxes is None or not scores_first(cells.shape[1], regions.number, cells.shape[2], slopes.shape[2], learns=True):
        of_regions = slopes.flatten(0, 1)
        return of_regions.mT @ regions.features().flatten(0, 1)
    of_cells = _means(boxes, size).mT @ slopes
    return of_cells.flatten(0, 1).mT @ cells.flatten(0, 1)


def _scores_first(parts: Float[Tensor, "p d"], regions: Regions) -> bool:
    return scores_first(regions.cells.shape[1], regions.number, regions.cells.shape[2], len(parts))


class _MaxScores(torch.autograd.Function):
    """Largest score over the regions; only that region's features get into a part's gradient, so no score is kept."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, cells: Tensor, boxes: Tensor | None, size: tuple[int, int]) -> Any:
        regions = Regions(cells, boxes, size)
        if boxes is not None and _scores_first(parts, regions):
            values, index = _largest_of_pooled(parts, regions)
        else:
            step = max(1, MEMORY // (max(regions.number, cells.shape[1]) * len(parts)))
            found = [
                region_scores(parts, regions.some(slice(start, start + step)), first=False).max(1)
                for start in range(0, len(cells), step)
            ]
            values, index = torch.cat([value for value, _ in found]), torch.cat([place for _, place in found])
        ctx.save_for_backward(cells, boxes, index, parts)
        ctx.size = size
        ctx.mark_non_differentiable(index)
        return values, index

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        cells, boxes, index, parts = ctx.saved_tensors
        of_cells = _gradient_of_cells(grad, parts, cells, boxes, index, ctx.size) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, of_cells, None, None
        features = Regions(cells, boxes, ctx.size).features()
        images, count = features.shape[:2]
        rows = index + count * torch.arange(images, device=index.device)[:, None]
        weights = grad.to(features.dtype).T.contiguous()
        found = embedding_bag(rows.T.contiguous(), features.flatten(0, 1), mode="sum", per_sample_weights=weights)
        return found.to(grad.dtype), of_cells, None, None


def _gradient_of_cells(
    grad: Tensor, parts: Tensor, cells: Tensor, boxes: Tensor | None, index: Tensor, size: tuple[int, int]
) -> Float[Tensor, "b n d"]:
    """For explainers, who ask what a map's cells do; training has a frozen map and never comes here."""
    count = cells.shape[1] if boxes is None else boxes.shape[1]
    wanted = grad.new_zeros(len(cells), count, parts.shape[1])
    for image in range(len(cells)):  # b p d at once would be large
        wanted[image].index_add_(0, index[image], grad[image][:, None] * parts.to(grad.dtype))
    if boxes is None:
        return wanted.to(cells.dtype)
    with torch.autocast(cells.device.type, enabled=False):
        found: Tensor = _means(boxes, size).mT @ wanted.float()
    return found.to(cells.dtype)


def _largest_of_pooled(parts: Float[Tensor, "p d"], regions: Regions) -> tuple[Tensor, Tensor]:
    """Scores of cells, pooled, and their maximum: block by block, so that pooled scores are never written to memory."""
    cells, boxes, size = regions
    if boxes is None:
        raise ValueError("regions without cells have nothing to pool")
    corners, shares = _corners(boxes, size)
    values = cells.new_empty(len(cells), len(parts))
    index = torch.empty(values.shape, dtype=torch.int64, device=cells.device)
    scored = max(1, MEMORY // (cells.shape[1] * len(parts)))  # images whose cells' scores are held
    for first in range(0, len(cells), scored):
        scores = (cells[first : first + scored].flatten(0, 1).float() @ parts.float().mT).unflatten(
            0, (-1, cells.shape[1])
        )
        width, images = _blocks(scores, size)
        for image in range(0, len(scores), images):
            some = slice(first + image, min(first + image + images, first + len(scores)))
            which = slice(None) if len(boxes) == 1 else some
            for channel in range(0, len(parts), width):
                block = slice(channel, channel + width)
                inside = scores[image : image + images, :, block]
                pooled, mean = _block_means(inside, corners[which], shares[which], size)
                torch.max(pooled, 1, out=(values[some, block], index[some, block]))
                values[some, block] += mean[:, 0]
    return values, index


def max_scores(parts: Float[Tensor, "p d"], regions: Regions) -> tuple[Float[Tensor, "b p"], Int[Tensor, "b p"]]:
    """Each part's largest score over the regions of an image, and which region has it."""
    values, index = _MaxScores.apply(parts, *regions)  # type: ignore[no-untyped-call]
    return values, index


def paint(
    parts: Float[Tensor, "i p d"],
    regions: Regions,
    top: int,
    weights: Float[Tensor, "b p"] | None = None,
    lengths: Float[Tensor, "b r"] | None = None,
) -> Float[Tensor, "b p n"]:
    """For each part its best regions on the cells, each weighing its positive score (times the part's weight).

    Args:
        parts: of each image its own; ``1 p d`` for the same in all.
        regions: of maps (not of regions' features).
        top: regions per part.
        weights: of the parts; negative ones count as zero.
        lengths: of the regions' means, to divide the scores by; None leaves them as they are.
    """
    if regions.boxes is None:
        raise ValueError("regions without cells cannot be painted")
    on_cells = regions.cells @ parts.mT.to(regions.cells.dtype)
    scores = pool(on_cells, regions.boxes, regions.size).transpose(1, 2)  # b p r
    if lengths is not None:
        scores = scores / lengths[:, None]
    best = scores.topk(min(top, scores.shape[2]), dim=2)
    chosen = torch.zeros_like(scores).scatter(2, best.indices, best.values.relu())
    if weights is not None:
        chosen = chosen * weights.relu()[..., None]
    return chosen @ cell_masks(regions.boxes, regions.size).to(chosen.dtype)
