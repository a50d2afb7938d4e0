"""Oxford Flowers 102: labels from 1 in the order of the images, not of the classes; three sets of numbers."""

from pathlib import Path

import numpy as np
from scipy.io import savemat

from fakes import Fake
from fakes.pictures import SIZES, write_picture

TREE = "flowers-102"
LABELS = [3, 1, 2, 2, 3, 1, 1, 2, 3, 3, 1, 2]
SETS = {"trnid": [2, 5, 8], "valid": [3, 1, 6], "tstid": [4, 7, 9, 10, 11, 12]}


def write(root: Path) -> None:
    tree = root / TREE
    for i in range(12):
        write_picture(tree / "jpg" / f"image_{i + 1:05d}.jpg", SIZES[i % 4])
    savemat(tree / "imagelabels.mat", {"labels": np.array([LABELS], np.uint8)})
    savemat(tree / "setid.mat", {name: np.array([numbers], np.uint16) for name, numbers in SETS.items()})


def empty(root: Path) -> None:
    sets = {**SETS, "tstid": []}
    savemat(root / TREE / "setid.mat", {name: np.array([numbers], np.uint16) for name, numbers in sets.items()})


FAKE = Fake(
    write,
    folder=f"{TREE}/jpg",
    image=f"{TREE}/jpg/image_00001.jpg",
    annotation=f"{TREE}/imagelabels.mat",
    empty=empty,
    arguments={"classes": 3},
)
