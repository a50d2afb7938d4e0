"""Files in, ``Batch`` out: readers, splits, views and loaders, one file per dataset.

May import: ``fgbench.types``. Must not import: methods, metrics, explain, scoring, or anything above them; and
albumentations only in ``augment.py``. Reads: the folder of datasets. Writes: toybirds, made there once;
and what ``prepare`` unpacks, copies and indexes.

Names are looked up when they are first used, so that drawing processes and ``fgbench --help`` need not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fgbench.data.base import BenchDataModule
    from fgbench.data.cub200 import CUB200
    from fgbench.data.inat2017 import INat2017
    from fgbench.data.text import DataError
    from fgbench.data.toybirds import ToyBirds
    from fgbench.data.view import View

__all__ = ["CUB200", "DATASETS", "BenchDataModule", "DataError", "INat2017", "ToyBirds", "View"]

DATASETS = {"toybirds": "ToyBirds", "cub200": "CUB200", "inat2017": "INat2017"}
"""Name of a dataset on the command line to its datamodule in this package."""

_HOMES = {
    "BenchDataModule": "base",
    "CUB200": "cub200",
    "DataError": "text",
    "INat2017": "inat2017",
    "ToyBirds": "toybirds",
    "View": "view",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
