"""Losses: pure functions of tensors, and small modules where a constant must live on the device.

``heads`` says what a loss of a linear classifier is; ``LOSS=<name>`` chooses one of ``experiments/losses``.

May import: types, layers. Must not import: any other room. Reads: nothing. Writes: nothing.
"""

from fgbench.losses.centres import LGM, Center
from fgbench.losses.heads import CrossEntropy, Focal, Head, MakeHead, check_target
from fgbench.losses.margins import COCO, ArcFace, ASoftmax, Circle, CosFace
from fgbench.losses.mutual_channel import MutualChannel

__all__ = [
    "COCO",
    "LGM",
    "ASoftmax",
    "ArcFace",
    "Center",
    "Circle",
    "CosFace",
    "CrossEntropy",
    "Focal",
    "Head",
    "MakeHead",
    "MutualChannel",
    "check_target",
]
