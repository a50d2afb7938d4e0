"""iNaturalist 2017: JSON of the competition, ids that do not follow each other, boxes for the birds in no order."""

import json
from pathlib import Path

import numpy as np

from fakes import Fake
from fakes.pictures import SIZES, write_picture

TREE = "inat2017"
CLASSES = {"Acer rubrum": "Plantae", "Apis mellifera": "Insecta", "Larus canus": "Aves", "Parus major": "Aves"}


def write(root: Path) -> None:
    tree, rng, names = root / TREE, np.random.default_rng(0), list(CLASSES)
    categories = [{"id": i, "name": name, "supercategory": CLASSES[name]} for i, name in enumerate(names)]
    for split, first, count in (("train", 0, 12), ("val", 100, 8)):  # ids of the two files need not follow each other
        images, labels, boxes = [], [], []
        for i in range(count):
            label = i % 4
            name = f"train_val_images/{CLASSES[names[label]]}/{names[label]}/{split}{i}.jpg"
            height, width = SIZES[label]
            write_picture(tree / name, SIZES[label])
            images.append({"id": first + i, "file_name": name, "width": width, "height": height, "license": 3})
            labels.append({"id": i, "image_id": first + i, "category_id": label})
            most = {2: 2, 3: 3}.get(label, 0) if split == "train" else int(label > 1)
            boxes += [
                {"image_id": first + i, "category_id": label, "bbox": [2 + b, 3 + b, 20, 30]} for b in range(most)
            ]
        rng.shuffle(boxes)  # in the authors' files, too, boxes of an image need not follow each other
        for name, annotations in ((f"{split}2017.json", labels), (f"{split}_2017_bboxes.json", boxes)):
            content = {"info": {}, "images": images, "categories": categories[::-1], "annotations": annotations}
            (tree / name).write_text(json.dumps(content, indent=1))


def empty(root: Path) -> None:
    path = root / TREE / "val2017.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "images": [], "annotations": []}))
    (root / TREE / "val_2017_bboxes.json").unlink()


FAKE = Fake(
    write,
    folder=f"{TREE}/train_val_images",
    image=f"{TREE}/train_val_images/Aves/Parus major/train3.jpg",
    annotation=f"{TREE}/val2017.json",
    text=f"{TREE}/train2017.json",
    empty=empty,
    arguments={"classes": 4},
)
