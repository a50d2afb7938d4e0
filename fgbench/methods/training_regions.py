"""What parts are to the training images, found in one pass: their best regions, and what they give to each class."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch import distributed as dist

from fgbench.layers.distributed import world_size
from fgbench.layers.part_importance import spherical_kmeans
from fgbench.layers.regions import Regions, on_device
from fgbench.methods.base import Method
from fgbench.types import Batch

BEST = 5  # training images kept for each part


class TrainingRegions(Method):
    """A method with parts that keeps, in its checkpoint, what a pass over the training split says of them.

    A subclass calls ``make_record`` when it is made, and has ``maps``, ``areas``, ``boxes``, ``bag`` and ``part``.

    Attributes:
        concluded: whether a pass was made, here or before the checkpoint that was loaded; ``was_shown``, the buffer in
            checkpoints, says the same, but asking it would wait for the device at every batch of a test.
        class_bag: ``k p``, mean bag of parts over the training images of each class.
        best_score: ``p t``, largest scores over the training images, one region of each image.
        best_image: ``p t``, their images.
        best_box: ``p t 4``, their regions, ``y0 x0 y1 x1`` as shares of the input's height and width.
        directions: ``g d``, centres of the groups that the parts' directions fall into.
    """

    class_bag: Tensor
    best_score: Tensor
    best_image: Tensor
    best_box: Tensor
    directions: Tensor
    was_shown: Tensor
    part: torch.nn.Linear
    concluded = False

    def make_record(self, classes: int, parts: int, groups: int, channels: int) -> None:
        """Room for what a pass finds."""
        self.register_buffer("was_shown", torch.zeros((), dtype=torch.bool))
        self.register_buffer("class_bag", torch.zeros(classes, parts))
        self.register_buffer("best_score", torch.full((parts, BEST), -torch.inf))
        self.register_buffer("best_image", torch.full((parts, BEST), -1))
        self.register_buffer("best_box", torch.zeros(parts, BEST, 4))
        self.register_buffer("directions", torch.zeros(groups, channels))
        self._sums: tuple[Tensor, Tensor] | None = None
        self.register_load_state_dict_post_hook(_read_flag)  # type: ignore[no-untyped-call]

    def group_directions(self) -> Float[Tensor, "g d"]:
        """Centres of groups of the parts' directions: of the last pass, or of the parts as they are."""
        if self.concluded:
            return self.directions
        return spherical_kmeans(self.part.weight.detach(), len(self.directions))

    def maps(self, batch: Batch) -> Float[Tensor, "b d u v"]:
        """What the frozen network says of a batch."""
        raise NotImplementedError

    def areas(self, maps: Float[Tensor, "b d u v"], image_id: Int[Tensor, " b"]) -> Regions:
        """The regions of images."""
        raise NotImplementedError

    def boxes(self, image_id: Int[Tensor, " b"], size: tuple[int, int]) -> Int[Tensor, "i r 4"]:
        """The rectangles of images."""
        raise NotImplementedError

    def bag(self, regions: Regions) -> tuple[Float[Tensor, "b p"], Float[Tensor, "b p"], Int[Tensor, "b p"]]:
        """The bag of parts as it is classified, the largest scores, and which region has each."""
        raise NotImplementedError

    def wants_pass(self, epoch: int) -> bool:
        """After the last epoch; after each where a validation may choose another than the last."""
        if "was_shown" not in self._buffers:
            return False
        return bool(self.trainer.limit_val_batches) or epoch + 1 == self.trainer.max_epochs

    def observe(self, batch: Batch) -> None:
        """Add a batch to the sums, and keep the best regions."""
        maps = self.maps(batch)
        bag, best, index = self.bag(self.areas(maps, batch.image_id))
        if self._sums is None:
            classes, parts = self.class_bag.shape
            zeros = torch.zeros(classes, parts, dtype=torch.float64, device=bag.device)
            self._sums = (zeros, torch.zeros_like(zeros[:, 0]))
            self.best_score.fill_(-torch.inf)
        of_class = batch.target.double()
        if self.target == "class":
            of_class = torch.nn.functional.one_hot(batch.target, self.num_outputs).double()
        self._sums[0].add_(of_class.T @ bag.double())
        self._sums[1].add_(of_class.sum(0))
        size = (maps.shape[2], maps.shape[3])
        boxes = self.boxes(batch.image_id, size).expand(len(bag), -1, -1)
        own = boxes.gather(1, index[..., None].expand(-1, -1, 4)).transpose(0, 1)  # p b 4
        self._keep(best.T, batch.image_id.expand(len(best.T), -1), own / on_device((*size, *size), own.device))

    def _keep(self, score: Tensor, image: Tensor, box: Tensor) -> None:
        """The best of those that were kept and these; of equal ones that of the lower image number."""
        score, image = torch.cat([self.best_score, score], 1), torch.cat([self.best_image, image], 1)
        box = torch.cat([self.best_box, box.to(self.best_box.dtype)], 1)
        order = image.argsort(dim=1, stable=True)
        order = order.gather(1, score.gather(1, order).argsort(dim=1, descending=True, stable=True))[:, :BEST]
        self.best_score.copy_(score.gather(1, order))
        self.best_image.copy_(image.gather(1, order))
        self.best_box.copy_(box.gather(1, order[..., None].expand(-1, -1, 4)))

    def conclude(self) -> None:
        """Join the processes' sums and best regions."""
        if self._sums is None:
            raise RuntimeError("a pass was concluded in which this process saw no image")
        bags, counts = self._sums
        if world_size() > 1:
            for sums in (bags, counts):
                dist.all_reduce(sums)
            kept = [_gather(found) for found in (self.best_score, self.best_image, self.best_box)]
            self.best_score.fill_(-torch.inf)
            self._keep(*kept)
        self.class_bag.copy_(bags / counts.clamp(min=1)[:, None])
        self.directions.copy_(spherical_kmeans(self.part.weight.detach(), len(self.directions)))
        self.was_shown.fill_(True)
        self.concluded = True
        self._sums = None


def _read_flag(method: TrainingRegions, _: object) -> None:
    """After weights were loaded, once: whether they saw a pass. It is told which method: a copy has this hook too."""
    method.concluded = bool(method.was_shown)


def _gather(kept: Tensor) -> Tensor:
    """What all processes kept, side by side along the second axis."""
    shards = [torch.empty_like(kept) for _ in range(world_size())]
    dist.all_gather(shards, kept.contiguous())
    return torch.cat(shards, dim=1)
