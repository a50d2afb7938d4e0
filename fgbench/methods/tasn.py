"""TASN: an image is resampled so that what attention finds gets more pixels, and details teach the whole.

The evidence is the attention (``saliency``: the average of the attention maps over the image that came in) and what the
sampling makes of it. An attention net finds, for each of its channels, where that channel and those like it respond.
The average of these maps guides a *structure* image, one random map a *detail* image, both sampled from the
high-resolution input; one network classifies both, and the detail's answer is a soft target of the structure's.

Paper: Zheng, Fu, Zha & Luo, Looking for the Devil in the Details: Learning Trilinear Attention Sampling Network for
Fine-grained Image Recognition, CVPR 2019. Code by the authors: github.com/researchmm/tasn (MXNet; an unfinished PyTorch
port), used as a reference only.

``tasn_recipe.PRESETS`` says which value comes from the paper and which from the authors' code. Parts: the attention
channels, hundreds, grouped into ``parts`` by a rule without labels (``layers.trilinear.group_channels``): channels
whose maps overlap, averaged over training, go together. A part's map is its channels' average less the average of all,
cut at zero, in units of the largest feature. This is ours; the paper evaluates no parts.

Differences from paper and from code, each with its reason:

* Sampling is ``centred`` by default; ``official`` has the operator's positions (``layers.attention_sampler``).
* ResNet-18 is torchvision's (post-activation), not the pre-activation one of the MXNet code; the normalisation in
  front of the attention net's classifier (batch norm, ReLU) is the code's.
* The structure map is the plain mean of the maps, or, with the preset ``official``, of the maps that differ. The code
  means that but multiplies a mask in sorted order with unsorted channels; the author acknowledged it. It compares sums;
  here weighted ones, since every map of the forms ``n(xxx)`` and ``self`` has the sum 1.
* Without attention (a map of zeros) sampling is uniform; the operator divides by zero.
* Batch norm's moments are over both streams, as in the code, and over all processes; the code has 24 images a GPU.
* Of the protocol, not of this file: rotation, colour jitter and PCA noise of the training images are in the cells, on
  bytes (the code's are on floating point numbers, not cut to 0 to 255 in between); one duplicated batch in the code's
  validation is not repeated.
* Other backbones than ResNet-18 for the attention net: strides are removed from the last stage and the last but two
  until the map has stride 8; of a ResNet-18 these are the paper's two. ``attention_channels`` narrows the dilated
  layers, which otherwise keep the trunk's channels. VGG-19's pools become 3 x 3 of stride 1.
* Where an image is not square both sides are scaled alike; the paper has squares only.
* ``self`` attention: softmax(X^T X / sqrt(c)), a map for each cell, after the paper it cites. Ranked selection, the
  binarised attention of the uniform sampler: the paper gives no formula; see ``layers``. The latter binarises the map
  before its power, which the other two samplers apply.
* ``head: isqrt_*`` keeps the stride of the backbone's last stage removed, as its paper does.
* Attributes: cross-entropies become binary, softened probabilities sigmoids. The paper has classes only.
* ``loss`` (ours) puts another last layer of exclusive classes, and its loss, in place of every classifier: of the
  attention net, of both streams, and the shared one. Distillation is between logits without a margin, scaled as that
  layer scales them, over the same temperature. What a layer does once a step (centres move, A-Softmax anneals) it does
  for each image of a step that it sees: the shared one for both streams. Layers with a bias start as the code's do.
* ``flip_test`` averages the probabilities of an image and its mirror image (Table 7); off otherwise, as in the paper.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fgbench.backbones import Backbone
from fgbench.layers import attention_sampler, trilinear
from fgbench.layers.distributed import gather, rank, world_size
from fgbench.layers.flip import flip_average
from fgbench.layers.isqrt_cov import Head, make_pool
from fgbench.layers.ssn_sampler import ssn_grid
from fgbench.losses import CrossEntropy, MakeHead, check_target
from fgbench.losses import Head as LossHead
from fgbench.losses.distillation import distillation_loss
from fgbench.methods.attention_net import AttentionNet, attention_trunk, make_classifier, scaled
from fgbench.methods.base import Method, Optim
from fgbench.methods.tasn_recipe import make_recipe
from fgbench.pretrained import Colour
from fgbench.types import Batch, Output, Target

SHOWN = 9  # channels in the figure of channels; Figure 5 of the paper
MEMORY = 0.99  # of the running overlap of channels

Seen = tuple[nn.Module, Tensor, Tensor]  # a classifier, the vectors that it sees, the maps that they are of


class TASN(Method):
    """The trilinear attention sampling network.

    Args:
        backbone: the network that both streams share, a key of ``fgbench.backbones.ARCHITECTURES``.
        weights: null (from scratch), ``imagenet1k_v1`` or the path of a weights file.
        mean: normalisation of the network's input; null takes what the weights say.
        std: like ``mean``.
        attention_backbone: trunk of the attention net; null for the backbone's architecture and weights. It sees the
            backbone's normalisation.
        attention_weights: of ``attention_backbone``.
        attention_stages: of the trunk; null for all.
        attention_stride: of the trunk's map: 8 is the paper's ResNet-18 with two strides removed.
        attention_channels: of the dilated layers; null for as many as the trunk has.
        attention_size: short side at which the attention net sees the image, pixels.
        sampled: short side of the sampled images, pixels: the resolution of the paper's tables.
        preset: where paper and code differ (``tasn_recipe.PRESETS``); the five arguments after it change single values.
        gain: null, or the factor in the spatial softmax.
        structure_power: null, or the power of the averaged attention.
        detach_teacher: null, or whether distillation leaves the detail stream alone.
        distillation_weight: null, or the weight of that loss; 0 for none (ablation).
        temperature: null, or that of the distillation.
        convention: of sampling positions, ``centred`` or ``official``.
        sampler: ``attention``, or the comparisons of Table 3, fed with the same maps: ``uniform`` and ``ssn``.
        form: of the attention, a row of Table 2 or ``self``.
        streams: ``both``; ``master`` (no details, Table 3); ``part`` (details in training and the average attention at
            test, the protocol of Table 2).
        details: detail images per image and step.
        selection: of the details' maps: ``random``, or ``ranked`` by response.
        head: descriptor of the network's map.
        parts: groups of attention channels; not with ``form: self``, whose maps belong to cells.
        flip_test: average the probabilities with those of the mirrored image.
        loss: last layer and loss of exclusive classes, for every classifier; null for linear layers, cross-entropy.
        num_outputs: see ``Method``.
        target: see ``Method``.
        optim: see ``Method``.
    """

    figures = ("sampling", "channels")
    no_contributions = "attention says where the image is sampled; the classifier sees one vector of what was sampled"
    affinity: Tensor
    groups: Tensor

    def __init__(
        self,
        num_outputs: int,
        target: Target,
        optim: Optim,
        backbone: str = "resnet50",
        weights: str | None = "imagenet1k_v1",
        mean: Colour | None = None,
        std: Colour | None = None,
        attention_backbone: str | None = None,
        attention_weights: str | None = None,
        attention_stages: int | None = None,
        attention_stride: int = 8,
        attention_channels: int | None = None,
        attention_size: int = 224,
        sampled: int = 224,
        preset: Literal["paper", "official"] = "official",
        gain: float | None = None,
        structure_power: float | None = None,
        detach_teacher: bool | None = None,
        distillation_weight: float | None = None,
        temperature: float | None = None,
        convention: attention_sampler.Convention = "centred",
        sampler: Literal["attention", "uniform", "ssn"] = "attention",
        form: trilinear.Form = "n(n(x)x)x",
        streams: Literal["both", "master", "part"] = "both",
        details: int = 1,
        selection: Literal["random", "ranked"] = "random",
        head: Head = "average",
        parts: int = 10,
        flip_test: bool = False,
        loss: MakeHead | None = None,
    ) -> None:
        super().__init__(num_outputs, target, optim)
        if attention_weights is not None and attention_backbone is None:
            raise ValueError(
                "attention_weights are those of attention_backbone, which is null: the backbone's are used"
            )
        self.recipe = make_recipe(
            preset,
            gain=gain,
            structure_power=structure_power,
            detach_teacher=detach_teacher,
            distillation_weight=distillation_weight,
            temperature=temperature,
        )
        if details < 1 or min(attention_size, sampled) < 16:
            raise ValueError(
                f"details={details}, attention_size={attention_size}, sampled={sampled}: need 1 detail and 16 pixels"
            )
        unstrided = () if head == "average" else (-1,)
        self.backbone = Backbone(backbone, weights, unstrided=unstrided, mean=mean, std=std)
        arch, own = (attention_backbone, attention_weights) if attention_backbone else (backbone, weights)
        self.attention = AttentionNet(
            attention_trunk(arch, own, attention_stages, attention_stride), attention_channels, num_outputs, loss
        )
        self.attention_size, self.sampled, self.convention, self.sampler = attention_size, sampled, convention, sampler
        self.form, self.streams, self.details, self.selection = form, streams, details, selection
        self.flip_test = flip_test
        self.pool, self.pools_mean = make_pool(head, self.backbone.out_channels), head == "average"
        names = {"both": ("part", "master"), "master": ("master",), "part": ("part",)}[streams]
        names += ("shared",) if self.recipe.shared_weight else ()
        inputs, width = self.pool.outputs, self.backbone.out_channels
        made = {name: make_classifier(loss, inputs, num_outputs, width, n) for n, name in enumerate(names, 1)}
        self.classifiers = nn.ModuleDict(made)  # 0 is the attention net's
        self.predictor = "shared" if self.recipe.shared_weight else "part" if streams == "part" else "master"
        for linear in (self.attention.classifier, *self.classifiers.children()):
            if isinstance(linear, LossHead):
                check_target(linear, target)
            if isinstance(linear, (nn.Linear, CrossEntropy)):  # the code: Xavier, fan in, magnitude 2
                nn.init.normal_(linear.weight, std=(2 / linear.weight.shape[1]) ** 0.5)
                nn.init.zeros_(linear.bias)
        channels = self.attention.channels
        if not 1 <= parts <= channels:
            raise ValueError(f"parts is {parts}; there are {channels} attention channels to group into at least 1")
        self.parts = None if form == "self" else parts
        self.register_buffer("affinity", torch.eye(channels))
        chunk = torch.arange(channels) * parts // channels
        members = nn.functional.one_hot(chunk, parts).T.float()
        self.register_buffer("groups", members / members.sum(1, keepdim=True))

    def pretrained(self) -> list[nn.Module]:
        """Both networks start from weights."""
        return [self.backbone, self.attention.trunk]

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Logits of the structure image alone, the average attention, and the parts."""
        maps = self._maps(self.attention(self._small(image)))
        average = self._average(maps)
        logits = self._predict(image, average)
        if self.flip_test and not self.training:
            mirrored = image.flip(3)
            other = self._maps(self.attention(self._small(mirrored)))
            logits = flip_average(logits, self._predict(mirrored, self._average(other)), self.target)
        return Output(logits, average, None if self.parts is None else self._parts(maps))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The attention net's classification, those of both streams, and the distillation from detail to structure."""
        features = self.attention(self._small(batch.image))
        seen = {"attention": (self.attention.classifier, *self.attention.describe(features))}
        maps = self._maps(features)
        self._remember(maps)
        guides = self._guides(maps)
        del maps  # of the size of a layer's output, and nothing needs it any more
        sampled = self.backbone(self._sample(batch.image, *guides))
        streams = (x.unflatten(0, (-1, len(batch.image))).unbind(0) for x in (self.pool(sampled), sampled))
        *details, structure = zip(*streams, strict=True)
        if self.streams == "part":
            details = [structure, *details]
        for number, detail in enumerate(details):
            seen[f"part{number}"] = (self.classifiers["part"], *detail)
        if self.streams != "part":
            seen["master"] = (self.classifiers["master"], *structure)
        if "shared" in self.classifiers:
            shared = self.classifiers["shared"]
            seen |= {f"shared_part{number}": (shared, *detail) for number, detail in enumerate(details)}
            seen |= {"shared_master": (shared, *structure)} if self.streams != "part" else {}
        logits = {name: classifier(pooled) for name, (classifier, pooled, _) in seen.items()}
        return self._weigh(logits, batch, len(details), self._losses(seen, batch))

    def _losses(self, seen: dict[str, Seen], batch: Batch) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
        """Loss and terms of each classifier that has a loss of its own."""
        if self.target == "attributes":
            return {}
        return {
            name: head.loss(pooled, batch.target, maps)
            for name, (head, pooled, maps) in seen.items()
            if isinstance(head, LossHead)
        }

    def _weigh(
        self,
        logits: dict[str, Tensor],
        batch: Batch,
        details: int,
        losses: Mapping[str, tuple[Tensor, dict[str, Tensor]]] = MappingProxyType({}),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum and its terms; logits without a loss of their own have the usual."""
        terms = {
            name: losses[name][0] if name in losses else self.classification_loss(scores, batch)
            for name, scores in logits.items()
        }
        if self.streams == "both" and self.recipe.distillation_weight:
            for number in range(details):
                teacher = logits[f"part{number}"]
                teacher = teacher.detach() if self.recipe.detach_teacher else teacher
                found = distillation_loss(logits["master"], teacher, self.recipe.temperature, self.target)
                terms[f"distillation{number}"] = found
        total = torch.stack([self.recipe.weight(name, details) * term for name, term in terms.items()]).sum()
        further = {f"{name}_{term}": value for name, (_, own) in losses.items() for term, value in own.items()}
        return total, {name: term.detach() for name, term in terms.items()} | further

    # ---- attention

    def _small(self, image: Tensor) -> Tensor:
        """The image as the attention net sees it."""
        size = scaled(image, self.attention_size)
        if size == tuple(image.shape[2:]):
            return image
        corners = self.convention == "official"
        return nn.functional.interpolate(image, size, mode="bilinear", align_corners=corners)

    def _maps(self, features: Tensor) -> trilinear.Maps:
        return trilinear.trilinear(features, self.form, self.recipe.gain)

    @torch.no_grad()
    def _average(self, maps: trilinear.Maps) -> Float[Tensor, "b u v"]:
        with torch.autocast(maps.base.device.type, enabled=False):
            marks = maps.marks()
            counted = trilinear.distinct(marks).float() if self.recipe.dedup else torch.ones_like(marks)
            return maps.mixed((counted / counted.sum(1, keepdim=True))[:, None])[:, 0]

    @torch.no_grad()
    def _parts(self, maps: trilinear.Maps) -> Float[Tensor, "b p u v"]:
        with torch.autocast(maps.base.device.type, enabled=False):
            peak = maps.base.amax((1, 2))[:, None, None, None].clamp(min=torch.finfo(torch.float32).tiny)
            return maps.mixed(self.groups - 1 / self.groups.shape[1]).relu() / peak

    @torch.no_grad()
    def _details(self, maps: trilinear.Maps) -> Float[Tensor, "b s u v"]:
        """Random attention maps of each image: the same ones for an image however many processes share the batch."""
        with torch.autocast(maps.base.device.type, enabled=False):
            sums = maps.sums()
            noise = torch.rand(world_size() * len(sums), sums.shape[1], device=sums.device)
            mine = noise[rank() * len(sums) :][: len(sums)]
            counted = trilinear.distinct(maps.marks()) if self.recipe.dedup else None
            chosen = trilinear.choose(sums, mine, self.details, counted, self.selection == "ranked")
            return maps.picked(chosen)

    @torch.no_grad()
    def _remember(self, maps: trilinear.Maps) -> None:
        """How channels overlap, over all of training; for the parts only."""
        if self.parts is not None:
            with torch.autocast(maps.base.device.type, enabled=False):
                self.affinity.lerp_(gather(trilinear.overlap(maps)[None]).mean(0), 1 - MEMORY)

    def on_train_epoch_end(self) -> None:
        """Group the channels anew, so that each checkpoint has its parts."""
        super().on_train_epoch_end()
        if self.parts is not None:
            self.groups.copy_(trilinear.group_channels(self.affinity, self.parts))

    # ---- sampling

    def _guides(self, maps: trilinear.Maps) -> tuple[Float[Tensor, "n u v"], list[float]]:
        """What training samples by, and the powers: all first details, all second ones, ..., all structures."""
        shown, powers = [], []
        if self.streams != "master":
            shown = list(self._details(maps).unbind(1))
            powers = [1.0] * len(shown)
        if self.streams != "part":
            shown.append(self._average(maps))
            powers.append(self.recipe.structure_power)
        return torch.cat(shown), powers

    def _predict(self, image: Tensor, average: Tensor) -> Float[Tensor, "b k"]:
        power = 1.0 if self.streams == "part" else self.recipe.structure_power
        pooled = self.pool(self.backbone(self._sample(image, average, [power])))
        logits: Tensor = self.classifiers[self.predictor](pooled)
        return logits.float()

    def _sample(self, image: Tensor, maps: Float[Tensor, "n u v"], powers: list[float]) -> Tensor:
        with torch.no_grad():
            grid, convention = self._grid(image, maps, powers)
        return attention_sampler.read(image, grid, convention)

    def _grid(
        self, image: Tensor, maps: Float[Tensor, "n u v"], powers: list[float]
    ) -> tuple[Float[Tensor, "n oh ow 2"], attention_sampler.Convention]:
        size, out = (image.shape[2], image.shape[3]), scaled(image, self.sampled)
        power = torch.cat([maps.new_full((len(image),), p) for p in powers])
        if self.sampler == "ssn":
            return ssn_grid(maps ** power[:, None, None], out), "centred"
        if self.sampler == "uniform":
            positions = attention_sampler.uniform_positions(maps, size, out)
            return attention_sampler.grid_of(*positions, size), "centred"
        positions = attention_sampler.sampling_positions(maps, size, out, self.convention, power)
        return attention_sampler.grid_of(*positions, size, self.convention), self.convention

    # ---- explanations

    def linear_evidence(self) -> Float[Tensor, "k d"] | None:
        """Of the classifier on the mean of the sampled image's map; None with another descriptor."""
        linear = self.classifiers[self.predictor]
        if not self.pools_mean:
            return None
        if isinstance(linear, LossHead):
            return linear.evidence()
        return linear.weight if isinstance(linear, nn.Linear) else None

    @torch.no_grad()
    def over_image(self, maps: Float[Tensor, "b n u v"], image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n u2 v2"]:
        """Each sampled pixel's value back at the place that it was read from."""
        average = self._average(self._maps(self.attention(self._small(image))))
        power = 1.0 if self.streams == "part" else self.recipe.structure_power
        grid, convention = self._grid(image, average, [power])
        return attention_sampler.write_back(maps, grid, image, convention)

    # ---- figures

    @torch.no_grad()
    def figure(self, name: str, batch: Batch) -> Mapping[str, Tensor]:
        """What Figure 4 (``sampling``) or Figure 5 (``channels``) of the paper shows of an image."""
        image = batch.image
        features = self.attention(self._small(image))
        maps = self._maps(features)
        if name == "channels":
            some = torch.linspace(0, features.shape[1] - 1, SHOWN, device=features.device).long()
            every = maps.all()
            return {"features": features[0, some].float(), "attention": every[0, some % every.shape[1]], "index": some}
        average = self._average(maps)
        power = 1.0 if self.streams == "part" else self.recipe.structure_power
        grid, convention = self._grid(image, average, [power])
        seen = self.backbone.to_bytes(attention_sampler.read(image, grid, convention))[0]
        drawn = power if self.sampler == "attention" else None
        return attention_sampler.panels(image, average, grid, convention, drawn) | {"sampled": seen}
