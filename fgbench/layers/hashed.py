"""Random numbers that depend on an image's id and a seed only: not on the batch, the process or the order of images."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor


def hashed_uniform(image_id: Int64[Tensor, "b 1"], draw: Int64[Tensor, " n"], seed: int = 0) -> Float64[Tensor, "b n"]:
    """Numbers in [0, 1) that depend on the arguments only: the mixing function of SplitMix64 (Steele et al., 2014)."""
    state = (image_id * 0x100000001B3 + draw + 1) * _signed(0x9E3779B97F4A7C15) + seed * 0x632BE59BD9B4E019 % 2**63
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        state = (state ^ _shifted(state, shift)) * _signed(factor)
    return _shifted(state, 11).double() / 2**53


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _shifted(state: Int64[Tensor, "b n"], bits: int) -> Int64[Tensor, "b n"]:
    """Shift to the right without the sign."""
    return torch.bitwise_and(state >> bits, 2 ** (64 - bits) - 1)
