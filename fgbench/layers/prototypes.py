"""Prototypes: distances of all cells to all prototypes, and the nearest training cell of each prototype.

``Nearest`` keeps a running minimum over batches. Its result depends on neither the batches, nor their order, nor the
number of processes: of equal distances the smaller ``image_id`` counts, then the earlier cell.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fgbench.layers.distributed import gather

EPSILON = 1e-4  # of the logarithmic similarity; the authors' code


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


@dataclass
class Nearest:
    """For each prototype the nearest cell among the images of its class, over all batches so far.

    Prototypes ``c m`` to ``c m + m - 1`` belong to class ``c``.

    Attributes:
        distance: ``p`` float32, squared; infinite where no image of the class was shown.
        image_id: ``p`` int64.
        cell: ``p`` int64, ``row * v + column``.
        latent: ``p d``, the cell's features.
    """

    distance: Float[Tensor, " p"]
    image_id: Int[Tensor, " p"]
    cell: Int[Tensor, " p"]
    latent: Float[Tensor, "p d"]

    @classmethod
    def start(cls, prototypes: Float[Tensor, "p d"]) -> "Nearest":
        """Before the first image; a prototype that never meets one stays what it is."""
        none = torch.full((len(prototypes),), torch.iinfo(torch.int64).max, device=prototypes.device)
        return cls(torch.full_like(prototypes[:, 0], torch.inf), none, none.clone(), prototypes.detach().clone())

    @torch.no_grad()
    def update(
        self,
        cells: Float[Tensor, "b d u v"],
        target: Int[Tensor, " b"],
        image_id: Int[Tensor, " b"],
        prototypes: Float[Tensor, "p d"],
        per_class: int,
    ) -> None:
        """Take in a batch: each image is compared with the prototypes of its class only, all at once."""
        flat = cells.flatten(2)
        index = target[:, None] * per_class + torch.arange(per_class, device=target.device)  # b m
        distance = within(flat, prototypes[index])
        least = distance.min(-1).values
        places = torch.arange(flat.shape[2], device=flat.device)
        cell = torch.where(distance == least[..., None], places, len(places)).amin(-1)  # argmin may name any of equals
        rows = index.flatten()
        images = image_id[:, None].expand_as(index).flatten()
        old, size = self.distance, len(self.distance)
        self.distance = old.scatter_reduce(0, rows, least.flatten(), "amin")
        near = least.flatten() == self.distance[rows]
        huge = torch.iinfo(torch.int64).max
        first = torch.full((size,), huge, device=rows.device)
        first = first.scatter_reduce(0, rows, torch.where(near, images, huge), "amin")
        # a prototype whose earlier images are as near keeps the smallest image_id
        kept = torch.where(old == self.distance, self.image_id, huge)
        wins = near & (images == first[rows]) & (images < kept[rows])
        self.image_id = torch.minimum(first, kept)
        # Winners alone are written, one a prototype: the others go to a row that is cut off.
        where = torch.where(wins, rows, size)
        self.cell = _put(self.cell, where, cell.flatten())
        source = torch.arange(len(cells), device=rows.device)[:, None].expand_as(index).flatten()
        self.latent = _put(self.latent, where, flat.transpose(1, 2)[source, cell.flatten()])

    def join(self) -> "Nearest":
        """The nearest over all processes, the same in each."""
        distance = gather(self.distance[None])
        image_id = gather(self.image_id[None].double()).long()  # float64 holds them exactly
        cell, latent = gather(self.cell[None].double()).long(), gather(self.latent[None])
        near = distance == distance.amin(0)
        first = torch.where(near, image_id, torch.iinfo(torch.int64).max).argmin(0)  # images are shared out: no ties
        columns = torch.arange(len(first), device=first.device)
        return Nearest(*(x[first, columns] for x in (distance, image_id, cell, latent)))


def _put(into: Tensor, where: Int[Tensor, " n"], values: Tensor) -> Tensor:
    return torch.cat([into, into[:1]]).index_put((where,), values.to(into.dtype))[:-1]


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
