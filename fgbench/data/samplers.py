"""Which images make a batch, and which process gets it. The only place that knows how many processes there are.

Batches are lists of ``(row, draw)``: the row of the dataset, and the key of its random choices (the epoch).
"""

from collections.abc import Iterator

import numpy as np
import torch.distributed as dist
from jaxtyping import Int
from numpy import ndarray
from torch.utils.data import Sampler

Key = tuple[int, int]


def processes() -> tuple[int, int]:
    """Rank of this process and number of all; asked when a loader is used, as it may be built before they are up."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class TrainBatches(Sampler[list[Key]]):
    """Global batch ``i`` of an epoch is slice ``i`` of the epoch's permutation, and a process gets its contiguous part.

    So any number of processes sees the same global batches as one. What does not fill a batch is dropped.

    Args:
        rows: images to draw from.
        batch_size: of the global batch.
        seed: with the epoch it decides the permutation.
        place: rank and number of processes; None asks ``torch.distributed``.
    """

    def __init__(
        self, rows: Int[ndarray, " n"], batch_size: int, seed: int, place: tuple[int, int] | None = None
    ) -> None:
        self.rows, self.batch_size, self.seed, self.place, self.epoch = rows, batch_size, seed, place, 0
        if len(rows) < batch_size:
            raise ValueError(
                f"the train split has {len(rows)} images, fewer than one batch of {batch_size}: lower batch_size"
            )

    @property
    def sampler(self) -> "TrainBatches":
        """Itself: Lightning calls ``set_epoch`` on ``loader.batch_sampler.sampler``, not on the batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation and the draws of the next iteration."""
        self.epoch = epoch

    def _share(self) -> tuple[int, int]:
        rank, world = self.place or processes()
        if self.batch_size % world:
            raise ValueError(
                f"batch_size {self.batch_size} is the global batch and cannot be divided over {world} processes: "
                f"take {self.batch_size - self.batch_size % world or world}, or another number of processes"
            )
        return rank, self.batch_size // world

    def __iter__(self) -> Iterator[list[Key]]:
        rank, share = self._share()
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, self.epoch))))
        order = rng.permutation(self.rows)
        for start in range(rank * share, len(self) * self.batch_size, self.batch_size):
            yield [(row, self.epoch) for row in order[start : start + share].tolist()]

    def __len__(self) -> int:
        self._share()
        return len(self.rows) // self.batch_size


class EvalBatches(Sampler[list[Key]]):
    """Every image once, nothing padded, nothing dropped: process ``r`` of ``w`` gets batches ``r, r + w, ...``.

    Whole batches are dealt, rather than images ``r, r + w, ...``, so that an image meets the same neighbours, and so
    the same kernels and the same last digit, with any number of processes. Images of one batch have one shape. Large
    batches are dealt first, so that processes differ by one batch at most in any size.

    Args:
        rows: images to look at.
        batch_size: of one process.
        shapes: height and width of each image's input; None when the view gives all the same.
        place: rank and number of processes; None asks ``torch.distributed``.
    """

    def __init__(
        self,
        rows: Int[ndarray, " n"],
        batch_size: int,
        shapes: Int[ndarray, "n 2"] | None = None,
        place: tuple[int, int] | None = None,
    ) -> None:
        self.rows, self.batch_size, self.place = rows, batch_size, place
        self._order, first = rows, np.arange(0, len(rows), batch_size)
        if shapes is not None and len(rows):
            _, where, shape = np.unique(shapes, axis=0, return_index=True, return_inverse=True)
            # images of one shape together, shapes in the order in which they are met
            rank = np.argsort(np.argsort(where))[shape.reshape(-1)]
            self._order = rows[np.argsort(rank, kind="stable")]
            size = np.bincount(rank)
            count = -(-size // batch_size)
            within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            first = np.repeat(np.cumsum(size) - size, count) + within * batch_size
        length = np.diff(first, append=len(rows))
        large = np.argsort(-length, kind="stable")
        self._first, self._length = first[large], length[large]

    def _mine(self) -> tuple[Int[ndarray, " m"], Int[ndarray, " m"]]:
        """Where this process's batches start in the order, and how many images each has."""
        rank, world = self.place or processes()
        if len(self.rows) < world:
            raise ValueError(
                f"{len(self.rows)} images cannot be shared by {world} processes, one each at least: use fewer"
            )
        if len(self._first) >= world:
            return self._first[rank::world], self._length[rank::world]
        batches = list(zip(self._first.tolist(), self._length.tolist(), strict=True))
        while len(batches) < world:  # a tiny split: halve the largest until everybody has something to do
            largest = max(range(len(batches)), key=lambda i: batches[i][1])
            start, length = batches[largest]
            half = length // 2
            batches[largest : largest + 1] = [(start, half), (start + half, length - half)]
        first, lengths = np.array(batches[rank::world]).T
        return first, lengths

    def __iter__(self) -> Iterator[list[Key]]:
        for first, length in zip(*self._mine(), strict=True):
            yield [(row, 0) for row in self._order[first : first + length].tolist()]

    def __len__(self) -> int:
        return len(self._mine()[0])
