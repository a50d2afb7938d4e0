"""Prototypes: distances of all cells to all prototypes, and the nearest training cell of each prototype.

``Nearest`` keeps a running minimum over batches. Its result depends on neither the batches, nor their order, nor the
number of processes: of equal distances the smaller ``image_id`` counts, then the earlier cell.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fgbench.layers.distributed import gather

EPSILON = 1e-4  # of the logarithmic similarity; the authors' code
NO_IMAGE = 2**53 - 1  # float64 holds it


def squared_distances(cells: Float[Tensor, "b d u v"], prototypes: Float[Tensor, "p d"]) -> Float[Tensor, "b p u v"]:
    """Squared L2 distance of each cell to each prototype, by one 1 x 1 convolution; not below zero."""
    cross = nn.functional.conv2d(cells, prototypes[:, :, None, None])
    length = (cells * cells).sum(1, keepdim=True)
    return (length - 2 * cross + (prototypes * prototypes).sum(1)[:, None, None]).relu()


def log_similarity(distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``log((d + 1) / (d + 1e-4))``: 9.2 for a distance of zero, towards zero for a large one."""
    return torch.log((distance + 1) / (distance + EPSILON))


def within(cells: Float[Tensor, "b d n"], own: Float[Tensor, "b m d"]) -> Float[Tensor, "b m n"]:
    """Squared distances of an image's cells to prototypes of its own, which differ per image."""
    cross = torch.bmm(own, cells)
    return ((cells * cells).sum(1)[:, None] - 2 * cross + (own * own).sum(2)[..., None]).relu()


def nearest_cells(
    cells: Float[Tensor, "b d u v"], target: Int[Tensor, " b"], prototypes: Float[Tensor, "p d"], per_class: int
) -> tuple[Int[Tensor, "b m"], Float[Tensor, "b m"], Int[Tensor, "b m"]]:
    """For each image the prototypes of its class, and for each of them the image's nearest cell.

    Prototypes ``c m`` to ``c m + m - 1`` belong to class ``c``.

    Returns:
        Numbers of the prototypes, squared distances, cells (``row * v + column``; of equally near ones the first).
    """
    flat = cells.flatten(2)
    own = target[:, None] * per_class + torch.arange(per_class, device=target.device)
    distance = within(flat, prototypes[own])
    least = distance.min(-1).values
    places = torch.arange(flat.shape[2], device=flat.device)
    cell = torch.where(distance == least[..., None], places, len(places)).amin(-1)  # argmin may name any of equals
    return own, least, cell


@dataclass
class Nearest:
    """For each prototype the nearest image so far, and what is to be kept of it.

    Attributes:
        distance: ``p``; infinite where no image was shown.
        image_id: ``p`` int64; the largest integer where no image was shown.
        values: by name, ``p ...``: what is kept of the nearest image; what it was at the start where there is none.
    """

    distance: Float[Tensor, " p"]
    image_id: Int[Tensor, " p"]
    values: dict[str, Tensor]

    @classmethod
    def start(cls, values: dict[str, Tensor]) -> "Nearest":
        """Before the first image."""
        first = next(iter(values.values()))
        distance = torch.full((len(first),), torch.inf, device=first.device)
        return cls(distance, torch.full_like(distance, NO_IMAGE, dtype=torch.long), dict(values))

    def update(
        self,
        index: Int[Tensor, "b m"],
        distance: Float[Tensor, "b m"],
        image_id: Int[Tensor, " b"],
        values: Mapping[str, Tensor],
    ) -> None:
        """Take in a batch.

        Args:
            index: the prototypes that each image is compared with.
            distance: to them.
            image_id: of the images.
            values: by name, ``b m ...``.
        """
        rows, images = index.flatten(), image_id[:, None].expand_as(index).flatten()
        old, size = self.distance, len(self.distance)
        self.distance = old.scatter_reduce(0, rows, distance.flatten(), "amin")
        near = distance.flatten() == self.distance[rows]
        first = torch.full_like(self.image_id, NO_IMAGE)
        first = first.scatter_reduce(0, rows, torch.where(near, images, NO_IMAGE), "amin")
        kept = torch.where(old == self.distance, self.image_id, NO_IMAGE)  # an earlier image may be as near
        wins = near & (images == first[rows]) & (images < kept[rows])
        self.image_id = torch.minimum(first, kept)
        # Winners alone are written, one a prototype: the others go to a row that is cut off.
        where = torch.where(wins, rows, size)
        for name, before in self.values.items():
            longer = torch.cat([before, before[:1]])
            self.values[name] = longer.index_put((where,), values[name].flatten(0, 1).to(before.dtype))[:-1]

    def join(self) -> "Nearest":
        """The nearest over all processes, the same in each."""
        distance, image_id = _all(self.distance), _all(self.image_id)
        near = distance == distance.amin(0)
        owner = torch.where(near, image_id, NO_IMAGE).argmin(0)  # each image was shown to one process: no ties
        columns = torch.arange(len(owner), device=owner.device)
        values = {name: _all(value)[owner, columns] for name, value in self.values.items()}
        return Nearest(distance[owner, columns], image_id[owner, columns], values)


def _all(x: Tensor) -> Tensor:
    """``w p ...``: that of all processes; integers travel as float64, which holds those below 2^53 exactly."""
    return gather(x[None] if x.is_floating_point() else x[None].double()).to(x.dtype)


def group_prototypes(prototypes: Float[Tensor, "p d"], groups: int, rounds: int = 30) -> Int[Tensor, " p"]:
    """k-means without chance: centres start at points far from each other; the group of each prototype.

    Computed in float64 on the CPU, so that every process finds the same.
    """
    points = prototypes.detach().double().cpu()
    centres = points.mean(0, keepdim=True)
    chosen: list[Tensor] = []
    for _ in range(min(groups, len(points))):
        chosen.append(points[torch.cdist(points, centres).amin(1).argmax()])
        centres = torch.stack(chosen)
    group = torch.cdist(points, centres).argmin(1)
    for _ in range(rounds):
        count = torch.bincount(group, minlength=len(centres))[:, None]
        mean = torch.zeros_like(centres).index_add(0, group, points) / count.clamp(min=1)
        centres = torch.where(count > 0, mean, centres)
        group = torch.cdist(points, centres).argmin(1)
    return group.to(prototypes.device)


class Windows(nn.AvgPool2d):
    """Means over windows twice as wide as they lie apart: each is centred on the cell that it becomes.

    Args:
        apart: cells from one window to the next; even.

    Raises:
        ValueError: windows would not be centred so; ``forward`` refuses maps whose sides do not divide by ``apart``.
    """

    def __init__(self, apart: int) -> None:
        if apart < 2 or apart % 2:
            raise ValueError(
                f"average is {apart}; windows lie an even number of cells apart: 2, 4, ..., or null for none"
            )
        super().__init__(2 * apart, apart, apart // 2, count_include_pad=False)
        self.apart = apart

    def forward(self, maps: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d u v"]:
        """The means."""
        height, width = maps.shape[2:]
        if height % self.apart or width % self.apart:
            raise ValueError(
                f"average is {self.apart}, which does not divide the {height} x {width} cells of the network's map: "
                "change it (null for none) or the size of the views"
            )
        means: Tensor = super().forward(maps)
        return means
