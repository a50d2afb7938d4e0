"""ImageNet: synsets with a group among them, numbered otherwise than sorted; several objects; CMYK and a PNG."""

from pathlib import Path

import numpy as np
from scipy.io import savemat

from fakes import Fake
from fakes.pictures import SIZES, struct, write_picture, write_voc

TREE, DEVKIT = "imagenet", "imagenet/ILSVRC2012_devkit_t12/data"
SYNSETS = [  # number, WordNet id, words, children, training images
    (1, "n02119789", "kit fox, Vulpes macrotis", [], 2),
    (2, "n01440764", "tench, Tinca tinca", [], 3),
    (3, "n02100735", "English setter", [], 2),
    (1001, "n02084071", "dog, domestic dog, Canis familiaris", [3], 0),
]
TRUTH = [3, 1, 2, 2, 3, 1]


def boxes(i: int) -> list[tuple[int, ...]]:
    return [(0, 3 + i, 40, 45), (10, 8, 30, 20)][: 1 + i % 2]


def name(i: int) -> str:
    return f"ILSVRC2012_val_{i + 1:08d}"


def write(root: Path) -> None:
    tree, devkit = root / TREE, root / DEVKIT
    devkit.mkdir(parents=True)
    rows = [
        {
            "ILSVRC2012_ID": np.uint16(number),
            "WNID": wnid,
            "words": words,
            "gloss": "what it is",
            "num_children": np.uint8(len(children)),
            "children": np.array([children], np.uint16),
            "wordnet_height": np.uint8(0),
            "num_train_images": np.uint16(count),
        }
        for number, wnid, words, children, count in SYNSETS
    ]
    savemat(devkit / "meta.mat", {"synsets": struct(rows).T})
    for _, wnid, _, _, count in SYNSETS:
        for i in range(count):
            kind = "png" if (wnid, i) == ("n02100735", 1) else "cmyk" if i == 2 else "rgb"
            write_picture(tree / "train" / wnid / f"{wnid}_{10026 - 17 * i}.JPEG", SIZES[i], kind)
    # as in the official archive: boxes of some images, drawn in a picture of another size; breeds by name or by number,
    # a flat box, and an image that train does not have
    wnid, boxed = "n02100735", tree / "bbox/train"
    half = (SIZES[0][0] // 2, SIZES[0][1] // 2)
    write_voc(boxed / wnid / f"{wnid}_10026.xml", wnid, f"{wnid}_10026", half, [(1, 2, 20, 30), (4, 4, 4, 9)], "setter")
    write_voc(boxed / wnid / f"{wnid}_77.xml", wnid, f"{wnid}_77", half, [(1, 2, 20, 30)], wnid)
    other = "n02119789"
    write_voc(boxed / other / f"{other}_10026.xml", other, f"{other}_10026", SIZES[0], [(1, 2, 20, 30)], wnid)
    wnids = {number: wnid for number, wnid, *_ in SYNSETS}
    for i in range(len(TRUTH)):
        write_picture(tree / "val" / f"{name(i)}.JPEG", SIZES[i % 4], "grey" if i == 4 else "rgb")
        write_voc(tree / "bbox/val" / f"{name(i)}.xml", "val", name(i), SIZES[i % 4], boxes(i), wnids[TRUTH[i]])
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in TRUTH))


def empty(root: Path) -> None:
    (root / DEVKIT / "ILSVRC2012_validation_ground_truth.txt").write_text("")


FAKE = Fake(
    write,
    folder=f"{TREE}/val",
    image=f"{TREE}/train/n01440764/n01440764_10026.JPEG",
    annotation=f"{TREE}/bbox/val/{name(0)}.xml",
    text=f"{DEVKIT}/ILSVRC2012_validation_ground_truth.txt",
    empty=empty,
    arguments={"classes": 3},
)
