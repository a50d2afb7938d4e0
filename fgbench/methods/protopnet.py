"""ProtoPNet: an image is compared with prototypes, each of them a patch of a training image of one class.

The evidence is where an image is like the prototypes of the predicted class (``saliency``), and where it is like
groups of prototypes that resemble each other (``parts``). It is "this looks like that": each prototype has a picture.

Paper: Chen, Li, Tao, Barnett, Su & Rudin, This Looks Like That: Deep Learning for Interpretable Image Recognition,
NeurIPS 2019. Code by the authors: github.com/cfchen-duke/ProtoPNet (MIT), used as a reference only. Layers, initial
values, losses, rates and weight decay are the code's.

Differences from paper and from code, each with its reason:

* Three stages alternate inside one training, and the shares of its epochs are ours (``timetable``): ``warm`` (all but
  backbone and last layer), then cycles of ``joint`` (all but the last layer), a projection, and ``last`` (the last
  layer alone). The code trains 5 warm epochs, projects every 10 epochs and then makes 20 passes for the last layer;
  its epochs have 30 images for each original, made by rotation, skew, shear and distortion before training. Ours are
  those of the dataset's protocol, changed as they are read.
* Whole images. The code crops CUB to the true boxes, at test too; the suite's protocols hand no box to a method.
* Images for the projection come in the test view, as the code's do without augmentation.
* While the last layer learns, batch norm stands still: else the patches that prototypes were projected on would move
  away from them. (VGG, the paper's network, has no batch norm.) In the other stages it normalises by the batch, as the
  code has it, and its moments move, also where its weights do not: with small batches the new layers then learn on maps
  that a test never shows. ``still_norm: always`` keeps the moments throughout (``experiments/tracks/cub20_focus`` has
  numbers).
* A stage's frozen parameters get no gradient and no decay; their moments in the optimiser stand still. The code has
  an optimiser per stage, which is the same but for one thing: rates fall over all joint epochs (``optim.schedule``).
* The separation is clipped by nothing; the code's mask caps distances at 128, which no sigmoid of 128 channels
  exceeds.
* The sigmoid, distances, similarities and the last layer are computed in float32 whatever the network's precision.
* Of equally near patches the one with the smaller ``image_id`` is taken, then the earlier cell, so that any number of
  processes projects the same.
* ``parts`` is ours: the prototypes of all classes are grouped by k-means (no label is used), and a part's map is the
  largest similarity to a prototype of its group, above its mean over the image. ``saliency`` is ours, too:
  similarities to the predicted class's prototypes (``bound_parts``, one by one), weighed by the last layer.
* A prototype's place is not proof of what it stands for: a cell of a deep stage sees far more of the image than itself,
  and no cost prefers a cell on the object to one beside it (``experiments/cells/toybirds/protopnet.yaml`` has counts).
* VGG's fifth pool is left out of the suite's backbones; ``pool`` puts it back (7 x 7 cells at 224 pixels). Other
  networks end at stride 32 as they are, and are pooled only where ``pool`` asks for it.
* ``average`` is ours: prototypes of means over overlapping windows of the map. The nearest single cell of hundreds is
  often a chance likeness beside the object (``experiments/tracks/cub20_focus/protopnet.yaml`` has counts).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fgbench.backbones import Backbone
from fgbench.layers.distributed import world_size
from fgbench.layers.patches import high_activation_boxes, strongest
from fgbench.layers.prototypes import (
    Nearest,
    Windows,
    group_prototypes,
    log_similarity,
    nearest_cells,
    squared_distances,
)
from fgbench.methods.base import Method, Optim
from fgbench.methods.prototype_stages import Epoch, Stage, timetable
from fgbench.pretrained import Colour
from fgbench.types import Batch, Output, Target

OTHER_CLASS = -0.5  # of the last layer at the start; 1 for the prototypes of the class itself
PICTURE = 32  # pixels, side of a prototype's picture
EXTENT = 0.05**0.5  # its share of the image's sides: a twentieth of the area, what a high-activation box holds at least
SHOWN = 5  # prototypes in a figure


def cluster_and_separation(
    distance: Float[Tensor, "b k"], target: Int[Tensor, " b"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean distance to the nearest prototype of the image's class, and of all other classes.

    Args:
        distance: of each image to the nearest prototype of each class.
        target: the images' classes.
    """
    own = distance.gather(1, target[:, None])
    others = distance.scatter(1, target[:, None], torch.inf).min(1).values
    return own.mean(), others.mean()


class ProtoPNet(Method):
    """Prototypes on a backbone.

    Args:
        backbone: name of the network, a key of ``fgbench.backbones.ARCHITECTURES``.
        weights: null (from scratch), ``imagenet1k_v1`` or the path of a weights file.
        mean: normalisation of the network's input; null takes what the weights say.
        std: like ``mean``.
        stages: of the backbone; null for all.
        pool: halve the backbone's map by a max-pool (VGG's fifth); null for a VGG only.
        per_class: prototypes of each class.
        channels: of a prototype.
        parts: groups of prototypes that are shown as parts.
        cluster: weight of the distance to the nearest prototype of the own class.
        separation: weight of the distance to the nearest other prototype, which is to be large.
        off_class: weight of the sum of the last layer's absolute weights between a class and others' prototypes.
        warm: share of the epochs, see ``timetable``.
        last: share of the epochs after ``warm``, see ``timetable``.
        last_factor: learning rate of the last layer over ``optim.lr``.
        projections: of prototypes on training patches; 0 leaves them what they are (no pictures then).
        still_norm: ``always``: batch norm keeps its moments in all stages; null: in the last one only.
        average: an even number; the map (after ``pool``) is averaged over windows of twice so many cells a side, which
            lie so many cells apart: 2 makes 7 x 7 cells of 14 x 14. Null leaves it as it is.
        num_outputs: see ``Method``.
        target: see ``Method``.
        optim: see ``Method``.
    """

    undefined_for: ClassVar[Mapping[Target, str]] = {
        "attributes": "each prototype belongs to one of exclusive classes, and an image has several attributes"
    }
    figures = ("prototypes", "gallery")
    group: Tensor
    source: Tensor
    place: Tensor
    picture: Tensor
    own: Tensor

    def __init__(
        self,
        num_outputs: int,
        target: Target,
        optim: Optim,
        backbone: str = "vgg19",
        weights: str | None = "imagenet1k_v1",
        mean: Colour | None = None,
        std: Colour | None = None,
        stages: int | None = None,
        pool: bool | None = None,
        per_class: int = 10,
        channels: int = 128,
        parts: int = 8,
        cluster: float = 0.8,
        separation: float = 0.08,
        off_class: float = 1e-4,
        warm: float = 0.1,
        last: float = 0.3,
        last_factor: float = 1.0,
        projections: int = 3,
        still_norm: Literal["always"] | None = None,
        average: int | None = None,
    ) -> None:
        super().__init__(num_outputs, target, optim)
        for name, value in {"per_class": per_class, "channels": channels, "parts": parts}.items():
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        if num_outputs < 2:
            raise ValueError(f"prototypes are told apart by class, and there are {num_outputs}: need 2 or more")
        if not (0 <= warm < 1 and 0 <= last < 1 and projections >= 0 and last_factor > 0):
            raise ValueError(
                f"warm={warm}, last={last}, projections={projections}, last_factor={last_factor}: shares of the epochs "
                "are at least 0 and below 1, projections at least 0, the factor above 0"
            )
        self.backbone = Backbone(backbone, weights, stages=stages, mean=mean, std=std)
        pool = backbone.startswith("vgg") if pool is None else pool
        self.pool = nn.Sequential()
        if pool:
            self.pool.append(nn.MaxPool2d(2, 2))
        if average is not None:
            self.pool.append(Windows(average))
        first, second = nn.Conv2d(self.backbone.out_channels, channels, 1), nn.Conv2d(channels, channels, 1)
        for layer in (first, second):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # there is one
        self.add_on = nn.Sequential(first, nn.ReLU(), second)
        count = num_outputs * per_class
        self.prototypes = nn.Parameter(torch.rand(count, channels))
        self.classifier = nn.Linear(count, num_outputs, bias=False)
        own = torch.arange(num_outputs)[:, None] == torch.arange(count) // per_class
        with torch.no_grad():
            self.classifier.weight.copy_(torch.where(own, 1.0, OTHER_CLASS))
        self.per_class, self.bound_parts, self.parts = per_class, per_class, parts
        self.cluster, self.separation, self.off_class = cluster, separation, off_class
        self.warm, self.last, self.last_factor, self.projections = warm, last, last_factor, projections
        self.still_norm = still_norm
        self.stage: Stage = "joint"
        self._nearest: Nearest | None = None
        self.register_buffer("own", own, persistent=False)
        self.register_buffer("group", torch.arange(count) % parts)
        self.register_buffer("source", torch.full((count,), -1))  # image_id of the patch that a prototype is
        self.register_buffer("place", torch.zeros(count, 2))  # its centre, x y, as fractions of the image's sides
        self.register_buffer("picture", torch.zeros(count, 3, PICTURE, PICTURE, dtype=torch.uint8))

    # ---- forward

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Logits, similarity to the predicted class's prototypes, and to groups of prototypes."""
        return self.show(image)

    def show(self, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"] | None = None) -> Output:
        """The same, with the prototypes of any class of each image."""
        maps = self.similarities(image)
        logits = self.logits(maps.flatten(2).amax(2))
        index = logits.argmax(1) if index is None else index
        weights = self.classifier.weight.view(self.num_outputs, self.num_outputs, self.per_class)[index, index].relu()
        own = maps.unflatten(1, (-1, self.per_class))[torch.arange(len(index), device=index.device), index]
        with torch.autocast(maps.device.type, enabled=False):
            saliency = torch.einsum("bm,bmuv->buv", weights, own)
        return Output(logits, saliency, self._parts(maps), bound_parts=own)

    def explain(self, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"] | None:
        """Similarity to any class's prototypes, weighed by the last layer."""
        return self.show(image, index).saliency

    @torch.no_grad()
    def contributions(self, batch: Batch, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        """Similarity times weight, summed over the prototypes of each group, those of other classes too."""
        added = self.similarities(batch.image).flatten(2).amax(2) * self.classifier.weight.float()[index]
        return added.new_zeros(len(added), int(self.parts or 0)).index_add(1, self.group, added)

    def similarities(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p u v"]:
        """How much each cell is like each prototype of all classes; non-negative."""
        return log_similarity(self.distances(self.cells(image)))

    def cells(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d u v"]:
        """What prototypes are compared with; from 0 to 1, float32."""
        raw: Tensor = self.add_on(self.pool(self.backbone(image)))
        return raw.float().sigmoid()

    def distances(self, cells: Float[Tensor, "b d u v"]) -> Float[Tensor, "b p u v"]:
        """Squared, in float32."""
        with torch.autocast(cells.device.type, enabled=False):
            return squared_distances(cells, self.prototypes)

    def logits(self, similarity: Float[Tensor, "b p"]) -> Float[Tensor, "b k"]:
        """The last layer, in float32."""
        with torch.autocast(similarity.device.type, enabled=False):
            logits: Tensor = self.classifier(similarity)
        return logits

    def _parts(self, maps: Float[Tensor, "b p u v"]) -> Float[Tensor, "b g u v"]:
        index = self.group[:, None, None].expand_as(maps)
        best = maps.new_zeros(len(maps), int(self.parts or 0), *maps.shape[2:])
        best = best.scatter_reduce(1, index, maps, "amax")
        return (best - best.mean((2, 3), keepdim=True)).relu()

    # ---- losses and stages

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Classification, cluster and separation costs, and the last layer's weights between classes."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.stage == "joint"):
            features = self.pool(self.backbone(batch.image))
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.stage != "last"):
            distance = self.distances(self.add_on(features).float().sigmoid()).flatten(2).min(2).values
        classification = self.classification_loss(self.logits(log_similarity(distance)), batch)
        cluster, separation = cluster_and_separation(distance.unflatten(1, (-1, self.per_class)).amin(2), batch.target)
        off_class = self.classifier.weight.masked_fill(self.own, 0).abs().sum()
        terms = {"classification": classification, "cluster": cluster, "separation": separation, "off_class": off_class}
        loss = classification + self.cluster * cluster - self.separation * separation + self.off_class * off_class
        if world_size() > 1:  # every process waits for a gradient of every parameter; ``_frozen`` get zeros, then none
            loss = loss + 0 * torch.stack([parameter.sum() for parameter in self._frozen()]).sum()
        return loss, {name: term.detach() for name, term in terms.items()}

    def _frozen(self) -> list[nn.Parameter]:
        """Parameters that the stage does not train."""
        parts: dict[Stage, list[nn.Module]] = {
            "warm": [self.backbone, self.classifier],
            "joint": [self.classifier],
            "last": [self.backbone, self.add_on],
        }
        held = [parameter for part in parts[self.stage] for parameter in part.parameters()]
        return [*held, self.prototypes] if self.stage == "last" else held

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """What the stage does not train gets no step, no decay, and keeps its moments."""
        for parameter in self._frozen():
            parameter.grad = None

    def timetable(self) -> tuple[Epoch, ...]:
        """Of the training that runs."""
        return timetable(self.trainer.max_epochs or 0, self.warm, self.last, self.projections)

    def on_train_epoch_start(self) -> None:
        """Begin the epoch's stage."""
        self.stage = self.timetable()[self.current_epoch].stage
        self.backbone.train(self.stage != "last" and self.still_norm is None)

    def on_train_epoch_end(self) -> None:
        """Group the prototypes, so that what is saved can show parts."""
        super().on_train_epoch_end()
        self.group.copy_(group_prototypes(self.prototypes, int(self.parts or 0)))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Backbone, add-on layers, prototypes, last layer; the two latter do not decay."""
        rate = self.optim.lr
        new = rate * self.optim.new_layer_factor
        return [
            {"name": "backbone", "params": list(self.backbone.parameters()), "lr": rate},
            {"name": "new", "params": list(self.add_on.parameters()), "lr": new},
            {"name": "prototypes", "params": [self.prototypes], "lr": new, "weight_decay": 0.0},
            {"name": "last", "params": list(self.classifier.parameters()), "lr": rate * self.last_factor,
             "weight_decay": 0.0},
        ]  # fmt: skip

    def factor(self, group: str, step: int, total: int) -> float:
        """The schedule runs over the joint epochs; before them, and for the last layer, rates are full."""
        if group == "last":
            return 1.0
        table = self.timetable()
        length = max(1, total // max(1, len(table)))
        epoch, within = divmod(step, length)
        joint = [entry.stage == "joint" for entry in table]
        now = sum(joint[:epoch]) * length
        if epoch < len(table) and not joint[epoch]:
            return 1.0 if now == 0 else self.optim.factor(now, sum(joint) * length)
        return self.optim.factor(now + within, sum(joint) * length)

    # ---- projection

    def wants_pass(self, epoch: int) -> bool:
        """After the last joint epoch of each cycle."""
        return self.timetable()[epoch].projects

    def observe(self, batch: Batch) -> None:
        """Compare the images with the prototypes of their classes."""
        cells = self.cells(batch.image)
        own, distance, cell = nearest_cells(cells, batch.target, self.prototypes, self.per_class)
        u, v = cells.shape[2:]
        place = centres(cell, u, v)
        rows = torch.arange(len(cells), device=cells.device)[:, None]
        if self._nearest is None:
            start = {"latent": self.prototypes.detach().clone(), "place": self.place, "picture": self.picture}
            self._nearest = Nearest.start(start)
        self._nearest.update(own, distance, batch.image_id, {
            "latent": cells.flatten(2).transpose(1, 2)[rows, cell],
            "place": place,
            "picture": cut(self.backbone.to_bytes(batch.image), place),
        })  # fmt: skip

    def conclude(self) -> None:
        """Each prototype becomes the nearest patch of its class."""
        if self._nearest is None:
            raise RuntimeError("no training image was shown to this process: use fewer processes")
        nearest, self._nearest = self._nearest.join(), None
        self.prototypes.data.copy_(nearest.values["latent"])
        self.place.copy_(nearest.values["place"])
        self.picture.copy_(nearest.values["picture"])
        self.source.copy_(torch.where(nearest.distance.isfinite(), nearest.image_id, self.source))

    # ---- figures

    @torch.no_grad()
    def figure(self, name: str, batch: Batch) -> Mapping[str, Tensor]:
        """``prototypes``: those that the image is most like, and where; ``gallery``: all of the predicted class.

        ``weight`` is the last layer's, from each prototype to the predicted class.
        """
        image = batch.image
        maps = self.similarities(image)
        predicted = self.logits(maps.flatten(2).amax(2)).argmax(1)
        if name == "gallery":
            index = predicted * self.per_class + torch.arange(self.per_class, device=maps.device)
            maps = maps[:, index]
        else:
            maps, order = strongest(maps, SHOWN)
            index = order[0]
        place = centres(maps.flatten(2).argmax(2), maps.shape[2], maps.shape[3])
        return {
            "predicted": predicted,
            "maps": maps[0],
            "patch": cut(self.backbone.to_bytes(image), place)[0],
            "weight": self.classifier.weight[predicted[0], index],
            "similarity": maps[0].flatten(1).amax(1),
            "boxes": high_activation_boxes(maps, image.shape[2], image.shape[3])[0],
            "class": index.div(self.per_class, rounding_mode="floor"),
            "picture": self.picture[index],
            "source": self.source[index],
        }


def centres(cell: Int[Tensor, "b m"], u: int, v: int) -> Float[Tensor, "b m 2"]:
    """Of cells (``row * v + column``): x y as fractions of the image's sides."""
    return torch.stack([(cell % v + 0.5) / v, (cell.div(v, rounding_mode="floor") + 0.5) / u], dim=-1)


def cut(image: Tensor, place: Float[Tensor, "b m 2"]) -> Tensor:
    """Small pictures around places of images, ``b m 3 s s`` bytes; black beyond the image's border."""
    step = (torch.arange(PICTURE, device=place.device) + 0.5) / PICTURE - 0.5
    centre = 2 * place[:, :, None, None] - 1
    offset = 2 * EXTENT * torch.stack(torch.meshgrid(step, step, indexing="xy"), dim=-1)
    grid = (centre + offset).flatten(1, 2)  # b (m s) s 2
    found = nn.functional.grid_sample(image.float(), grid.float(), mode="bilinear", align_corners=False)
    pictures: Tensor = found.unflatten(2, (place.shape[1], PICTURE)).transpose(1, 2)
    return pictures.round().to(torch.uint8)
