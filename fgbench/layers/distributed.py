"""Collective operations with gradients, on every backend (gloo on CPU too); the identity without a process group."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Number of training processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    """Concatenates the processes' tensors; the gradient of a row is the sum of what all processes want of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        shards = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(shards, x)
        return torch.cat(shards)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # Not reduce_scatter: gloo has none. The tensors gathered here are a few floats per image or channel.
        grad = grad.clone(memory_format=torch.contiguous_format)  # autograd may still own it
        dist.all_reduce(grad)
        start = dist.get_rank() * ctx.rows
        return grad[start : start + ctx.rows]


def gather(x: Float[Tensor, "rows ..."]) -> Float[Tensor, "all_rows ..."]:
    """The rows of all processes in the order of their ranks, with a gradient to each of them.

    Every process must hold the same number of rows. A loss that every process computes from the gathered tensor gets
    the gradient of the union batch once the processes' gradients are averaged, as DistributedDataParallel does.

    >>> gather(torch.tensor([[1.0, 2.0]]))
    tensor([[1., 2.]])
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x.contiguous())  # type: ignore[no-untyped-call]
    return gathered
