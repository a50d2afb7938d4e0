"""Which images make a batch, and which process gets it. The only place that knows how many processes there are.

Batches are lists of ``(row, draw)``: the row of the dataset, and the key of its random choices (the epoch).
"""

from collections.abc import Iterator, Sequence

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
        order = rng.permutation(self.rows).tolist()
        for start in range(rank * share, len(self) * self.batch_size, self.batch_size):
            yield [(row, self.epoch) for row in order[start : start + share]]

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
        shapes: of each image's input; None when the view gives all the same.
        place: rank and number of processes; None asks ``torch.distributed``.
    """

    def __init__(
        self,
        rows: Int[ndarray, " n"],
        batch_size: int,
        shapes: Sequence[tuple[int, int]] | None = None,
        place: tuple[int, int] | None = None,
    ) -> None:
        self.rows, self.batch_size, self.place = rows, batch_size, place
        buckets: dict[tuple[int, int] | None, list[int]] = {}
        for i, row in enumerate(rows.tolist()):
            buckets.setdefault(shapes[i] if shapes is not None else None, []).append(row)
        batches = [b[i : i + batch_size] for b in buckets.values() for i in range(0, len(b), batch_size)]
        self.batches = sorted(batches, key=len, reverse=True)

    def _mine(self) -> list[list[int]]:
        rank, world = self.place or processes()
        if len(self.rows) < world:
            raise ValueError(
                f"{len(self.rows)} images cannot be shared by {world} processes, one each at least: use fewer"
            )
        batches = list(self.batches)
        while len(batches) < world:  # a tiny split: halve the largest until everybody has something to do
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            half = len(batches[largest]) // 2
            batches[largest : largest + 1] = [batches[largest][:half], batches[largest][half:]]
        return batches[rank::world]

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in self._mine():
            yield [(row, 0) for row in batch]

    def __len__(self) -> int:
        return len(self._mine())
