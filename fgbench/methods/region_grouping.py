"""Region grouping: pixels are assigned to a few parts, parts are weighed by attention, and the label is read from them.

The evidence is the assignment map of each part (``parts``) and the attention over parts spread over the cells of each
(``saliency``). No part annotation is used: parts are found because each is pushed to occur as often as a prior says.

Paper: Huang & Li, Interpretable and Accurate Fine-grained Recognition via Region Grouping, CVPR 2020.
Code by the authors: github.com/zxhuang1698/interpretability-by-parts at 650f1af, used as a reference only.

Differences from paper and from code, each with its reason:

* The learning rate of new layers is 20 times that of the backbone, CUB decays by a cosine to zero stepped per
  iteration, SGD has momentum 0.9: only in the code (``optim.new_layer_factor``). CUB's rates are the paper's at batch
  32, which is the code's at batch 16 scaled linearly. CelebA trains 30 epochs in the paper, 10 in the code: ours are
  the paper's.
* As in the code and not in the paper: batch norm on the pooled vector, a bottleneck per attribute, batch norm and
  ReLU in front of the attention's softmax (they bound its logits), a bias in the classifier.
* The smoothing factor: 2 sigma^2 = sigmoid(s) as in the code, so that sigma lies in (0, 0.71), not (0, 1) as in the
  paper. Eq. 3 divides by sigma and then by the norm: the division cancels and is left out; sigma acts through the
  assignment.
* The prior's log-quantiles are made once per batch size. The code makes them anew in each step because its cache is
  never marked as filled (marked, it would take logarithms of logarithms from the second step on).
* Quantiles of the prior are computed in float64 and checked: at iNaturalist's alpha = 2e-3 the lower ones are as small
  as 2e-308, which float32 would flush to zero and other versions of scipy may return as NaN.
* The prior sees the global batch, gathered with gradients over the processes; the code has one process. With alpha =
  1, beta = 1e-3 that changes nothing; with iNaturalist's prior it does, since a few images cannot quantise 2/3.
* The blur of the occurrence does not pad, as in the code, so the outer two cells hardly count; ``prior_pad`` changes
  that.
* The norm of the pooled vector is per attribute by default. The code applies one batch norm to 40 attributes in turn:
  its running moments are mostly those of the last ten. ``head_norm: pooled`` shares one norm with moments over all
  attributes.
* Biases of convolutions in front of a batch norm (code: attention nets) are left out: the norm subtracts them.
* Heads of all attributes run at once (grouped weights), not in a loop. Same numbers.
* Distances, softmax, pooling, blur, logarithms and norms are computed in float32 whatever the precision of the
  network: squared norms of several hundred in bfloat16 change the assignment by up to 0.9.
* In training a process without synchronised batch norm needs two images: the pooled vector is normalised over images.
* Kept out of the method, since they belong to the protocol: a threshold of 0.5 on attribute logits (code; 0 is
  right), averaging logits with those of the flipped image (code's default), choosing the epoch on CUB's test set
  (code), and coordinates in units of the true box or inter-ocular distance (see the landmark metric).
* The code's CUB recipe has batch 16, the README there says to save memory; the paper's 32 is ours. Slips of the
  paper's text (21.9 for 22.9 percent, DFE for DFF, a gain of 5.7 that counts the fully convolutional test) change
  nothing here.
* iNaturalist: the authors published no code. Rates, schedule and layers are CUB's, prior and resolution the paper's.
* ``loss`` puts another last layer of exclusive classes, and its loss, in place of the linear one (ours).
* Without attention (ablation) every part weighs 1 / p; there is then no saliency, since the parts sum to one
  everywhere.
* Saliency of attributes: of the attribute with the largest logit; ``explain`` gives it for any other.

Fully convolutional test: any image of at least one cell works, since pooling is by assignment; nothing needs to be
set.

Other backbones than ResNets: the map is that of the last stage of at most stride 16, or of the first ``stages``
stages, with dilation instead of strides beyond 16. Widths scale with the channels ``d`` of that map: ``f_z`` has 2 d
(``width``), its bottlenecks a quarter of that, attention bottlenecks d / 4. For ResNet-50/101 these are the paper's
2048, 512, 256.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fgbench.backbones import Backbone
from fgbench.losses import Head, MakeHead
from fgbench.losses.occurrence_prior import OccurrencePrior
from fgbench.methods.base import Method, Optim
from fgbench.pretrained import Colour
from fgbench.types import Batch, Output, Target

STRIDE = 16  # of the map that is grouped; conv1..layer3 of a ResNet
EMPTY = 1e-5  # least mass of a part that is divided by; the authors' code


def assign(
    rows: Float[Tensor, "b n d"], dictionary: Float[Tensor, "p d"], beta: Float[Tensor, " p"]
) -> Float[Tensor, "b n p"]:
    """Soft assignment of each cell to the parts (Eq. 1): softmax of -|x - d|^2 / beta, where beta is 2 sigma^2."""
    cross = nn.functional.linear(rows, 2 * dictionary)  # one matrix product; |x|^2 stays, since beta differs per part
    negative = cross - (rows * rows).sum(-1, keepdim=True) - (dictionary * dictionary).sum(-1)
    return (negative.clamp(max=0) / beta).softmax(-1)


def region_features(
    rows: Float[Tensor, "b n d"], assignment: Float[Tensor, "b n p"], dictionary: Float[Tensor, "p d"]
) -> Float[Tensor, "b p d"]:
    """Direction from each part's centre to the mean of its cells (Eq. 3); zero where they coincide."""
    mass = assignment.sum(1)[..., None]
    mean = torch.bmm(assignment.transpose(1, 2), rows) / mass.clamp(min=EMPTY)
    # A length below 1e-6 is rounding: dividing by less would turn it into a direction with a huge gradient.
    return nn.functional.normalize(mean - dictionary, dim=-1, eps=1e-6)


class GroupingUnit(nn.Module):
    """Assignment of cells to parts and the features of the parts, in float32.

    Args:
        parts: number of parts.
        channels: of the map.
    """

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()
        self.dictionary = nn.Parameter(torch.empty(parts, channels))
        self.smoothing = nn.Parameter(torch.zeros(parts))  # s; 2 sigma^2 = sigmoid(s)
        nn.init.kaiming_normal_(self.dictionary)
        with torch.no_grad():
            self.dictionary.clamp_(min=1e-5)  # features come from a ReLU; half of the entries start at the floor

    def forward(self, features: Float[Tensor, "b d u v"]) -> tuple[Float[Tensor, "b p u v"], Float[Tensor, "b p d"]]:
        """Assignment maps, which sum to one in each cell, and region features of unit length."""
        with torch.autocast(features.device.type, enabled=False):
            rows = features.float().permute(0, 2, 3, 1).flatten(1, 2)
            assignment = assign(rows, self.dictionary, self.smoothing.sigmoid())
            regions = region_features(rows, assignment, self.dictionary)
        return assignment.transpose(1, 2).unflatten(2, features.shape[2:]), regions


class GroupedLinear(nn.Module):
    """One linear layer for each group of rows, all at once.

    Args:
        groups: number of layers.
        inputs: features in.
        outputs: features out.
        bias: with one, and the default initialisation of a linear layer; without, that of a convolution before a ReLU.
    """

    def __init__(self, groups: int, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(groups, outputs)) if bias else None
        if self.bias is None:
            nn.init.normal_(self.weight, std=(2 / outputs) ** 0.5)
        else:
            nn.init.uniform_(self.weight, -(inputs**-0.5), inputs**-0.5)
            nn.init.uniform_(self.bias, -(inputs**-0.5), inputs**-0.5)

    def forward(self, x: Float[Tensor, "rows g i"]) -> Float[Tensor, "rows g o"]:
        """Each group's rows through its own layer."""
        y = torch.einsum("ngi,gio->ngo", x, self.weight)
        return y if self.bias is None else y + self.bias


class RowNorm(nn.Module):
    """Batch norm over rows, of every channel of every group.

    Args:
        groups: number of groups; 1 for moments that all groups share.
        channels: per group.
        zero: start with scale 0, so that a fresh residual block is the identity.
    """

    def __init__(self, groups: int, channels: int, zero: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(groups * channels)
        if zero:
            nn.init.zeros_(self.norm.weight)

    def forward(self, x: Float[Tensor, "rows g c"]) -> Float[Tensor, "rows g c"]:
        """The normalised rows."""
        y: Tensor = self.norm(x.reshape(-1, self.norm.num_features))
        return y.view_as(x)


class Bottleneck(nn.Module):
    """A residual block of three 1 x 1 convolutions, for each group of rows its own; ``4 hidden`` features out."""

    def __init__(self, groups: int, inputs: int, hidden: int) -> None:
        super().__init__()
        outputs = 4 * hidden
        self.block = nn.Sequential(
            *(GroupedLinear(groups, inputs, hidden), RowNorm(groups, hidden), nn.ReLU()),
            *(GroupedLinear(groups, hidden, hidden), RowNorm(groups, hidden), nn.ReLU()),
            *(GroupedLinear(groups, hidden, outputs), RowNorm(groups, outputs, zero=True)),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(GroupedLinear(groups, inputs, outputs), RowNorm(groups, outputs))

    def forward(self, x: Float[Tensor, "rows g i"]) -> Float[Tensor, "rows g o"]:
        """The block's change added to the shortcut, cut at zero."""
        y: Tensor = self.block(x) + self.shortcut(x)
        return y.relu()


class Attention(nn.Module):
    """Weight of each part, for each head; softmax over parts in float32.

    Args:
        heads: 1 for classes (two bottlenecks and a linear layer); with more, each has three linear layers.
        channels: of the region features.
    """

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()
        if heads == 1:
            hidden = max(1, channels // 4)
            first = [
                Bottleneck(1, channels, hidden),
                Bottleneck(1, 4 * hidden, hidden),
                GroupedLinear(1, 4 * hidden, 1),
            ]
        else:
            wide, narrow = max(1, channels // 4), max(1, channels // 32)
            first = [
                *(GroupedLinear(1, channels, heads * wide), nn.Unflatten(2, (heads, wide)), nn.Flatten(1, 2)),
                *(RowNorm(heads, wide), nn.ReLU(), GroupedLinear(heads, wide, narrow)),
                *(RowNorm(heads, narrow), nn.ReLU(), GroupedLinear(heads, narrow, 1)),
            ]
        self.score = nn.Sequential(*first)
        self.norm = RowNorm(heads, 1)

    def forward(self, regions: Float[Tensor, "b p d"]) -> Float[Tensor, "b g p"]:
        """Non-negative weights that sum to one over the parts."""
        scores: Tensor = self.score(regions.flatten(0, 1)[:, None])  # rows are parts of images
        with torch.autocast(regions.device.type, enabled=False):
            scores = self.norm(scores.float()).relu()[..., 0]
            by_image: Tensor = scores.unflatten(0, regions.shape[:2])
            return by_image.transpose(1, 2).softmax(-1)


class RegionGrouping(Method):
    """Region grouping in place of a backbone's last block.

    Args:
        backbone: name of the network, a key of ``fgbench.backbones.ARCHITECTURES``.
        weights: null (from scratch), ``imagenet1k_v1`` or the path of a weights file.
        mean: normalisation of the network's input; null takes what the weights say.
        std: like ``mean``.
        stages: of the backbone; null for those up to stride 16 (conv1..layer3 of a ResNet). Later ones run dilated.
        parts: number of parts.
        attention: weigh parts by attention; false weighs them equally (ablation).
        prior_weight: of the occurrence prior in the loss; 0 leaves it out (ablation).
        prior_alpha: see ``OccurrencePrior``.
        prior_beta: see ``OccurrencePrior``.
        prior_pad: see ``OccurrencePrior``.
        width: channels of the transformed region features, a multiple of 4; null for twice those of the map.
        blocks: bottlenecks of the transformation.
        head_norm: moments of the pooled vectors of attributes: of each attribute, or pooled over all.
        loss: last layer and loss of exclusive classes, on the normalised pooled vector; null for a linear layer and
            cross-entropy. Attributes have a classifier each and take none.
        num_outputs: see ``Method``.
        target: see ``Method``.
        optim: see ``Method``.
    """

    contribution = "attention"

    def __init__(
        self,
        num_outputs: int,
        target: Target,
        optim: Optim,
        backbone: str = "resnet101",
        weights: str | None = "imagenet1k_v1",
        mean: Colour | None = None,
        std: Colour | None = None,
        stages: int | None = None,
        parts: int = 5,
        attention: bool = True,
        prior_weight: float = 0.5,
        prior_alpha: float = 1.0,
        prior_beta: float = 1e-3,
        prior_pad: bool = False,
        width: int | None = None,
        blocks: int = 4,
        head_norm: Literal["per_attribute", "pooled"] = "per_attribute",
        loss: MakeHead | None = None,
    ) -> None:
        super().__init__(num_outputs, target, optim)
        self.backbone = Backbone(backbone, weights, stages=stages, stride=STRIDE, mean=mean, std=std)
        channels = self.backbone.out_channels
        width = 2 * channels if width is None else width
        if parts < 2 or blocks < 1 or width < 4 or width % 4 or prior_weight < 0:
            raise ValueError(
                f"parts={parts}, blocks={blocks}, width={width}, prior_weight={prior_weight}: need at least 2 parts, "
                "1 block, a width that is a multiple of 4, and a prior_weight of at least 0"
            )
        if loss is not None and target == "attributes":
            raise ValueError("RegionGrouping has a classifier for each attribute, and a loss has one: leave LOSS out")
        self.parts, self.prior_weight = parts, prior_weight
        self.heads, outputs = (1, num_outputs) if target == "class" else (num_outputs, 1)
        self.grouping = GroupingUnit(parts, channels)
        self.transform = nn.Sequential(
            Bottleneck(1, channels, width // 4), *(Bottleneck(1, width, width // 4) for _ in range(blocks - 1))
        )
        self.attention = Attention(self.heads, channels) if attention else None
        self.norm = RowNorm(self.heads if head_norm == "per_attribute" else 1, width)
        self.refine = Bottleneck(self.heads, width, width // 4) if target == "attributes" else nn.Identity()
        self.classifier: nn.Module
        if loss is None:
            self.classifier = GroupedLinear(self.heads, width, outputs, bias=True)
        else:
            self.classifier = loss(width, num_outputs)
            self.classifier.check_maps(None)  # the vector is a mean of parts, not of a map's cells
        self.prior = OccurrencePrior(prior_alpha, prior_beta, prior_pad)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Logits, attention spread over the cells of the parts, and the assignment maps."""
        logits, assignment, attention = self._group_and_classify(image)
        if attention is None:
            return Output(logits, None, assignment)
        index = logits.argmax(1) if self.target == "attributes" else torch.zeros_like(logits[:, 0], dtype=torch.long)
        return Output(logits, self._spread(assignment, attention, index), assignment)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The classification loss and the weighted distance of the parts' occurrences from the prior."""
        refined, assignment, _ = self._group(batch.image)
        further: dict[str, Tensor] = {}
        if isinstance(self.classifier, Head):
            loss, further = self.classifier.loss(refined[:, 0], batch.target)
        else:
            loss = self.classification_loss(self._classify(refined), batch)
        terms = {"classification": loss.detach(), **further}
        if self.prior_weight:
            prior = self.prior(assignment)
            terms["prior"] = prior.detach()
            loss = loss + self.prior_weight * prior
        return loss, terms

    def explain(self, image: Float[Tensor, "b 3 h w"], index: Int[Tensor, " b"]) -> Float[Tensor, "b u v"] | None:
        """The saliency of any attribute; classes share one attention."""
        _, assignment, attention = self._group(image)
        if attention is None:
            return None
        return self._spread(assignment, attention, index if self.target == "attributes" else torch.zeros_like(index))

    @torch.no_grad()
    def contributions(self, batch: Batch, index: Int[Tensor, " b"]) -> Float[Tensor, "b p"] | None:
        """The attention of the parts, which sums to one; classes share one attention, and without it all are alike."""
        attention = self._group(batch.image)[2]
        if attention is None:
            return torch.full((len(index), int(self.parts or 1)), 1 / int(self.parts or 1), device=index.device)
        head = index if self.target == "attributes" else torch.zeros_like(index)
        return attention[torch.arange(len(index), device=index.device), head]

    def _group_and_classify(
        self, image: Tensor
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b p u v"], Float[Tensor, "b g p"] | None]:
        refined, assignment, attention = self._group(image)
        return self._classify(refined), assignment, attention

    def _classify(self, refined: Float[Tensor, "b g d"]) -> Float[Tensor, "b k"]:
        logits: Tensor = self.classifier(refined[:, 0] if isinstance(self.classifier, Head) else refined)
        return logits.flatten(1).float()

    def _group(
        self, image: Tensor
    ) -> tuple[Float[Tensor, "b g d"], Float[Tensor, "b p u v"], Float[Tensor, "b g p"] | None]:
        assignment, regions = self.grouping(self.backbone(image))
        images, parts, _ = regions.shape
        transformed = self.transform(regions.flatten(0, 1)[:, None]).view(images, parts, -1)
        attention = None if self.attention is None else self.attention(regions)
        weights = transformed.new_full((1, 1, 1), 1 / parts) if attention is None else attention.to(transformed.dtype)
        pooled = torch.bmm(weights.expand(images, self.heads, parts), transformed)
        return self.refine(self.norm(pooled)), assignment, attention

    @staticmethod
    def _spread(
        assignment: Float[Tensor, "b p u v"], attention: Float[Tensor, "b g p"], head: Int[Tensor, " b"]
    ) -> Float[Tensor, "b u v"]:
        """Pixel attribution: the attention of each cell's parts, for one head of each image."""
        chosen = attention[torch.arange(len(head), device=head.device), head]
        with torch.autocast(assignment.device.type, enabled=False):
            return torch.einsum("bp,bpuv->buv", chosen, assignment)
