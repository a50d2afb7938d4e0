"""Batch normalisation over the global batch, on every device.

``torch.nn.SyncBatchNorm`` refuses CPU tensors (and ``DistributedDataParallel`` refuses any subclass of it there), so a
CPU run of several processes could not equal a run of one. On CUDA torch's own is used, elsewhere the class here.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fgbench.layers.distributed import gather, world_size


class SyncBatchNorm(_BatchNorm):
    """Synchronised batch normalisation by a gather of each process's moments, on any device.

    State and state-dict keys are those of ``torch.nn.BatchNorm*d``. With one process, or in eval mode, it is plain
    batch normalisation. Processes may hold different numbers of values per channel.
    """

    def forward(self, input: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """Normalise with the moments of all processes (training) or the running ones (evaluation)."""
        if self.training and world_size() > 1:
            return self._forward_by_gather(input)
        by_batch = self.training or self.running_mean is None
        moments = (self.running_mean, self.running_var)
        return nn.functional.batch_norm(input, *moments, self.weight, self.bias, by_batch, self._momentum(), self.eps)

    def _forward_by_gather(self, input: Tensor) -> Tensor:
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        axes = [0, *range(2, x.ndim)]
        count = x.numel() // x.shape[1]
        var, mean = torch.var_mean(x, axes, correction=0)
        moments = gather(torch.stack([mean, var, torch.full_like(mean, count)])[None])  # process, 3, channel
        means, vars_, counts = moments.unbind(1)
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total
        # Moments of a union from moments of its parts (Chan et al. 1979): no cancellation, unlike sums of squares.
        var = (counts * (vars_ + (means - mean) ** 2)).sum(0) / total
        self._update_running(mean.detach(), var.detach(), total)
        shape = (1, -1, *[1] * (x.ndim - 2))
        normal = (x - mean.view(shape)) * torch.rsqrt(var + self.eps).view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(input.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor, total: Tensor) -> None:
        momentum = self._momentum()
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_((var * total / (total - 1)).to(self.running_var.dtype), momentum)

    def _momentum(self) -> float:
        """Weight of this batch in the running moments; counts the batch, as torch does."""
        if not self.training or self.num_batches_tracked is None:
            return 0.0
        self.num_batches_tracked.add_(1)
        return 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum


def convert_sync_batchnorm(module: nn.Module, cuda: bool = False) -> nn.Module:
    """The module with every batch normalisation synchronised; parameters and buffers are kept, not copied.

    Args:
        module: changed in place, but for a batch normalisation itself.
        cuda: whether it will run there, where torch's own is faster.

    >>> convert_sync_batchnorm(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))[1].num_features
    3
    """
    if cuda:
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return synced
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
        ours = SyncBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        ours._parameters, ours._buffers = module._parameters, module._buffers
        ours.training = module.training
        return ours
    for name, child in module.named_children():
        converted = convert_sync_batchnorm(child)
        if converted is not child:
            setattr(module, name, converted)
    return module
