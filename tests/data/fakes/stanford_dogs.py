"""Stanford Dogs: cells with one file a row, labels from 1, XML without a suffix, several dogs to an image."""

from pathlib import Path

import numpy as np
from scipy.io import savemat

from fakes import Fake
from fakes.pictures import SIZES, cell, write_picture, write_voc

TREE = "stanford_dogs"
BREEDS = ["n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02105855-Shetland_sheepdog"]


def boxes(i: int) -> list[tuple[int, ...]]:
    return [(2 + i, 3, 40, 45), (10, 8, 30, 20), (5, 6, 25, 33)][: 1 + i % 3]


def save(path: Path, files: list[str], labels: list[int]) -> None:
    content = {"file_list": cell(files), "annotation_list": cell([file.removesuffix(".jpg") for file in files])}
    savemat(path, {**content, "labels": np.array(labels, np.float64)[:, None]})


def write(root: Path) -> None:
    tree, lists = root / TREE, {"train": [], "test": [], "file": []}
    for label, breed in enumerate(BREEDS):
        for i, size in enumerate(SIZES):
            name = f"{breed.partition('-')[0]}_{7 + 31 * i}"
            kind = "png" if (label, i) == (2, 3) else "grey" if i == 2 else "rgb"
            write_picture(tree / "Images" / breed / f"{name}.jpg", size, kind)
            # some files' name is "%s", and the folder has no n
            write_voc(tree / "Annotation" / breed / name, breed[1:9], name if i else "%s", size, boxes(i))
            for part in ("train" if i < 2 else "test", "file"):
                lists[part].append((f"{breed}/{name}.jpg", label + 1))
    for part, rows in lists.items():
        save(tree / f"{part}_list.mat", [file for file, _ in rows], [label for _, label in rows])


def empty(root: Path) -> None:
    none = np.empty((0, 0), object)
    savemat(root / TREE / "test_list.mat", {"file_list": none, "annotation_list": none, "labels": np.empty((0, 0))})


FAKE = Fake(
    write,
    folder=f"{TREE}/Images",
    image=f"{TREE}/Images/{BREEDS[0]}/n02085620_7.jpg",
    annotation=f"{TREE}/Annotation/{BREEDS[0]}/n02085620_7",
    empty=empty,
    arguments={"classes": 3},
)
