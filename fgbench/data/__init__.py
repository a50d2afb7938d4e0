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
    from fgbench.data.celeba import CelebA
    from fgbench.data.celeba_wild import CelebAWild
    from fgbench.data.cub200 import CUB200
    from fgbench.data.fgvc_aircraft import FGVCAircraft
    from fgbench.data.flowers102 import Flowers102
    from fgbench.data.imagenet import ImageNet
    from fgbench.data.inat2017 import INat2017
    from fgbench.data.mit67 import MIT67
    from fgbench.data.stanford_cars import StanfordCars
    from fgbench.data.stanford_dogs import StanfordDogs
    from fgbench.data.text import DataError
    from fgbench.data.toybirds import ToyBirds
    from fgbench.data.view import View

__all__ = [
    "CUB200",
    "DATASETS",
    "MIT67",
    "BenchDataModule",
    "CelebA",
    "CelebAWild",
    "DataError",
    "FGVCAircraft",
    "Flowers102",
    "INat2017",
    "ImageNet",
    "StanfordCars",
    "StanfordDogs",
    "ToyBirds",
    "View",
]

DATASETS = {
    "toybirds": "ToyBirds",
    "cub200": "CUB200",
    "celeba": "CelebA",
    "celeba_wild": "CelebAWild",
    "inat2017": "INat2017",
    "stanford_cars": "StanfordCars",
    "stanford_dogs": "StanfordDogs",
    "fgvc_aircraft": "FGVCAircraft",
    "flowers102": "Flowers102",
    "mit67": "MIT67",
    "imagenet": "ImageNet",
}
"""Name of a dataset on the command line, and of its file, to its datamodule in this package."""

_HOMES = {
    **{kind: name for name, kind in DATASETS.items()},
    "BenchDataModule": "base",
    "DataError": "text",
    "View": "view",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
