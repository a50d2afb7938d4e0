"""Methods: Batch in, Output and loss out; one file each.

May import: types, backbones, layers, losses. Must not import: data, metrics, explain, or any room above.
Reads: weights files (through backbones). Writes: nothing.
"""

from fgbench.methods.base import Method, Optim
from fgbench.methods.baseline import Baseline
from fgbench.methods.dpnet import DPNet
from fgbench.methods.focus_longer import FocusLonger
from fgbench.methods.mc_loss import MCLoss
from fgbench.methods.preparation import Preparation
from fgbench.methods.protopnet import ProtoPNet
from fgbench.methods.region_grouping import RegionGrouping
from fgbench.methods.ssn import SSN
from fgbench.methods.tasn import TASN
from fgbench.methods.tdsa import TDSA

METHODS: dict[str, type[Method]] = {
    "baseline": Baseline,
    "dpnet": DPNet,
    "focus_longer": FocusLonger,
    "mc_loss": MCLoss,
    "protopnet": ProtoPNet,
    "region_grouping": RegionGrouping,
    "ssn": SSN,
    "tasn": TASN,
    "tdsa": TDSA,
}

__all__ = [
    "METHODS", "SSN", "TASN", "TDSA", "Baseline", "DPNet", "FocusLonger", "MCLoss", "Method", "Optim", "Preparation",
    "ProtoPNet", "RegionGrouping",
]  # fmt: skip
