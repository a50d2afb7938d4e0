"""What a CPU can do, and how the process is told to use its memory, which changes no number.

May import: the standard library, torch. Must not import: anything else of the suite. Reads, writes: nothing.
"""

import ctypes

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
NEVER = -1


def imitates_bf16() -> bool:
    """Whether oneDNN has no convolutions of bfloat16 for this CPU: they then take ten times as long.

    Measured on two cores with AVX2 and no more: a training step of resnet_tiny at 128 px, 3.0 s for 0.3 s in 32 bits.
    """
    return not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_memory() -> bool:
    """Let glibc keep what is freed; whether it is there and does so.

    A network's maps are larger than what it keeps by itself: they go back to the kernel after each use and come again
    page by page. A training step of resnet_tiny at 128 px took 1.00 to 1.5 times as long that way (two cores; a noisy
    machine).
    """
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    # Older ones refuse more than 32 MiB. The other threshold only after this one: told one, glibc adapts neither.
    large = tell(MMAP_THRESHOLD, 2**31 - 1) or tell(MMAP_THRESHOLD, 2**25)
    return bool(large and tell(TRIM_THRESHOLD, NEVER))
