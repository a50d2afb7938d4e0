"""Deep feature factorisation: parts from the features of a set of images, without labels, by non-negative factors.

Paper: Collins, Achanta & Suesstrunk, Deep Feature Factorization for Concept Discovery, ECCV 2018. The cells of all
images' maps are the rows of one matrix, which is approximated by non-negative weights (cell by part) times
non-negative directions (part by feature). The weights of a part over the cells of an image are its map.

Differences from the paper, each with its reason: the directions are found on images of the training split only, and
test images are given weights with the directions held fixed (non-negative least squares), since a factorisation of the
test images would know the test split; a part then means the same in every image. The features are those of the
network under test, of its last stage, where the paper takes ImageNet's VGG-19.

The solver is hierarchical alternating least squares from the start that scikit-learn calls ``nndsvda``; it descends to
the same error as scikit-learn's (tested), on the device, in float32: also where the network runs in half precision.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

SWEEPS = 200  # of the fit, at most
SOLVE = 200  # steps for the weights of new images
TOLERANCE = 1e-5  # of the error, relative, over ten sweeps
Given = ParamSpec("Given")
Found = TypeVar("Found")


def exact(function: Callable[Concatenate[Tensor, Given], Found]) -> Callable[Concatenate[Tensor, Given], Found]:
    """The same without autocast, which would make products of float32 in half precision."""

    @wraps(function)
    def call(tensor: Tensor, /, *more: Given.args, **named: Given.kwargs) -> Found:
        with torch.autocast(tensor.device.type, enabled=False):
            return function(tensor, *more, **named)

    return call


@exact
def nndsvda(rows: Float[Tensor, "n d"], parts: int) -> tuple[Float[Tensor, "n p"], Float[Tensor, "p d"]]:
    """Non-negative double SVD (Boutsidis & Gallopoulos, 2008), zeros filled with the mean: a start without chance."""
    values, vectors = torch.linalg.eigh((rows.T @ rows).double())
    values, vectors = values.flip(0)[:parts].clamp(min=0), vectors.flip(1)[:, :parts]
    singular = values.sqrt().clamp(min=1e-12)
    left, right = (rows.double() @ vectors) / singular, vectors
    positive, negative = (left.clamp(min=0), right.clamp(min=0)), ((-left).clamp(min=0), (-right).clamp(min=0))
    norms = [u.norm(dim=0) * v.norm(dim=0) for u, v in (positive, negative)]
    takes = norms[0] >= norms[1]
    u, v = (torch.where(takes, p, n) for p, n in zip(positive, negative, strict=True))
    # The first pair has one sign, and is taken whole.
    scale = (singular * torch.where(takes, *norms)).sqrt()
    u = u / u.norm(dim=0).clamp(min=1e-12) * scale
    v = v / v.norm(dim=0).clamp(min=1e-12) * scale
    mean = rows.double().mean()
    weights, directions = torch.where(u > 1e-6, u, mean), torch.where(v > 1e-6, v, mean)
    return weights.to(rows.dtype), directions.T.contiguous().to(rows.dtype)


@exact
def factorise(
    rows: Float[Tensor, "n d"], parts: int, sweeps: int = SWEEPS, tolerance: float = TOLERANCE
) -> tuple[Float[Tensor, "n p"], Float[Tensor, "p d"]]:
    """Non-negative ``weights`` and ``directions`` with ``weights @ directions`` near to the rows, in least squares."""
    weights, directions = nndsvda(rows, parts)
    square = rows.square().sum()
    before = float(square)
    for sweep in range(sweeps):
        weights = _sweep(weights, rows @ directions.T, directions @ directions.T)
        gram, cross = weights.T @ weights, weights.T @ rows
        directions = _sweep(directions.T, cross.T, gram).T
        if sweep % 10 == 9:
            # |V - W H|^2 from the small products, so that no second matrix of the rows' size is made
            error = float(square - 2 * (cross * directions).sum() + (gram * (directions @ directions.T)).sum())
            if sweep > 9 and before - error <= tolerance * before:
                break
            before = error
    return weights, directions


def _sweep(
    weights: Float[Tensor, "n p"], cross: Float[Tensor, "n p"], gram: Float[Tensor, "p p"]
) -> Float[Tensor, "n p"]:
    """Each part's column once, to its best value with the others as they are."""
    columns = list(weights.unbind(1))
    for part in range(len(columns)):
        others = torch.stack(columns, 1) @ gram[:, part] - columns[part] * gram[part, part]
        columns[part] = ((cross[:, part] - others) / gram[part, part].clamp(min=1e-12)).clamp(min=0)
    return torch.stack(columns, 1)


@exact
def solve(rows: Float[Tensor, "n d"], directions: Float[Tensor, "p d"], steps: int = SOLVE) -> Float[Tensor, "n p"]:
    """The non-negative weights that bring each row nearest (convex), by accelerated projected gradients (FISTA)."""
    gram, cross = directions @ directions.T, rows @ directions.T
    step = 1 / torch.linalg.matrix_norm(gram, 2).clamp(min=1e-12)
    weights = torch.zeros_like(cross)
    ahead, momentum = weights, 1.0
    for _ in range(steps):
        after = (ahead - step * (ahead @ gram - cross)).clamp(min=0)
        grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = after + (momentum - 1) / grown * (after - weights)
        weights, momentum = after, grown
    return weights


@exact
def part_maps(features: Float[Tensor, "b d u v"], directions: Float[Tensor, "p d"]) -> Float[Tensor, "b p u v"]:
    """The weights of each cell, for directions of any length: in units of the part's unit direction."""
    unit = torch.nn.functional.normalize(directions.float(), dim=1)
    rows = features.float().clamp(min=0).permute(0, 2, 3, 1)
    weights = solve(rows.flatten(0, 2), unit)
    maps: Tensor = weights.unflatten(0, rows.shape[:3]).permute(0, 3, 1, 2).contiguous()
    return maps
