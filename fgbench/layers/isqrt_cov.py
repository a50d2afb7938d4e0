"""Covariance pooling with an iterative matrix square root, and average pooling, as heads of the same kind.

The descriptor is the upper triangle of the square root of the covariance of a map's channels over its cells. The root
is found by Newton-Schulz iterations, matrix products only, on the covariance over its trace; its eigenvalues then lie
in (0, 1], where the iterations converge. Li et al., Towards Faster Training of Global Covariance Pooling Networks by
Iterative Matrix Square Root Normalization, CVPR 2018. No code of theirs is used: the gradient is that of the
iterations, by autograd, in float32 (in half precision the iterations diverge).
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

ITERATIONS = 5  # the paper
SMALLEST = 1e-10  # trace that is divided by: a map without variance has the root 0, with finite gradients
Head = Literal["average", "isqrt_2k", "isqrt_8k", "isqrt_32k"]
CHANNELS = {"isqrt_2k": 64, "isqrt_8k": 128, "isqrt_32k": 256}  # after the reduction; c (c + 1) / 2 dimensions


def covariance(features: Float[Tensor, "b c n"]) -> Float[Tensor, "b c c"]:
    """Of the channels over the cells, divided by their number."""
    centred = features - features.mean(2, keepdim=True)
    return torch.bmm(centred, centred.transpose(1, 2)) / features.shape[2]


def matrix_sqrt(matrix: Float[Tensor, "b c c"], iterations: int = ITERATIONS) -> Float[Tensor, "b c c"]:
    """The square root of positive semi-definite matrices, approached from below (exact in the limit)."""
    trace = matrix.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp(min=SMALLEST)
    y = matrix / trace
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    z = identity.expand_as(matrix)
    for _ in range(iterations):
        step = 1.5 * identity - 0.5 * torch.bmm(z, y)
        y, z = torch.bmm(y, step), torch.bmm(step, z)
    return y * trace.sqrt()


class AveragePool(nn.Module):
    """The mean over the cells.

    Args:
        channels: of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.outputs = channels

    def forward(self, features: Float[Tensor, "b d u v"]) -> Float[Tensor, "b d"]:
        """One value per channel."""
        return features.mean((2, 3))


class CovariancePool(nn.Module):
    """Reduction to fewer channels, then the upper triangle of the covariance's square root.

    Args:
        channels: of the map.
        reduced: channels after the reduction.
    """

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.outputs = reduced * (reduced + 1) // 2
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, reduced, 1, bias=False), nn.BatchNorm2d(reduced), nn.ReLU(inplace=True)
        )
        self.register_buffer("_triangle", torch.triu_indices(reduced, reduced), persistent=False)

    _triangle: Tensor

    def forward(self, features: Float[Tensor, "b d u v"]) -> Float[Tensor, "b o"]:
        """The descriptor, in float32."""
        reduced = self.reduce(features)
        with torch.autocast(features.device.type, enabled=False):
            root = matrix_sqrt(covariance(reduced.float().flatten(2)))
            return root[:, self._triangle[0], self._triangle[1]]


def make_pool(head: Head, channels: int) -> AveragePool | CovariancePool:
    """The head of a name; its ``outputs`` is the length of the descriptor."""
    return AveragePool(channels) if head == "average" else CovariancePool(channels, CHANNELS[head])
