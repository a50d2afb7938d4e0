"""ImageNet (ILSVRC 2012): 1,281,167 train and 50,000 validation images of 1,000 classes, with boxes.

*Paper*: O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015. *Home*:
https://image-net.org/challenges/LSVRC/2012/ (an account is needed). *Licence*: non-commercial research and education,
by the terms of access. *Split*: official; the labels of its test images are secret, so, as everywhere, the validation
images are the test split. *Leak*: backbones pretrained on ImageNet have been trained on this very training split, and
their authors chose them by these validation images.

The tree on disk, as distributed, each archive unpacked into a folder of its name; the validation images may also be
sorted into class folders, as torchvision does it (image names, and so the data's digest, differ then)::

    <root>/imagenet/train/n01440764/n01440764_10026.JPEG             ILSVRC2012_img_train.tar, and the tars in it
    <root>/imagenet/val/ILSVRC2012_val_00000001.JPEG                 ILSVRC2012_img_val.tar
    <root>/imagenet/bbox/val/ILSVRC2012_val_00000001.xml             ILSVRC2012_bbox_val_v3.tgz, unpacked in bbox
    <root>/imagenet/bbox/train/n01440764/n01440764_10040.xml         ILSVRC2012_bbox_train_v2.tar.gz, in bbox/train
    <root>/imagenet/ILSVRC2012_devkit_t12/data/meta.mat              ILSVRC2012_devkit_t12.tar.gz
    <root>/imagenet/ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt

Classes are WordNet ids in the order of the alphabet, the outputs of all pretrained networks; the devkit numbers them
otherwise. Images of train are all files of a class folder, whose number is checked against ``meta.mat``. Boxes may
be several to an image. Those of train exist for some images only, and are read where their folder is; they may be of
images that train does not have, may be flat (left out), and were drawn in pictures of other sizes than the images in
train, which their files give: all boxes are scaled from that size to the image's. Boxes of another WordNet id than the
image's are left out in train and, where there are no others, refused in validation; names that are no WordNet ids are
believed. Some files are CMYK, and one is a PNG.
torchvision's parser gives no boxes, wants the devkit packed, and writes into the tree; so the files
are read here. Published order: train by class and name, then validation by number.
"""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from fgbench.data.archives import Archive
from fgbench.data.card import Card
from fgbench.data.files import Voc, check_lines, ragged, read_voc, table_of
from fgbench.data.listing import Listing
from fgbench.data.matlab import read_matlab
from fgbench.data.published import PublishedClasses, Rows, as_bytes
from fgbench.data.text import DataError

DEVKIT = "ILSVRC2012_devkit_t12/data"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
WNID = re.compile(r"n\d{8}")
NO_BOXES = Voc(np.zeros((0, 4)), (0, 0), ())


class ImageNet(PublishedClasses):
    """Datamodule of ImageNet."""

    name = "imagenet"
    folder, marker = "imagenet", f"{DEVKIT}/meta.mat"
    has_boxes = True
    scales_boxes = True
    card = Card(
        title="ImageNet",
        paper="Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015",
        home="https://image-net.org/challenges/LSVRC/2012/",
        licence="non-commercial research and education, by its terms of access",
        disk="155 GB",
        outputs=1000,
        train=1281167,
        test=50000,
        split="official; the validation images test",
        leaks="the split that backbones are pretrained on, chosen by their authors with the validation images",
    )
    archives = (
        Archive("ILSVRC2012_devkit_t12.tar.gz", holds=f"imagenet/{DEVKIT}/meta.mat", into="imagenet"),
        Archive("ILSVRC2012_img_train.tar", holds="imagenet/train", into="imagenet/train", size_gb=147.9, nested=True),
        Archive("ILSVRC2012_img_val.tar", holds="imagenet/val", into="imagenet/val", size_gb=6.7),
        Archive("ILSVRC2012_bbox_val_v3.tgz", holds="imagenet/bbox/val", into="imagenet/bbox"),
        Archive(
            "ILSVRC2012_bbox_train_v2.tar.gz", holds="imagenet/bbox/train", into="imagenet/bbox/train", optional=True
        ),
    )

    def sources(self) -> tuple[Path, ...]:
        """The devkit; neither the folders of train nor the 50,000 XML files are watched."""
        devkit = self.tree() / DEVKIT
        return devkit / "meta.mat", devkit / TRUTH

    def read_tree(self, tree: Path) -> Listing:
        """Folders of train, ground truth and boxes of validation."""
        ids, wnids, words, counts = _classes(tree / DEVKIT / "meta.mat")
        names: list[str] = []
        target: list[int] = []
        boxes: list[Float[ndarray, "_ 4"]] = []
        frames: list[tuple[int, int]] = []
        for label in range(min(self.num_outputs, len(wnids))):
            files = _files(tree / "train" / wnids[label])
            if len(files) != counts[label]:
                raise DataError(
                    f"{tree / 'train' / wnids[label]}: has {len(files):,} images, but meta.mat counts {counts[label]:,}"
                )
            foreign = [file for file in files if not file.startswith(f"{wnids[label]}_")]
            if foreign:
                raise DataError(f"{tree / 'train' / wnids[label] / foreign[0]}: its name is of another class")
            names += [f"train/{wnids[label]}/{file}" for file in files]
            target += [label] * len(files)
            for found in _train_boxes(tree / "bbox/train" / wnids[label], wnids[label], files):
                boxes.append(found.boxes)
                frames.append(found.size)
        trained = len(names)
        label_of = np.full(max(ids) + 1, -1, np.int64)
        label_of[ids] = np.arange(len(ids))
        truth = _truth(tree / DEVKIT / TRUTH, label_of)
        sorted_by_class = not (tree / "val" / f"{_val(1)}.JPEG").exists() and (tree / "val" / wnids[truth[0]]).is_dir()
        for number, label in enumerate(truth, start=1):
            names.append(f"val/{wnids[label] + '/' if sorted_by_class else ''}{_val(number)}.JPEG")
            found = NO_BOXES
            if label < self.num_outputs:
                path = tree / "bbox/val" / f"{_val(number)}.xml"
                found = read_voc(path)
                _check_label(tree / DEVKIT / TRUTH, number, wnids[label], path, found)
            boxes.append(found.boxes)
            frames.append(found.size)
        corners, start = ragged(boxes)
        rows = Rows(
            names=as_bytes(names),
            target=np.array(target + truth, np.int64),
            split=np.repeat([0, 1], [trained, len(truth)]),
            boxes=corners,
            box_start=start,
            frames=np.array(frames, np.int64).reshape(-1, 2),
            image_id=np.concatenate([np.arange(trained), sum(counts) + np.arange(len(truth))]),
        )
        return self.make_listing(rows, tree, words, tree / DEVKIT / "meta.mat")


def _classes(path: Path) -> tuple[list[int], list[str], list[str], list[int]]:
    """Challenge number, WordNet id, name and number of training images of each class, sorted by WordNet id."""
    (synsets,) = read_matlab(path, "synsets")
    try:
        leaves = [
            (str(row["WNID"]), int(row["ILSVRC2012_ID"]), str(row["words"]), int(row["num_train_images"]))
            for row in synsets
            if int(row["num_children"]) == 0  # the others are groups of classes
        ]
    except (ValueError, TypeError, IndexError) as error:
        raise DataError(f"{path}: its synsets are not those of ILSVRC 2012 ({error})") from None
    leaves.sort()
    return (
        [number for _, number, _, _ in leaves],
        [wnid for wnid, _, _, _ in leaves],
        [f"{wnid} {words.partition(',')[0]}" for wnid, _, words, _ in leaves],
        [count for *_, count in leaves],
    )


def _train_boxes(folder: Path, wnid: str, files: list[str]) -> list[Voc]:
    """Boxes of the training images of a class, as far as there are any."""
    there = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    found = []
    for file in files:
        name = f"{file.removesuffix('.JPEG')}.xml"
        mine = read_voc(folder / name, drop_flat=True) if name in there else NO_BOXES
        of_class = np.array([other == wnid or not WNID.fullmatch(other) for other in mine.names], np.bool_)
        found.append(replace(mine, boxes=mine.boxes[of_class]))
    return found


def _check_label(truth: Path, number: int, wnid: str, path: Path, found: Voc) -> None:
    """A validation image's boxes are of its class."""
    named = {name for name in found.names if WNID.fullmatch(name)}
    if named and wnid not in named:
        raise DataError(f"{truth}, line {number}: class {wnid}, but the boxes in {path} are of {min(named)}")


def _truth(path: Path, label_of: np.ndarray) -> list[int]:
    """Class index of each validation image; the file has a challenge number a line."""
    numbers, _ = table_of(path, 0)
    good = np.array([n.isdecimal() and int(n) < len(label_of) and label_of[int(n)] >= 0 for n in numbers], np.bool_)
    check_lines(path, good, "not the number of a class of meta.mat")
    return [int(label_of[int(number)]) for number in numbers]


def _files(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    return sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".JPEG"))


def _val(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"
