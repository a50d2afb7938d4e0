"""Datasets small enough for every test: toybirds of 48 px, and a tree in the layout of CUB-200-2011 with odd images."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

PARTS = [
    *("back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape"),
    *("right eye", "right leg", "right wing", "tail", "throat"),
]


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the small toybirds are drawn once for all tests."""
    return tmp_path_factory.mktemp("toys")


@pytest.fixture(scope="session")
def toybirds(toy_root: Path) -> Callable:
    """Datamodules of 36 toybirds (3 species, 18 train, 18 test, 48 px), ready to use."""
    from fgbench.data import ToyBirds

    def make(**kwargs):
        data = ToyBirds(**{"num_classes": 3, "num_images": 36, "image_size": 48, "root": str(toy_root), **kwargs})
        data.prepare_data()
        data.setup("fit")
        return data

    return make


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    """A root with a fake ``CUB_200_2011``: 3 classes of 4 JPEG images, non-square, the third grey; 15 parts."""
    root = tmp_path / "CUB_200_2011"
    rng = np.random.default_rng(0)
    names, sizes = [], [(60, 80), (80, 60), (61, 83), (50, 90)]
    for label in range(3):
        folder = f"{label + 1:03d}.Bird_{label}"
        (root / "images" / folder).mkdir(parents=True)
        for i, (height, width) in enumerate(sizes):
            names.append(f"{folder}/Bird_{label}_{i}.jpg")
            pixels = rng.integers(0, 256, (height, width) if i == 2 else (height, width, 3), dtype=np.uint8)
            cv2.imwrite(str(root / "images" / names[-1]), pixels)
    (root / "parts").mkdir()
    tables = {
        "classes.txt": [f"{i + 1:03d}.Bird_{i}" for i in range(3)],
        "images.txt": names,
        "image_class_labels.txt": [i // 4 + 1 for i in range(12)],
        "train_test_split.txt": [int(i % 4 < 2) for i in range(12)],
        "bounding_boxes.txt": [f"{5 + i}.0 {7 + i}.0 30.0 20.5" for i in range(12)],
        "parts/parts.txt": PARTS,
    }
    for name, values in tables.items():
        (root / name).write_text("".join(f"{i} {value}\n" for i, value in enumerate(values, start=1)))
    locations = [f"{i} {p} {10 + i + p}.0 {12 + i}.5 {int(p % 5 > 0)}\n" for i in range(1, 13) for p in range(1, 16)]
    (root / "parts/part_locs.txt").write_text("".join(locations))
    return tmp_path


INAT_CLASSES = {
    "Acer rubrum": "Plantae",
    "Apis mellifera": "Insecta",
    "Larus canus": "Aves",
    "Parus major": "Aves",
}


@pytest.fixture
def inat(tmp_path: Path) -> Path:
    """A root with a fake ``inat2017``: 4 classes, 12 train and 8 test images; boxes for the birds, one in val."""
    root, rng = tmp_path / "inat2017", np.random.default_rng(0)
    sizes, names = [(60, 80), (80, 60), (61, 83), (50, 90)], list(INAT_CLASSES)
    categories = [{"id": i, "name": name, "supercategory": INAT_CLASSES[name]} for i, name in enumerate(names)]
    for split, first, count in (("train", 0, 12), ("val", 100, 8)):  # ids of the two files need not follow each other
        images, labels, boxes = [], [], []
        for i in range(count):
            label = i % 4
            name = f"train_val_images/{INAT_CLASSES[names[label]]}/{names[label]}/{split}{i}.jpg"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / name), rng.integers(0, 256, (*sizes[label], 3), dtype=np.uint8))
            height, width = sizes[label]
            images.append({"id": first + i, "file_name": name, "width": width, "height": height, "license": 3})
            labels.append({"id": i, "image_id": first + i, "category_id": label})
            most = {2: 2, 3: 3}.get(label, 0) if split == "train" else int(label > 1)
            boxes += [
                {"image_id": first + i, "category_id": label, "bbox": [2 + b, 3 + b, 20, 30]} for b in range(most)
            ]
        rng.shuffle(boxes)  # in the authors' files, too, boxes of an image need not follow each other
        for name, annotations in ((f"{split}2017.json", labels), (f"{split}_2017_bboxes.json", boxes)):
            content = {"info": {}, "images": images, "categories": categories[::-1], "annotations": annotations}
            (root / name).write_text(json.dumps(content))
    return tmp_path
