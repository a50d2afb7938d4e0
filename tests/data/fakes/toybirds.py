"""Toybirds are their own fake: 36 birds of 48 pixels."""

from pathlib import Path

from fakes import Fake
from fgbench.data import ToyBirds

ARGUMENTS = {"num_classes": 3, "num_images": 36, "image_size": 48}


def write(root: Path) -> None:
    ToyBirds(root=str(root), **ARGUMENTS).prepare_data()


FAKE = Fake(write, arguments=ARGUMENTS, rewritten=True)
