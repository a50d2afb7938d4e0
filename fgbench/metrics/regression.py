"""Many linear regressions at once, from moments that merge: no second pass over the images, exact over processes.

A regression from standardised inputs to standardised targets without intercept (the usual protocol for landmarks)
needs only counts, means and centred second moments. These merge pairwise without cancellation (Chan, Golub and
LeVeque, 1983), so the same function adds a batch on one process and joins the processes at the end. Everything is
float64.

*Semantics.* Least squares of least norm in the standardised inputs, as ``scikit-learn``'s ``StandardScaler`` and
``LinearRegression(fit_intercept=False)`` give it, rank-deficient fits included (fewer images than inputs). Whether
the targets are standardised does not matter: the solution is linear in them. Two deliberate differences, both in
directions where a fit would follow nothing but the float32 noise of part maps (about 1e-7):

* an input whose spread is below ``FLAT`` counts as constant, and gets slope 0;
* a principal direction of the standardised inputs that is ``RANK`` times weaker than the strongest counts as absent
  (scikit-learn cuts near 1e-15 times the number of images, which float32 inputs never reach).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

FLAT = (
    1e-6  # standard deviation; coordinates are in boxes (eye distances, image sides), so about a thousandth of a pixel
)
RANK = 1e-6  # ratio of singular values


def moments(rows: Float[Tensor, "b l e"], weights: Float[Tensor, "b g l"]) -> Float[Tensor, "g l f f"]:
    """Count, mean and scatter of weighted rows, packed into one matrix per group and landmark.

    Args:
        rows: float64, ``e`` inputs and targets of each image, per landmark.
        weights: 1 where the image counts, else 0.

    Returns:
        With ``f = e + 1``: ``[0, 0]`` the count, ``[0, 1:]`` the mean, ``[1:, 1:]`` the sum of outer products of the
        deviations from the mean. Zeros where nothing counts.
    """
    count = weights.sum(0)
    mean = torch.einsum("bgl,ble->gle", weights, rows) / count.clamp(min=1)[..., None]
    deviations = (rows[:, None] - mean) * weights[..., None]
    return pack(count, mean, torch.einsum("bgli,bglj->glij", deviations, deviations))


def pack(
    count: Float[Tensor, "g l"], mean: Float[Tensor, "g l e"], scatter: Float[Tensor, "g l e e"]
) -> Float[Tensor, "g l f f"]:
    """The three as one matrix, see ``moments``."""
    packed = torch.nn.functional.pad(scatter, (1, 0, 1, 0))
    packed[..., 0, 0] = count
    packed[..., 0, 1:] = mean
    return packed


def merge(parts: Float[Tensor, "m g l f f"]) -> Float[Tensor, "g l f f"]:
    """Moments of the union of ``m`` disjoint sets of images, from the moments of each."""
    counts, means = parts[..., 0, 0], parts[..., 0, 1:]
    count = counts.sum(0)
    mean = (counts[..., None] * means).sum(0) / count.clamp(min=1)[..., None]
    between = (means - mean) * counts.sqrt()[..., None]
    scatter = parts[..., 1:, 1:].sum(0) + torch.einsum("mgli,mglj->glij", between, between)
    return pack(count, mean, scatter)


def solve(
    merged: Float[Tensor, "g l f f"], inputs: Sequence[slice], targets: int = 2
) -> tuple[Float[Tensor, "s g l x t"], Float[Tensor, "s g l t"]]:
    """Slopes and offsets, so that ``prediction = x @ slope + offset``.

    Args:
        merged: moments of ``x`` inputs, followed by ``t`` targets.
        inputs: for each of ``s`` predictors the inputs that it may use; the slopes of the others are 0.
        targets: ``t``.

    Returns:
        Slopes and offsets, both NaN where no image counted.
    """
    count, mean = merged[..., 0, 0], merged[..., 0, 1:]
    covariance = merged[..., 1:, 1:] / count[..., None, None]  # 0 / 0 = NaN where no image counted
    spread = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    scale = torch.where(spread > FLAT, 1 / spread, 0.0)[..., :-targets]
    correlation = covariance[..., :-targets, :-targets] * scale[..., :, None] * scale[..., None, :]
    along = covariance[..., :-targets, -targets:] * scale[..., :, None]
    slopes = along.new_zeros(len(inputs), *along.shape)
    for predictor, used in enumerate(inputs):
        if used.start == used.stop:
            continue
        values, vectors = torch.linalg.eigh(correlation[..., used, used].nan_to_num())
        inverse = torch.where(values > RANK**2 * values[..., -1:], 1 / values, 0.0)
        projected = inverse[..., None] * (vectors.mT @ along[..., used, :])
        slopes[predictor, ..., used, :] = scale[..., used, None] * (vectors @ projected)
    offsets = mean[..., -targets:] - (mean[..., None, :-targets] @ slopes).squeeze(-2)
    return slopes, torch.where(count[..., None] > 0, offsets, torch.nan)
