"""Focus Longer: a network for the whole image, and one for a patch, whose features an LSTM goes over again and again.

The evidence is, for the whole image, the class activation map; for the patch Grad-CAM of the local logit, put back
where the patch was cut (``saliency``: the sum of both densities). ``parts`` are Grad-CAM of each time step, of the
predicted class, in the place of the patch; with self-attention they are the attention over the patch in each step.
``steps`` are Grad-CAM of each step with self-attention too; of several test patches (``mean_all``) of the first one.
Logits are the sum of both streams'; ``streams`` has those of each stream, of each step and of sums of steps, so that
the ablations of one training are measured in one test.

Paper: Shroff, Search for Finer Attention Details for Fine-Grained Image Classification, thesis, Texas A&M University,
August 2020; Shroff, Chen, Wei & Wang, Focus Longer to See Better, CVPR Workshops 2020 (arXiv 2005.10979). Code by the
authors: github.com/VITA-Group/Focus-Longer-to-See-Better (CUB only; no patch extraction, ranking loss, self-attention
or licence), used as a reference only. ``PRESETS`` says which value comes from the thesis and which from the code.

Decisions, and differences from thesis and code, each with its reason:

* Patches come from an extractor that never sees a label of the image (``focus_patches``): ``protopnet`` is theirs and
  needs one to be trained first (variant ``protopnet``), so the default is ``cam``: 95th-percentile boxes of the global
  stream's activation maps of its ``patch_count`` largest logits. ``grid`` and ``random`` are for comparison,
  ``official`` reads the authors' boxes, of which nobody knows whether labels chose those of the test images.
* Test patches: ``top1``, ``mean_all`` (mean local logits of all), or ``random``, drawn from the image's number; the
  code draws anew at each test, so its accuracy is a random variable. The thesis is silent; its preset is ``top1``.
* A patch is cut from the batch's image on the device (``layers.boxes``). By default that is what the global stream
  sees, as in the code, so patches are enlarged. With ``global_size`` the dataset's views are to be larger and the
  global stream sees them shrunk: patches then have pixels that it never had (ours).
* VGG's last pool is left out of the local stream (thesis and code) and kept in the global one (code). Other networks
  have no such pool.
* The local classifier and the LSTM's input have the trunk's channels (512 for VGG-19, ResNet-18 and ResNet-34, as in
  the thesis); state 512, two layers, ten steps.
* Attention over time: one vector for all steps (code) or one for each (Eq. 3.6). Its bias cancels and is left out. The
  code's option to divide by the root of 512 after the softmax is left out; it is never used.
* Ranking loss: four readings (``losses.ranking``), and the gradient's side: with ``detach_global`` the global stream
  is the reference and learns nothing from it. As printed it wants the local stream to be surer by 0.5, which cannot be
  reached where the global stream is surer than 0.5, and then pushes that one down.
* ``supervise: every_step`` is the thesis' "CNN + LSTM" (Table 6.1): cross-entropy of every step, the last one at test.
  The thesis does not say whether losses are added or averaged: averaged.
* Table 6.2 adds up states, so later rows weigh the local stream more; ``mean_<t>`` beside ``sum_<t>`` is the fair
  comparison. The bias of the classifier counts once in each.
* Rates: a tenth for the global stream, all of it (thesis: 0.001 and 0.01; ``rates: streams``); ``rates: layers`` is the
  suite's other convention, a rate for both trunks and one for all that is new.
* Self-attention (thesis, chapter 7, without code or numbers): keys are the first eighth of the channels (as in Mott et
  al., 2019, roughly), 64 cosines tell the place, one head, products scaled, queries from the last layer's state. Each
  step has an input of its own. The place is joined to keys and values: the thesis says added, its sizes say joined.
* Everything after the trunks is computed in float32. Grad-CAM's score is the plain logit (the code multiplies it by the
  largest).
* Saliency adds evidence per area: a patch's counts the more the smaller the patch. It is not the thesis' (it shows
  patches by themselves). A map is read at centres of cells of 8 pixels; patches are placed to half a pixel.
* Attributes: cross-entropies become binary, probabilities of the truth sigmoids, the class that is explained the
  attribute with the largest logit. The thesis has classes only.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fgbench.backbones import Backbone
from fgbench.layers import boxes as boxed
from fgbench.layers.distributed import rank, world_size
from fgbench.layers.hashed import hashed_uniform
from fgbench.losses.ranking import RankMode, ranking_loss, truth_probability
from fgbench.methods import focus_evidence, focus_patches
from fgbench.methods.base import Method, Optim
from fgbench.methods.focus_local import Evidence, Kind, LocalStream, Steps, TimeAttention, global_layers, shrunk
from fgbench.methods.focus_patches import numbers
from fgbench.methods.preparation import Preparation
from fgbench.pretrained import Colour
from fgbench.types import Batch, Output, Target

TestPatch = Literal["top1", "mean_all", "random"]


class Recipe(NamedTuple):
    """Where thesis and code differ."""

    time_attention: TimeAttention
    addon: bool
    rank_mode: RankMode
    detach_global: bool
    test_patch: TestPatch


PRESETS = {
    # Eq. 3.6; no such layers in the text; Eq. 3.11; "reference" for the global stream; not said, so repeatable
    "paper": Recipe("per_step", False, "printed", True, "top1"),
    # what was released; detach_global has no effect without the loss
    "code": Recipe("shared", True, "off", True, "random"),
}
"""The learning rates differ too: see ``experiments/methods/focus_longer.yaml`` and the variant ``code``."""


class Found(NamedTuple):
    """What the global stream and the extractor say of a batch."""

    features: Float[Tensor, "b d u v"]
    logits: Float[Tensor, "b k"]
    boxes: Float[Tensor, "b n 4"]


class Looked(NamedTuple):
    """What both streams say of a batch, before it is put together."""

    found: Found
    boxes: Float[Tensor, "b n 4"]  # of the patches that count
    patches: Float[Tensor, "bn 3 s s"]
    local: Float[Tensor, "b k"]  # mean logits of an image's patches
    steps: Steps | None
    evidence: Evidence
    classes: Int[Tensor, " b"]  # those that are explained


class FocusLonger(Method):
    """Two streams, an LSTM over a patch.

    Args:
        backbone: network of the whole image, a key of ``fgbench.backbones.ARCHITECTURES``.
        weights: null (from scratch), ``imagenet1k_v1`` or the path of a weights file.
        mean: normalisation of both networks' input; null takes what the weights say.
        std: like ``mean``.
        local_backbone: network of the patches; null for the same as ``backbone``, with the same weights.
        local_weights: those of ``local_backbone``; null with it null.
        preset: where thesis and code differ (``PRESETS``); the five arguments after it change single values.
        time_attention: null, or ``shared`` or ``per_step``.
        addon: null, or whether two 1 x 1 convolutions (1024) follow the global trunk.
        rank_mode: null, or the reading of the ranking loss.
        detach_global: null, or whether that loss leaves the global stream alone.
        test_patch: null, or which patch counts at test.
        rank_weight: of the ranking loss.
        rank_margin: null for that of the reading.
        local_weight: of the local stream, in loss and logits.
        local: ``lstm``, ``self_attention`` (between its steps), or ``cnn`` (no LSTM).
        steps: of the LSTM.
        hidden: features of its state.
        layers: of the LSTM.
        time_pool: how states become one: ``attention``, ``sum``, ``mean``, ``last``, ``step_<number>``.
        supervise: the pooled state, or ``every_step`` by itself.
        keys: channels of the keys of self-attention; null for an eighth.
        basis: waves along each side that tell a cell's place; 0 for none.
        patches: the extractor.
        patch_count: boxes of an image.
        patch_weights: file of ``protopnet`` or ``official``; null for the others.
        extractor_size: of ``protopnet``: pixels of the squares that its network sees; null for images as they come.
        patch_size: side of a patch as the network sees it, pixels.
        global_size: shorter side of the images as the global stream sees them, pixels; patches are cut from them as
            they come. Null: the global stream sees them as they come.
        rates: who learns at ``new_layer_factor`` times the rate: the local stream, or all that is not a trunk.
        num_outputs: see ``Method``.
        target: see ``Method``.
        optim: see ``Method``.
    """

    figures: tuple[str, ...] = ("patches", "steps", "attention")

    def __init__(
        self,
        num_outputs: int,
        target: Target,
        optim: Optim,
        backbone: str = "vgg19",
        weights: str | None = "imagenet1k_v1",
        mean: Colour | None = None,
        std: Colour | None = None,
        local_backbone: str | None = None,
        local_weights: str | None = None,
        preset: Literal["paper", "code"] = "paper",
        time_attention: TimeAttention | None = None,
        addon: bool | None = None,
        rank_mode: RankMode | None = None,
        detach_global: bool | None = None,
        test_patch: TestPatch | None = None,
        rank_weight: float = 0.5,
        rank_margin: float | None = None,
        local_weight: float = 1.0,
        local: Kind = "lstm",
        steps: int = 10,
        hidden: int = 512,
        layers: int = 2,
        time_pool: str = "attention",
        supervise: Literal["pooled", "every_step"] = "pooled",
        keys: int | None = None,
        basis: int = 8,
        patches: focus_patches.Kind = "cam",
        patch_count: int = 10,
        patch_weights: str | None = None,
        extractor_size: int | None = 224,
        patch_size: int = 224,
        global_size: int | None = None,
        rates: Literal["streams", "layers"] = "streams",
    ) -> None:
        super().__init__(num_outputs, target, optim)
        if patch_count < 1 or patch_size < 16 or local_weight <= 0 or rank_weight < 0:
            raise ValueError(
                f"patch_count={patch_count}, patch_size={patch_size}, local_weight={local_weight}, "
                f"rank_weight={rank_weight}: need 1 patch of 16 pixels, a local stream that counts, no negative weight"
            )
        if global_size is not None and global_size < 16:
            raise ValueError(f"global_size is {global_size}; the global stream needs 16 pixels, or null")
        if local == "cnn" and supervise == "every_step":
            raise ValueError("supervise every_step needs the steps of an LSTM: set local to lstm or self_attention")
        if local_weights is not None and local_backbone is None:
            raise ValueError("local_weights are those of local_backbone, which is null: the backbone's are used")
        changes: dict[str, Any] = {
            "time_attention": time_attention,
            "addon": addon,
            "rank_mode": rank_mode,
            "detach_global": detach_global,
            "test_patch": test_patch,
        }
        self.recipe = PRESETS[preset]._replace(**{name: x for name, x in changes.items() if x is not None})
        self.rank_weight, self.rank_margin, self.local_weight = rank_weight, rank_margin, local_weight
        self.supervise, self.rates = supervise, rates
        self.patch_size, self.global_size = patch_size, global_size
        self.backbone = Backbone(backbone, weights, mean=mean, std=std)
        arch, own = (local_backbone, local_weights) if local_backbone else (backbone, weights)
        trunk = Backbone(arch, own, mean=mean, std=std)
        if (trunk.mean, trunk.std) != (self.backbone.mean, self.backbone.std):
            raise ValueError(f"the weights of {backbone} and {arch} want other normalisations: set mean and std")
        self.extractor = focus_patches.Extractor(patches, patch_count, patch_weights, extractor_size, self.backbone)
        self.after = global_layers(self.backbone, self.recipe.addon)
        self.classifier = nn.Linear(1024 if self.recipe.addon else self.backbone.out_channels, num_outputs)
        nn.init.normal_(self.classifier.weight, std=0.01)  # the authors' code
        nn.init.zeros_(self.classifier.bias)
        self.local = LocalStream(
            trunk, num_outputs, local, steps, hidden, layers, time_pool, self.recipe.time_attention, keys, basis
        )
        self.steps = self.local.steps
        self.parts, self.stream_names = self.steps or None, focus_evidence.names_of_streams(self.steps)
        if local != "self_attention":
            self.figures = self.figures[:2]

    @classmethod
    def check_files(cls, arguments: Mapping[str, Any]) -> None:
        """An extractor with a file needs it."""
        focus_patches.check_file(arguments["patches"], arguments["patch_weights"])

    def preparation(self) -> Preparation | None:
        """Boxes that a trained ProtoPNet finds in all images."""
        return self.extractor.preparation()

    def pretrained(self) -> list[nn.Module]:
        """What learns at the base rate: see ``rates``."""
        if self.rates == "streams":
            return [self.backbone, self.after, self.classifier]
        return [self.backbone, self.local.trunk]

    # ---- training

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The classification loss of both streams, and the ranking loss of the two."""
        found = self._find(batch.image, batch)
        # as many numbers as all processes need: an image has the same patch however many share the batch
        noise = torch.rand(world_size() * len(batch.image), device=batch.image.device)
        mine = noise[rank() * len(batch.image) :][: len(batch.image)]
        patch = boxed.cut(batch.image, focus_patches.one_of(found.boxes, mine), self.patch_size)
        features = self.local.trunk(patch)
        states = self.local(features).states if self.local.lstm is not None else None
        local = self.local.logits(features, states)
        terms = {
            "global": self.classification_loss(found.logits, batch),
            "local": self._local_loss(local, states, batch),
        }
        total = terms["global"] + self.local_weight * terms["local"]
        if self.recipe.rank_mode != "off" and self.rank_weight:
            coarse, fine = (truth_probability(z, batch.target, self.target) for z in (found.logits, local))
            coarse = coarse.detach() if self.recipe.detach_global else coarse
            terms["ranking"] = ranking_loss(coarse, fine, self.recipe.rank_mode, self.rank_margin)
            total = total + self.rank_weight * terms["ranking"]
        return total, {name: term.detach() for name, term in terms.items()}

    def _local_loss(self, logits: Tensor, states: Tensor | None, batch: Batch) -> Tensor:
        if self.supervise == "pooled" or states is None:
            return self.classification_loss(logits, batch)
        each = self.local.step_scores(states) + self.local.classifier.bias
        repeated = batch._replace(target=batch.target.repeat_interleave(each.shape[1], 0))
        return self.classification_loss(each.flatten(0, 1), repeated)

    # ---- evaluation

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Fused logits, evidence, and the logits of all streams, of patches that are found on the spot."""
        return self._judge(image, None, None)

    def respond(self, batch: Batch) -> Output:
        """The same, with the images' own numbers and prepared patches."""
        return self._judge(batch.image, batch, None)

    def explain(self, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"] | None:
        """The evidence of both streams for any class or attribute."""
        return self._judge(image, None, index).saliency

    def explain_batch(self, batch: Batch, index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"] | None:
        """The same, with the images' own numbers and prepared patches."""
        return self._judge(batch.image, batch, index).saliency

    @torch.no_grad()
    def contributions(self, batch: Batch, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"] | None:
        """Each step's summand; what no step says is the logit of the whole image, and the local stream's bias."""
        if not self.steps:
            return None
        boxes = self._test_boxes(self._find(batch.image, batch).boxes, batch)
        states = self.local(self.local.trunk(boxed.cut(batch.image, boxes, self.patch_size))).states
        scores = self.local.weights(states)[..., None] * self.local.step_scores(states)
        chosen = index[:, None, None].expand(-1, self.steps, -1)
        mean: Tensor = scores.unflatten(0, boxes.shape[:2]).mean(1)
        return self.local_weight * mean.gather(2, chosen)[..., 0]

    def _judge(self, image: Tensor, batch: Batch | None, index: Tensor | None) -> Output:
        return self._output(self._look(image, batch, index), (image.shape[2], image.shape[3]))

    def _look(self, image: Tensor, batch: Batch | None, index: Tensor | None) -> Looked:
        found = self._find(image, batch)
        boxes = self._test_boxes(found.boxes, batch)
        count = boxes.shape[1]
        patches = boxed.cut(image, boxes, self.patch_size)
        classes = index

        def choose(local: Tensor) -> Tensor:
            nonlocal classes
            if classes is None:
                mean = local.unflatten(0, (-1, count)).mean(1)
                classes = (found.logits + self.local_weight * mean).argmax(1)
            return classes.repeat_interleave(count)

        each, steps, evidence = self.local.explain(self.local.trunk(patches), choose)
        local = each.unflatten(0, (-1, count)).mean(1)
        return Looked(found, boxes, patches, local, steps, evidence, cast(Tensor, classes))

    def _output(self, seen: Looked, size: tuple[int, int]) -> Output:
        found, boxes, _, local, steps, evidence, classes = seen
        count = boxes.shape[1]
        streams, parts, maps, weights = [found.logits[:, None], local[:, None]], None, None, None
        if steps is not None:
            scores = self.local.step_scores(steps.states).unflatten(0, (-1, count)).mean(1)
            streams += focus_evidence.of_steps(found.logits, scores, self.local.classifier.bias, self.local_weight)
            maps = cast(Tensor, evidence.steps).unflatten(0, (-1, count))[:, 0]
            parts = evidence.steps if steps.attention is None else steps.attention
            weights = self.local.weights(steps.states).unflatten(0, (-1, count)).mean(1).float()
        weight = self.classifier.weight[classes]
        return Output(
            found.logits + self.local_weight * local,
            focus_evidence.saliency(weight, found.features, evidence.pooled, boxes, size, self.local_weight),
            None if parts is None else focus_evidence.pasted(parts, boxes, size).mean(1),
            streams=torch.cat(streams, 1),
            steps=maps,
            step_weights=weights,
        )

    def _test_boxes(self, boxes: Float[Tensor, "b n 4"], batch: Batch | None) -> Float[Tensor, "b m 4"]:
        if self.recipe.test_patch == "mean_all":
            return boxes
        if self.recipe.test_patch == "top1":
            return boxes[:, :1]
        drawn = hashed_uniform(
            numbers(boxes, batch)[:, None], torch.zeros(1, dtype=torch.int64, device=boxes.device), seed=1
        )
        return focus_patches.one_of(boxes, drawn[:, 0])

    # ---- streams and patches

    def _find(self, image: Tensor, batch: Batch | None) -> Found:
        features = self.after(self.backbone(shrunk(image, self.global_size)))
        logits = self.classifier(features.mean((2, 3))).float()

        def maps(count: int) -> Tensor:
            top = logits.topk(min(count, logits.shape[1])).indices
            with torch.autocast(image.device.type, enabled=False):
                return torch.einsum("bnd,bduv->bnuv", self.classifier.weight[top], features.float())

        return Found(features, logits, self.extractor(image, batch, maps))

    # ---- figures

    @torch.no_grad()
    def figure(self, name: str, batch: Batch) -> Mapping[str, Tensor]:
        """Figure 3.2 (``patches``); 5.1, 6.2 and 7.3 (``steps``); the attention behind 7.3 (``attention``).

        All of the answer that counts: of several patches (``mean_all``) the first is drawn, but classes, weights and
        what each step says are those of all.
        """
        seen = self._look(batch.image, batch, None)
        shown = {"patch": self.backbone.to_bytes(seen.patches[:1])[0]}
        if name == "patches":
            return shown | {"boxes": seen.found.boxes[0], "shown": seen.boxes[0, 0]}
        shown |= {"pooled": seen.evidence.pooled[0].relu()}
        if seen.steps is None:
            return shown
        if name == "attention":
            return shown | {"maps": cast(Tensor, seen.steps.attention)[0]}
        output = self._output(seen, (batch.image.shape[2], batch.image.shape[3]))
        streams, first = cast(Tensor, output.streams)[0], self.stream_names.index("step_1")
        return shown | {
            "maps": cast(Tensor, seen.evidence.steps)[0],
            "weights": cast(Tensor, output.step_weights)[0],
            "predicted": streams[first : first + self.steps].argmax(1),
        }
