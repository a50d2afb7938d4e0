"""Stanford Cars: structs, classes and pixels counted from 1, labels of the test images in a file of their own."""

from pathlib import Path

import numpy as np
from scipy.io import savemat

from fakes import Fake
from fakes.pictures import SIZES, cell, struct, write_picture

TREE = "stanford_cars"
NAMES = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"]


def box(i: int) -> tuple[int, int, int, int]:
    """Pixels from 1, both ends included."""
    return 3 + i, 5, 30 + i, 41


def write(root: Path) -> None:
    tree = root / TREE
    (tree / "devkit").mkdir(parents=True)
    savemat(tree / "devkit/cars_meta.mat", {"class_names": cell(NAMES, column=False)})
    files = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for part, file in files.items():
        rows = []
        for i in range(6):
            name = f"{i + 1:05d}.jpg"
            write_picture(tree / f"cars_{part}" / name, SIZES[i % 4], "grey" if i == 4 else "rgb")
            sides = dict(zip(("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"), map(np.uint16, box(i)), strict=True))
            rows.append({**sides, "class": np.uint8(i * 2 % 3 + 1), "fname": name})
        savemat(tree / file, {"annotations": struct(rows)})
        if part == "test":  # what the devkit holds, without labels
            savemat(
                tree / "devkit/cars_test_annos.mat",
                {"annotations": struct([{k: v for k, v in row.items() if k != "class"} for row in rows])},
            )


def empty(root: Path) -> None:
    none = np.empty((0, 0), [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")])
    savemat(root / TREE / "cars_test_annos_withlabels.mat", {"annotations": none})


FAKE = Fake(
    write,
    folder=f"{TREE}/cars_test",
    image=f"{TREE}/cars_train/00001.jpg",
    annotation=f"{TREE}/cars_test_annos_withlabels.mat",
    empty=empty,
    arguments={"classes": 3},
)
