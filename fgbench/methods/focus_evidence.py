"""What Focus Longer says beside its logits: evidence over the image, and what its streams and steps say by themselves.

Maps of the whole image and of patches come together in cells of 8 pixels of the image.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fgbench.layers import boxes as boxed

CELL = 8  # pixels of a cell of saliency and parts


def saliency(
    weight: Float[Tensor, "b d"],
    features: Float[Tensor, "b d u v"],
    local: Float[Tensor, "bn r c"],
    boxes: Float[Tensor, "b n 4"],
    size: tuple[int, int],
    local_weight: float,
) -> Float[Tensor, "b u2 v2"]:
    """Positive evidence per area of both streams, in logits over the area of the image.

    Args:
        weight: of the explained class in the global classifier.
        features: the global map.
        local: the evidence in each patch.
        boxes: of the patches, in pixels of the image.
        size: height and width of the image.
        local_weight: of the local stream.
    """
    height, width = size
    with torch.autocast(features.device.type, enabled=False), torch.no_grad():
        coarse = torch.einsum("bd,bduv->buv", weight.float(), features.float()).relu()
        coarse = nn.functional.interpolate(coarse[:, None], _cells(size), mode="bilinear")[:, 0]
        x0, y0, x1, y1 = boxes.unbind(-1)
        magnified = height * width / ((x1 - x0) * (y1 - y0)).clamp(min=1)
        fine = pasted(local.relu()[:, None], boxes, size)[:, :, 0] * local[0].numel()
        return coarse + local_weight * (fine * magnified[..., None, None]).mean(1)


def pasted(
    maps: Float[Tensor, "bn t u v"], boxes: Float[Tensor, "b n 4"], size: tuple[int, int]
) -> Float[Tensor, "b n t r c"]:
    """Maps of patches, each in the place of its patch in the image."""
    return boxed.paste(maps.unflatten(0, boxes.shape[:2]), boxes, size, _cells(size))


def _cells(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // CELL), -(-size[1] // CELL)


def of_steps(
    coarse: Float[Tensor, "b k"], scores: Float[Tensor, "b t k"], bias: Float[Tensor, " k"], local_weight: float
) -> list[Float[Tensor, "b t k"]]:
    """Logits of each step by itself, fused with the global stream, and of sums and means up to each step; as named."""
    sums = scores.cumsum(1)
    lengths = torch.arange(1, scores.shape[1] + 1, device=scores.device)[:, None]
    fused = [coarse[:, None] + local_weight * (x + bias) for x in (scores, sums, sums / lengths)]
    return [scores + bias, *fused]


def names_of_streams(steps: int) -> tuple[str, ...]:
    """Names of ``Output.streams``: both streams; steps alone, fused, and fused sums and means of the first steps.

    >>> names_of_streams(1)
    ('global', 'local', 'local_step_1', 'step_1', 'sum_1', 'mean_1')
    """
    kinds = ("local_step", "step", "sum", "mean")
    return ("global", "local", *(f"{kind}_{step}" for kind in kinds for step in range(1, steps + 1)))
