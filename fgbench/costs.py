"""What one image costs: multiply-adds (MACs) and floating-point operations (FLOPs), which papers mix up.

*MACs*: one for each multiplication whose product is added up: convolutions, products of matrices (linear layers, LSTMs,
attention, einsum), distances of all pairs, and sampling, where a value is a weighted sum of its neighbours (4 of a
bilinear, 20 of a bicubic sample, separable).

*FLOPs*: 2 for each of these, and 1 for each element that another operator computes: activations, biases, normalisation,
softmax, pooling. An element-wise operator has as many as its output; a reduction (sum, mean, maximum, pooling) as many
as it reads; batch normalisation, with its moments known, 2 an output; softmax and the other normalisations 5 an element
(maximum, difference, exponential, sum, quotient). Moving and copying are not counted.

The network runs once, on one image, in evaluation mode, and every operator that it calls is counted by the shapes that
it is called with; kernels that hide products (fused attention, cuDNN's and oneDNN's LSTM) are switched off for it.

May import: torch. Must not import: anything else of the suite. Reads and writes: nothing.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

BILINEAR, BICUBIC = 4, 20  # multiply-adds of a sample: 2 x 2 neighbours; four rows of four, then their four
GRID_MODES = {0: BILINEAR, 1: 0, 2: BICUBIC}  # of grid_sample: bilinear, nearest, bicubic
FREE = (  # move or make numbers, or are bookkeeping
    "view", "reshape", "expand", "permute", "transpose", "t", "slice", "select", "unsqueeze", "squeeze", "detach",
    "clone", "copy_", "_to_copy", "cat", "stack", "split", "split_with_sizes", "unbind", "index", "index_select",
    "gather", "zeros", "ones", "empty", "full", "zeros_like", "ones_like", "empty_like", "full_like", "new_zeros",
    "new_empty", "new_ones", "new_full", "fill_", "zero_", "arange", "linspace", "constant_pad_nd", "flip", "roll",
    "repeat", "_unsafe_view", "_reshape_alias", "alias", "as_strided", "lift_fresh", "lift_fresh_copy", "eye",
    "diagonal", "tril", "triu", "masked_fill", "where", "scatter", "upsample_nearest2d", "reflection_pad2d",
    "replication_pad2d", "pixel_shuffle", "sort", "argsort", "topk", "unfold", "im2col", "dropout", "native_dropout",
    "scalar_tensor", "contiguous", "index_put_", "scatter_", "_local_scalar_dense", "narrow", "channel_shuffle",
)  # fmt: skip
REDUCTIONS = (
    "sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "var", "std", "prod", "norm", "linalg_vector_norm",
    "logsumexp", "cumsum", "cumprod", "avg_pool2d", "max_pool2d_with_indices", "_adaptive_avg_pool2d", "var_mean",
    "adaptive_max_pool2d",
)  # fmt: skip
NORMALISATIONS = {
    "_softmax": 5, "_safe_softmax": 5, "_log_softmax": 5, "native_layer_norm": 5, "native_group_norm": 5,
    "native_batch_norm": 2,
    "_native_batch_norm_legit_no_training": 2, "cudnn_batch_norm": 2, "batch_norm": 2,
}  # fmt: skip


class Cost(NamedTuple):
    """Of one image."""

    macs: int
    flops: int


def count(module: nn.Module, size: tuple[int, int]) -> Cost:
    """MACs and FLOPs of one image in evaluation mode.

    Args:
        module: maps ``1 3 h w`` images to anything; left as it was.
        size: height and width of the image.
    """
    parameter = next(module.parameters())
    modes = {part: part.training for part in module.modules()}
    image = torch.zeros(1, 3, *size, device=parameter.device, dtype=parameter.dtype)
    counter = Counter()
    try:
        module.eval()
        with (
            warnings.catch_warnings(action="ignore", category=UserWarning),  # of oneDNN: no GPU by Intel
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.mkldnn.flags(enabled=False),
            torch.backends.cudnn.flags(enabled=False),
            counter,
        ):
            module(image)
    finally:
        for part, training in modes.items():
            part.training = training
    return Cost(counter.macs, counter.flops)


class Counter(TorchDispatchMode):
    """Adds up what the operators below it cost."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """One operator."""
        given = dict(kwargs or {})
        packet = func._overloadpacket
        name = packet.__name__
        known = packet in flop_registry or name in PRODUCTS or name in REDUCTIONS or name in NORMALISATIONS
        if not known and name not in FREE:  # an operator that is made of others: count those
            with self:
                found = func.decompose(*args, **given)
            if found is not NotImplemented:
                return found
        out = func(*args, **given)
        macs, others = _cost(packet, name, args, given, out)
        self.macs += macs
        self.flops += 2 * macs + others
        return out


def _cost(packet: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> tuple[int, int]:
    """Multiply-adds of an operator, and its further operations."""
    if packet in flop_registry:
        macs = flop_registry[packet](*args, **kwargs, out_val=out) // 2  # the registry says 2 for a multiply-add
        biased = name in ("addmm", "baddbmm") or (name == "convolution" and args[2] is not None)
        return macs, _elements(out) if biased else 0
    if name in PRODUCTS:
        return PRODUCTS[name](args, out), 0
    base = name.removesuffix("_")
    if name in FREE or base in FREE:
        return 0, 0
    if name in NORMALISATIONS:
        return 0, NORMALISATIONS[name] * args[0].numel()
    if base in REDUCTIONS and isinstance(args[0], Tensor) and not _is_binary(args):
        return 0, _elements(args[0])
    return 0, _elements(out)


def _is_binary(args: tuple[Any, ...]) -> bool:
    """``max`` and ``min`` of two tensors are element-wise."""
    return len(args) > 1 and isinstance(args[1], Tensor)


def _elements(out: Any) -> int:
    """Floating-point elements of the first of an operator's tensors; those after it are indices or by-products."""
    first = next((leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)), None)
    return first.numel() if first is not None and first.is_floating_point() else 0


def _roi_align(args: tuple[Any, ...], out: Tensor) -> int:
    """Each output is the mean of samples in its bin; without a given number of them as many as the bin has pixels."""
    rois, scale, height, width, ratio = args[1], float(args[2]), int(args[3]), int(args[4]), int(args[5])
    if ratio > 0:
        return out.numel() * ratio**2 * BILINEAR
    sides = (rois[:, 3:5] - rois[:, 1:3]).clamp(min=0) * scale
    samples = sum(math.ceil(y / height) * math.ceil(x / width) for x, y in sides.tolist())
    return int(samples) * height * width * out.shape[1] * BILINEAR


def _distances(args: tuple[Any, ...], out: Tensor) -> int:
    return out.numel() * int(args[0].shape[-1])


PRODUCTS: dict[str, Callable[[tuple[Any, ...], Any], int]] = {
    "grid_sampler_2d": lambda args, out: out.numel() * GRID_MODES[args[2]],
    "grid_sampler_3d": lambda args, out: out.numel() * (0 if args[2] == 1 else 8),
    "upsample_bilinear2d": lambda args, out: out.numel() * BILINEAR,
    "upsample_bicubic2d": lambda args, out: out.numel() * BICUBIC,
    "roi_align": _roi_align,
    "_cdist_forward": _distances,
    "mv": lambda args, out: args[0].numel(),
    "dot": lambda args, out: args[0].numel(),
}
"""Multiply-adds of operators that the registry of torch does not know."""
