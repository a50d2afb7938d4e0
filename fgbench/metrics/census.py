"""The census: did all processes together see every image of a split, each once?"""

from collections.abc import Sequence

import numpy as np
import torch
import torchmetrics
from torch import Tensor


class Census(torchmetrics.Metric):
    """Which images the processes saw: their count, and integer sums of their ids, which a wrong set would change."""

    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, image_id: Tensor) -> None:
        """Add the images of a batch."""
        ids = image_id.to(torch.int64)
        self.sums += torch.stack([torch.ones_like(ids).sum(), ids.sum(), (ids * ids).sum()])

    def compute(self) -> Tensor:
        """Count, sum of ids, sum of their squares."""
        return self.sums

    def check(self, loader: str, expected: Sequence[int] | np.ndarray) -> int:
        """The number of images seen by all processes.

        Raises:
            RuntimeError: it is not the split's, or they are not the split's images.
        """
        seen = self.compute().tolist()
        ids = np.asarray(expected, dtype=np.int64)
        if seen != [len(ids), int(ids.sum()), int((ids * ids).sum())]:
            size = f"{seen[0]} images, the split has {len(ids)}"
            what = size if seen[0] != len(ids) else "some images twice and others not at all"
            raise RuntimeError(
                f"the {loader} loader showed {what}; every image must be seen exactly once. "
                "Use the datamodule's loaders with Trainer(use_distributed_sampler=False), and no limit_test_batches"
            )
        return len(ids)
