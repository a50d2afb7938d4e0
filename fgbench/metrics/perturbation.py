"""Insertion and deletion: does the probability follow the pixels that the saliency calls important?

*Source:* Petsiuk et al., *RISE*, BMVC 2018, and the authors' code, which gives steps, fill and blur.

*Definition.* The saliency is resized to the input (bilinear, pixel centres aligned) and its pixels are ranked, largest
first, of equal ones the first in reading order. In ``STEPS`` equal steps the ranked pixels are replaced by zero of the
normalised image (``deletion``), or put back into a blurred image (``insertion``). The curve is the probability, by the
softmax, of the class that is predicted for the whole image; the number is its area by the trapezoid rule, the steps
spanning 1, mean over images. Percent; insertion higher, deletion lower is better.

*Images:* of the fixed subset of a split (``subset``): every ``k``-th of its images in published order, ``k`` the
smallest that leaves at most 1,000. It is a function of the split only; 224 px and CUB's 5,794 images would be 2.6
million forward passes.

*Left out:* nothing. A saliency that is NaN, infinite or constant ranks pixels in reading order. Not defined for
attributes. NaN: no image.

*Floors* are explainers (``centre``, ``random_map``): the same images, the same code, another saliency.

*Deviations:* inputs are those of the protocol, of any size, so a step is ``1 / STEPS`` of the pixels, which at 224
pixels is the code's row of pixels; the blur has the code's size at 224 pixels (kernel 11, deviation 5), scaled with the
short side, and reflects at borders where the code pads with zeros. The code's kernel is a Gaussian whose tails are
folded back into its 11 pixels, nearly a mean (0.088 at the ends of a row, 0.094 in its middle); here they are cut off
(0.066 and 0.109), so insertion starts from a little more of the image.

*Exact:* areas are summed as integers of 2^-30. The areas themselves depend on how a device's convolutions round.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torchmetrics
from jaxtyping import Float, Int, Int64
from numpy import ndarray
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from fgbench.metrics import maps

STEPS = 224
MOST = 1000  # images of the subset
AT_ONCE = 256  # perturbed images in one forward pass on an accelerator
PIXELS_CPU = 2**22  # of the images in one on a CPU: at most 83 of 224 px, of which the largest map of a VGG is 1 GB


class Perturbed(NamedTuple):
    """Perturbed images of a pass, not yet made: a compiled network makes them as it reads them.

    Attributes:
        inner: what the pixels of lowest rank show.
        outer: what the others show.
        rank: of the pixels.
        counts: how many are of lowest rank, in each perturbed image.
    """

    inner: Float[Tensor, "1 3 h w"]
    outer: Float[Tensor, "1 3 h w"]
    rank: Int[Tensor, "1 h w"]
    counts: Int[Tensor, " n"]

    def image(self) -> Float[Tensor, "n 3 h w"]:
        """The perturbed images."""
        return torch.where((self.rank < self.counts[:, None, None])[:, None], self.inner, self.outer)


Classify = Callable[[Perturbed, int], Tensor]
"""Logits of perturbed images of a row of the batch; asked for as many of them each time."""


def subset(rows: Int[ndarray, " n"], most: int = MOST) -> Int[ndarray, " m"]:
    """Every k-th, k the smallest that leaves at most ``most``.

    >>> import numpy as np
    >>> subset(np.arange(10), 4).tolist()
    [0, 3, 6, 9]
    """
    chosen: ndarray = rows[:: max(1, -(-len(rows) // most))]
    return chosen


def ranks(saliency: Float[Tensor, "b u v"], height: int, width: int) -> Int64[Tensor, "b h w"]:
    """The place of each pixel of the resized map in the order of importance, from 0."""
    order = maps.resized(saliency[:, None], height, width).flatten(1).argsort(dim=1, descending=True, stable=True)
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place).view(-1, height, width)


def blurred(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """What insertion starts from."""
    scale = min(image.shape[2:]) / 224
    kernel = max(3, round(11 * scale) // 2 * 2 + 1)
    found: Tensor = gaussian_blur(image, [kernel, kernel], [5 * scale, 5 * scale])
    return found


def images_at_once(image: Float[Tensor, "b 3 h w"]) -> int:
    """Perturbed images in one pass that suit the device and the images' size."""
    if image.device.type != "cpu":
        return AT_ONCE
    return max(1, PIXELS_CPU // (image.shape[2] * image.shape[3]))


def curves(
    classify: Classify,
    image: Float[Tensor, "b 3 h w"],
    index: Int64[Tensor, " b"],
    rank: Int64[Tensor, "b h w"],
    steps: int = STEPS,
    at_once: int | None = None,
) -> Float[Tensor, "2 b s"]:
    """Probabilities of the index-th class along deletion and insertion, many perturbed images in one pass.

    Args:
        classify: see ``Classify``.
        image: normalised.
        index: the class of each image.
        rank: of its pixels, see ``ranks``.
        steps: in which all pixels are replaced.
        at_once: most perturbed images in one pass; None for what suits the device.
    """
    at_once = images_at_once(image) if at_once is None else at_once
    height, width = image.shape[2:]
    # A pass is of one image, and all passes are of one size, since a compiled network is compiled for one: each curve
    # is cut into equal shares, of which the last may repeat its last step.
    size = -(-(steps + 1) // -(-(steps + 1) // at_once))
    counts = (torch.arange(steps + 1, device=image.device) * (height * width) // steps).int()
    shares = torch.cat((counts, counts[-1:].expand(-(steps + 1) % size))).split(size)
    rank = rank.int()  # which every pass reads
    found = []
    for inner, outer in ((torch.zeros_like(image), image), (image, blurred(image))):
        for row in range(len(image)):
            one = slice(row, row + 1)
            logits = [classify(Perturbed(inner[one], outer[one], rank[one], count), row) for count in shares]
            found.append(torch.cat(logits)[: steps + 1].float().softmax(1)[:, index[row]])
    return torch.stack(found).view(2, len(image), -1)


def area(curve: Float[Tensor, "*b s"]) -> Float[Tensor, "*b"]:
    """By the trapezoid rule, over steps that span 1."""
    values = curve.double()
    return (values.sum(-1) - (values[..., 0] + values[..., -1]) / 2) / (values.shape[-1] - 1)


class Perturbation(torchmetrics.Metric):
    """``deletion`` and ``insertion`` from the curves of each image."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, found: Float[Tensor, "2 b s"]) -> None:
        """Add areas."""
        self.total = self.total + (area(found) * maps.UNIT).round().to(torch.int64).sum(1)
        self.count = self.count + found.shape[1]

    def compute(self) -> dict[str, Tensor]:
        """Percentages."""
        deletion, insertion = (100 * self.total.double() / maps.UNIT / self.count).unbind()
        return {"insertion": insertion, "deletion": deletion, "perturbed_images": self.count}
