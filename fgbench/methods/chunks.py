"""Several passes over each chunk of training data, in steps of mini-batches: for methods whose images are prepared.

And, before the first step, random regions of the first chunk, the same in all processes.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist
from torch.nn.functional import normalize

from fgbench.layers.distributed import rank, world_size
from fgbench.layers.part_importance import spherical_kmeans
from fgbench.layers.regions import Regions, uniform
from fgbench.methods.base import Method
from fgbench.types import Batch

CANDIDATES = 8  # training regions per part that k-means groups
IMAGES = 32  # whose regions are held at once


class Chunks(Method):
    """A method whose batch is a chunk: ``inner_epochs`` passes over it, ``mini_batch`` images a step.

    A subclass calls ``set_chunks`` when it is made, and says in ``maps`` what it wants of a frozen network.
    """

    inner_epochs: int = 1
    mini_batch: int | None = None

    def set_chunks(self, inner_epochs: int, mini_batch: int | None) -> None:
        """Choose the passes.

        Raises:
            ValueError: impossible numbers.
        """
        if inner_epochs < 1 or (mini_batch is not None and mini_batch < 1):
            raise ValueError(f"inner_epochs is {inner_epochs}, mini_batch is {mini_batch}; both are 1 or more")
        self.inner_epochs, self.mini_batch = inner_epochs, mini_batch
        self.automatic_optimization = False

    def maps(self, batch: Batch) -> Float[Tensor, "b d u v"]:
        """What the frozen network says of a batch."""
        raise NotImplementedError

    def begin(self, batch: Batch) -> None:
        """Called before the first step of a training, with the first chunk."""

    def steps_of(self, share: int) -> int:
        """Steps that a process makes of its share of a chunk."""
        return self.inner_epochs * -(-share // self._own(share))

    def _own(self, share: int) -> int:
        """Images of a step in this process."""
        return share if self.mini_batch is None else min(share, self.mini_batch // world_size())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """All passes over one chunk; the mean loss."""
        if batch.prepared.ndim != 4:  # once for all passes
            batch = batch._replace(prepared=self._maps_in_steps(batch))
        if self.global_step == 0:
            self.begin(batch)
        share, own = len(batch.image), self._own(len(batch.image))
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        totals: dict[str, Tensor] = {}
        for inner in range(self.inner_epochs):
            key = torch.tensor([(self.current_epoch * 100_003 + batch_idx) * 1009 + inner])
            order = uniform(0, key, share, 1).flatten().argsort().to(batch.target.device)
            for start in range(0, share, own):
                loss, terms = self.loss(_some(batch, order[start : start + own]))
                optimizer.zero_grad()  # type: ignore[union-attr]
                self.manual_backward(loss)
                optimizer.step()  # type: ignore[union-attr]
                schedule.step()  # type: ignore[union-attr]
                terms = {"loss": loss.detach(), **terms}
                self._watch(terms)
                totals = {name: totals.get(name, 0) + value for name, value in terms.items()}
        means = {name: value / self.steps_of(share) for name, value in totals.items()}
        self.tell(means, share)
        return means["loss"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip, once a mixed precision's scale is out of the gradients."""
        if self.gradient_clip:
            torch.nn.utils.clip_grad_norm_((p for p in self.parameters() if p.requires_grad), self.gradient_clip)

    def _maps_in_steps(self, batch: Batch) -> Tensor:
        parts = [self.maps(_some(batch, rows)).half() for rows in torch.arange(len(batch.image)).split(IMAGES)]
        return torch.cat(parts)

    def total_steps(self) -> int:
        """Steps of the whole training: those of a chunk count."""
        if self.mini_batch is not None and self.mini_batch % world_size():
            raise ValueError(
                f"method.init_args.mini_batch is of all processes: {self.mini_batch} cannot be divided over "
                f"{world_size()}; set it to a multiple, or to null for whole chunks"
            )
        chunks = super().total_steps()  # Lightning makes the loader here
        loader: Any = self.trainer.train_dataloader
        return chunks * self.steps_of(loader.batch_sampler.batch_size // world_size())


def _some(batch: Batch, rows: Tensor) -> Batch:
    """Some images of a batch; pixels only where there is no row."""
    image = batch.image[: len(rows)] if batch.prepared.ndim == 4 else batch.image[rows]
    fields = {name: value[rows] for name, value in batch._asdict().items() if name != "image" and len(value)}
    return batch._replace(image=image, **fields)


def sample_regions(regions: Regions, count: int) -> Float[Tensor, "count d"]:
    """Random regions of a chunk that the processes share, the same in each of them.

    Args:
        regions: of this process's part of the chunk.
        count: how many.
    """
    share, processes = len(regions.cells), world_size()
    place = (uniform(1, torch.zeros(1, dtype=torch.int64), count, 2)[0]).to(regions.cells.device)
    image = (place[:, 0] * share * processes).long() - rank() * share
    region = (place[:, 1] * regions.number).long()
    found = regions.cells.new_zeros(count, regions.cells.shape[2])
    for start in range(0, share, IMAGES):
        features = regions.some(slice(start, start + IMAGES)).features()
        mine = ((image >= start) & (image < start + len(features))).nonzero()[:, 0]
        found[mine] = features[image[mine] - start, region[mine]]
    if processes > 1:
        dist.all_reduce(found)
    return found


def initial_parts(regions: Regions, count: int, grouped: bool) -> Float[Tensor, "count d"]:
    """Directions of random training regions, or the centres of groups of more of them."""
    if not grouped:
        return normalize(sample_regions(regions, count), dim=1)
    found = sample_regions(regions, CANDIDATES * count)
    return spherical_kmeans(found, count, start=found[:count])
