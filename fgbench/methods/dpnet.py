"""DP-Net: parts are vectors, matched with random rectangles of a frozen network's map; the best matches are classified.

The evidence is additive: a logit is the sum over parts of weight times best match. The saliency paints the best regions
of the parts that matter most to the predicted class.

Paper: Sicre, Zhang, Dejasmin, Daaloul, Ayache, Artieres, DP-Net: Learning Discriminative Parts for Image Recognition,
ICIP 2023 (arXiv 2404.15037). The authors published no code: what the paper leaves open is ours, and listed here.

From the paper: images of 544 px, squashed, no augmentation; a frozen VGG-19 or ResNet-50; 500 regions (ImageNet 100);
20 parts for each class (ImageNet 10); means of the regions, part layer and classifier without bias, maximum over
regions, L2; weights of the constraints; Adam, 1e-3, a tenth after each quarter; chunks of training data with 32 passes
over each (ImageNet 10).

Differences from what is printed:

* Orthogonality has a plus sign, and the class-specific term an absolute value; see ``losses.part_constraints``.
* d(p, c) is singular where one class alone uses a part; see ``layers.part_importance``. Parts of a class that count as
  its most activated: the paper does not say how many; ``parts_per_class``.
* The summary formula leaves out the L2 normalisation which the text has: it is done (``bag_norm``).

Ours, since the paper does not say:

* Rectangles are drawn in whole cells by a seed and the number of the image: the same in every epoch, in training and
  test. An image without a number (a figure's) gets those of number 0.
* VGG's map is that after the fifth pool (544 = 17 x 32, as ResNet-50's); ``tap: conv5_4`` takes the one before.
* Classification uses parts as they are, constraints parts of unit length. Chunk and mini-batch, initial parts
  (directions of random training regions) and weights of the classifier (normal, 0.01).
* The baselines (``head``): global1 and global2 have biases, global2 a ReLU; without it, two layers are one of low rank.
* With several processes each shuffles its own share of a chunk, so with ``mini_batch`` the number of processes changes
  which images meet in a step. Without it, it does not.
* Output.parts: there are thousands of parts, most of them of other classes than the image's; regressors from all of
  them would have more inputs than images, and the parts of the predicted class are other things in each class. So the
  parts' directions are grouped (spherical k-means, no labels) into ``shown_parts`` directions, which are the same for
  all images; each is matched with the regions as a part is, and its best ``top_regions`` are painted.
* The network always computes in float32, as ``prepare`` does; stored maps are float16.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, normalize

from fgbench.backbones import Backbone
from fgbench.layers import regions as areas
from fgbench.layers.part_importance import Weighting
from fgbench.layers.regions import Regions, Sampling, max_scores
from fgbench.losses.part_constraints import (
    Scale,
    assignment_balance,
    assignment_entropy,
    class_specificity,
    orthogonality,
    others,
)
from fgbench.methods.base import Optim
from fgbench.methods.chunks import Chunks, initial_parts
from fgbench.methods.part_evidence import PartEvidence
from fgbench.methods.preparation import Preparation
from fgbench.pretrained import Colour
from fgbench.types import Batch, Output, Target

Head = Literal["parts", "global1", "global2", "global2_linear"]


class FrozenMaps(nn.Module):
    """The backbone's last map, or what a further pool makes of it; float32. Gradients reach the image at most.

    Args:
        backbone: stays in evaluation mode.
        pool: halve the map by 2 x 2 maxima: VGG's fifth pool.
    """

    def __init__(self, backbone: Backbone, pool: bool) -> None:
        super().__init__()
        self.backbone, self.pool = backbone, pool

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d u v"]:
        """The map."""
        with torch.autocast(image.device.type, enabled=False):
            maps: Tensor = self.backbone(image.float())
            return max_pool2d(maps, 2) if self.pool else maps


class DPNet(Chunks, PartEvidence):
    """Parts on a frozen network, or a global baseline on the same maps.

    Args:
        backbone: name of the network, a key of ``fgbench.backbones.ARCHITECTURES``.
        weights: null (random), ``imagenet1k_v1``, ``toybirds_v1`` or the path of a weights file.
        mean: normalisation of the network's input; null takes what the weights say.
        std: like ``mean``.
        tap: of a VGG: ``pool5`` or ``conv5_4``; null for pool5, and for the last map of any other network.
        store: ``maps`` computes each image's map once, before training, and keeps it on disk; ``none`` computes it in
            every epoch.
        head: ``parts``, or a baseline on the mean of the map: one linear layer, two with a ReLU, two without.
        parts_per_class: parts owned by each class; with two layers, their width for each class.
        regions: rectangles of an image.
        draw: whether they are each image's own and stay, are drawn again in each epoch of training, or are the same for
            all images.
        sampling: see ``layers.regions.draw_boxes``.
        area: see there.
        region_norm: ``l2`` brings each region's mean to length one.
        bag_norm: bring the vector of maxima to length one.
        perp: weight of the orthogonality; 0 leaves it out. The paper's value with constraints: 0.01.
        assign: weight of the assignment's entropy (0.001). Of two the second weighs the evenness of the parts' use,
            without which one part may take all regions; it is not the paper's.
        specific: weight of the class-specific term (0.001).
        perp_sign: see ``losses.part_constraints``.
        specific_form: see there.
        constraint_scale: ``printed``, or terms of the order of one.
        temperature: of the assignment's softmax.
        init: parts begin as directions of random training regions, as centres of such, or as noise.
        classifier_init: normal, or 1 for a class's own parts and -0.5 for the others.
        inner_epochs: passes over each batch, which is then a chunk.
        mini_batch: images of a step, over all processes; null for the whole chunk.
        weighting: of d(p, c).
        top_parts: parts of a class that the heatmap shows.
        top_regions: regions of each of them.
        shown_parts: maps in Output.parts.
        num_outputs: see ``Method``.
        target: see ``Method``.
        optim: see ``Method``.
    """

    def __init__(
        self,
        num_outputs: int,
        target: Target,
        optim: Optim,
        backbone: str = "resnet50",
        weights: str | None = "imagenet1k_v1",
        mean: Colour | None = None,
        std: Colour | None = None,
        tap: Literal["pool5", "conv5_4"] | None = None,
        store: Literal["maps", "none"] = "maps",
        head: Head = "parts",
        parts_per_class: int = 20,
        regions: int = 500,
        draw: Literal["per_image_fixed", "per_epoch", "shared"] = "per_image_fixed",
        sampling: Sampling = "uniform_corners",
        area: tuple[float, float] = (0.02, 0.5),
        region_norm: Literal["none", "l2"] = "none",
        bag_norm: bool = True,
        perp: float = 0.0,
        assign: float | tuple[float, float] = 0.0,
        specific: float = 0.0,
        perp_sign: Literal["plus", "printed"] = "plus",
        specific_form: Literal["l1", "relu", "printed"] = "l1",
        constraint_scale: Scale = "printed",
        temperature: float = 1.0,
        init: Literal["regions", "kmeans", "normal"] = "regions",
        classifier_init: Literal["normal", "class"] = "normal",
        inner_epochs: int = 32,
        mini_batch: int | None = 64,
        weighting: Weighting = "log1p",
        top_parts: int = 10,
        top_regions: int = 5,
        shown_parts: int = 20,
    ) -> None:
        super().__init__(num_outputs, target, optim)
        self.backbone = Backbone(backbone, weights, mean=mean, std=std).requires_grad_(False).eval()
        if tap is not None and not backbone.startswith("vgg"):
            raise ValueError(f"tap {tap} is a layer of VGG, and the backbone is {backbone}: leave it null")
        least = {"parts_per_class": parts_per_class, "regions": regions, "inner_epochs": inner_epochs}
        least |= {"top_parts": top_parts, "top_regions": top_regions, "shown_parts": shown_parts}
        if low := [f"{name} is {value}" for name, value in least.items() if value < 1]:
            raise ValueError(f"{', '.join(low)}; it must be at least 1")
        self.assign, self.balance = assign if isinstance(assign, tuple) else (assign, 0.0)
        if min(perp, self.assign, self.balance, specific) < 0 or temperature <= 0 or not 0 < area[0] < area[1] <= 1:
            raise ValueError(
                f"perp={perp}, assign={self.assign}, balance={self.balance}, specific={specific}, "
                f"temperature={temperature}, area={area}: weights are at least 0, the temperature above 0, the area "
                "two ascending shares of the map above 0"
            )
        self.tap = (tap or "pool5") if backbone.startswith("vgg") else "last"
        self.store, self.head, self.per_class = store, head, parts_per_class
        self.regions, self.draw, self.sampling, self.area = regions, draw, sampling, area
        self.region_norm, self.bag_norm = region_norm, bag_norm
        self.perp, self.specific = perp, specific
        self.perp_sign, self.specific_form, self.scale = perp_sign, specific_form, constraint_scale
        self.temperature, self.init = temperature, init
        self.weighting, self.top_parts, self.top_regions = weighting, top_parts, top_regions
        self.set_chunks(inner_epochs, mini_batch)
        width, channels = num_outputs * parts_per_class, self.backbone.out_channels
        if head == "parts":
            self.part = nn.Linear(channels, width, bias=False)
            self.classifier = nn.Linear(width, num_outputs, bias=False)
            self.parts = shown_parts
            self._initialise(classifier_init)
            self.make_record(num_outputs, width, shown_parts, channels)
        else:
            self.figures = ()
            if head != "global1":
                self.part = nn.Linear(channels, width)
            self.classifier = nn.Linear(channels if head == "global1" else width, num_outputs)

    def _initialise(self, classifier: Literal["normal", "class"]) -> None:
        nn.init.normal_(self.part.weight, std=self.part.in_features**-0.5)
        nn.init.normal_(self.classifier.weight, std=0.01)
        if classifier == "class":
            foreign = others(self.num_outputs, self.per_class)
            with torch.no_grad():
                self.classifier.weight.copy_(torch.where(foreign, -0.5, 1.0))

    # ---- the frozen network

    def train(self, mode: bool = True) -> "DPNet":
        """As ever, but the network stays in evaluation mode: its batch norm must not see training data."""
        super().train(mode)
        self.backbone.eval()
        return self

    @property
    def network(self) -> FrozenMaps:
        """The frozen network; the backbone in it is this method's."""
        return FrozenMaps(self.backbone, self.tap == "pool5")

    def preparation(self) -> Preparation | None:
        """Every image's map."""
        if self.store == "none":
            return None
        key: dict[str, object] = {
            "backbone": self.backbone.arch,
            "weights": self.backbone.content_tag(),
            "tap": self.tap,
        }
        key |= {"mean": list(self.backbone.mean), "std": list(self.backbone.std)}
        advice = "make the maps smaller (data.init_args.test_view.size), store nothing (--method.init_args.store none)"
        return Preparation("maps", self.network, key, replaces_image=True, advice=advice)

    def maps(self, batch: Batch) -> Float[Tensor, "b d u v"]:
        """Stored (float16), or computed now; ``areas`` makes float32 of them, in the order of cells, in one copy."""
        found: Tensor = batch.prepared if batch.prepared.ndim == 4 else self.network(batch.image)
        return found

    def boxes(self, image_id: Int[Tensor, " b"], size: tuple[int, int]) -> Int[Tensor, "i r 4"]:
        """The rectangles of images, in cells: ``y0 x0 y1 x1``, the end not included."""
        epoch = self.current_epoch + 1 if self.draw == "per_epoch" and self.training else 0
        keys = image_id if self.draw != "shared" else torch.zeros_like(image_id[:1])
        return areas.draw_boxes(self.sampling, self.regions, size, epoch, keys, self.area)

    def areas(self, maps: Float[Tensor, "b d u v"], image_id: Int[Tensor, " b"]) -> Regions:
        """The regions of images."""
        boxes = self.boxes(image_id, (maps.shape[2], maps.shape[3]))
        return areas.regions_of(maps, boxes, self.region_norm == "l2")

    def begin(self, batch: Batch) -> None:
        """Parts that begin as training regions."""
        if self.head == "parts" and self.init != "normal":
            regions = self.areas(self.maps(batch), batch.image_id)
            with torch.no_grad():
                self.part.weight.copy_(initial_parts(regions, len(self.part.weight), self.init == "kmeans"))

    # ---- the method

    def bag(self, regions: Regions) -> tuple[Float[Tensor, "b p"], Float[Tensor, "b p"], Int[Tensor, "b p"]]:
        """The bag of parts as it is classified, the largest scores, and which region has each."""
        with torch.autocast(regions.cells.device.type, enabled=False):
            best, index = max_scores(self.part.weight.float(), regions)
            return normalize(best, dim=1) if self.bag_norm else best, best, index

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Logits, the heatmap of the predicted class, and maps of groups of parts."""
        numbers = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        return self._output(self.network(image), numbers)

    def respond(self, batch: Batch) -> Output:
        """The same, from stored maps where there are, and with each image's own regions."""
        return self._output(self.maps(batch), batch.image_id)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The classification loss and the weighted constraints."""
        maps = self.maps(batch)
        if self.head != "parts":
            return self.classification_loss(self._global(maps), batch), {}
        regions = self.areas(maps, batch.image_id)
        bag, _, _ = self.bag(regions)
        loss = self.classification_loss(self.classifier(bag).float(), batch)
        terms = {"classification": loss.detach()}
        parts, weights = self.part.weight, self.classifier.weight
        if self.perp:
            terms["perp"] = orthogonality(parts, self.perp_sign, self.scale)
            loss = loss + self.perp * terms["perp"]
        if self.assign:
            terms["assign"] = assignment_entropy(parts, regions, self.temperature, self.scale)
            loss = loss + self.assign * terms["assign"]
        if self.balance:
            terms["balance"] = assignment_balance(parts, regions, self.temperature, self.scale)
            loss = loss + self.balance * terms["balance"]
        if self.specific:
            terms["specific"] = class_specificity(weights, self.specific_form, self.scale)
            loss = loss + self.specific * terms["specific"]
        return loss, {name: term.detach() for name, term in terms.items()}

    def explain(self, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"] | None:
        """The heatmap of any class or attribute."""
        numbers = torch.zeros(len(image), dtype=torch.int64, device=image.device)
        return self._evidence(self.network(image), numbers, index)

    def explain_batch(self, batch: Batch, index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"] | None:
        """The same, with each image's own regions."""
        return self._evidence(self.maps(batch), batch.image_id, index)

    def _evidence(self, maps: Tensor, image_id: Int[Tensor, " b"], index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"]:
        if self.head != "parts":
            return self._class_activation(maps, index)
        return self.heatmap(maps, image_id, self.bag(self.areas(maps, image_id))[0], index)

    @torch.no_grad()
    def contributions(self, batch: Batch, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"] | None:
        """Weight times match, summed over the parts that are nearest to each direction that is shown."""
        if self.head != "parts":
            return None
        shares = self.shares(self.bag(self.areas(self.maps(batch), batch.image_id))[0], index)
        directions = self.group_directions()
        group = (self.part.weight.float() @ directions.T).argmax(1)  # whose unit directions are centres
        return shares.new_zeros(len(shares), len(directions)).index_add(1, group, shares)

    def linear_evidence(self) -> Float[Tensor, "k d"] | None:
        """The weights of the baseline of one layer on the backbone's own map."""
        own = self.head == "global1" and self.tap != "pool5"
        return self.classifier.weight.detach() if own else None

    def _output(self, maps: Tensor, image_id: Int[Tensor, " b"]) -> Output:
        if self.head != "parts":
            logits = self._global(maps)
            return Output(logits, self._class_activation(maps, logits.argmax(1)))
        regions = self.areas(maps, image_id)
        bag, _, _ = self.bag(regions)
        logits = self.classifier(bag).float()
        with torch.autocast(maps.device.type, enabled=False):
            directions = self.group_directions()[None]
            shown = self.painted(directions, maps, image_id).unflatten(2, maps.shape[2:])
        return Output(logits, self.heatmap(maps, image_id, bag, logits.argmax(1)), shown)

    # ---- the baselines

    def _global(self, maps: Float[Tensor, "b d u v"]) -> Float[Tensor, "b k"]:
        pooled = maps.float().mean((2, 3))
        hidden = pooled if self.head == "global1" else self.part(pooled)
        logits: Tensor = self.classifier(hidden.relu() if self.head == "global2" else hidden)
        return logits.float()

    def _class_activation(self, maps: Tensor, index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"]:
        """The map's share in one logit, cell by cell, cut at zero; through a ReLU, that of the units which are on."""
        weights = self.classifier.weight.float()[index]
        if self.head != "global1":
            if self.head == "global2":
                weights = weights * (self.part(maps.float().mean((2, 3))) > 0)
            weights = torch.mm(weights, self.part.weight.float())
        return torch.einsum("bd,bduv->buv", weights, maps.float()).relu()
