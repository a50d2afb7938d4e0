"""iNaturalist 2017: 675,170 photographs of 5,089 species in 13 super-categories, boxes for nine of these.

*Paper*: G. Van Horn, O. Mac Aodha, Y. Song, Y. Cui, C. Sun, A. Shepard, H. Adam, P. Perona, S. Belongie, The
iNaturalist Species Classification and Detection Dataset, CVPR 2018. *Home*:
https://github.com/visipedia/inat_comp/tree/master/2017. *Licence*: images belong to their photographers; for
non-commercial research and education, not to be passed on. *Split*: that of the 2017 competition, 579,184 train and
95,986 validation images; its test labels were never published, so the validation images are this suite's test split, as
in all papers. For a validation of one's own: ``val_fraction``. *Leaks*: none known to ImageNet, which is older; images
of one observation can be in both splits.

The tree on disk, as distributed (186 GB of images, at most 800 px)::

    <root>/inat2017/train_val_images/Plantae/Acer palmatum/<hash>.jpg          train_val_images.tar.gz
    <root>/inat2017/{train2017,val2017}.json                                   train_val2017.zip
    <root>/inat2017/{train_2017_bboxes,val_2017_bboxes}.json                   one .zip each

The JSON files are in the format of COCO: ``images`` (id, file_name, width, height), ``annotations`` (image_id,
category_id) and ``categories`` (id, name, supercategory), classes from 0. Heights and
widths must be those of the images, since boxes refer to them, and an image must lie in the folder of its species in
that of its super-category.
Boxes are in files of their own, ``x y width height`` in pixels, several an image in train and one in validation; images
of Plantae, Fungi, Protozoa and Chromista have none, and so have some others. A file of boxes that is not there leaves
its split without boxes.

torchvision has labels of this year only, without boxes and without the split: its parser is not used.

``fgbench data prepare inat2017`` makes copies whose short side is 600 at most and an index; without the index every
start reads half a gigabyte of JSON. Published order: the images of ``train2017.json``, then those of ``val2017.json``.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from fgbench.data.archives import Archive
from fgbench.data.base import BenchDataModule
from fgbench.data.card import Card
from fgbench.data.files import check_images
from fgbench.data.listing import Listing
from fgbench.data.text import DataError, read_json

HOME = "https://github.com/visipedia/inat_comp/tree/master/2017"
FILES = "https://ml-inat-competition-datasets.s3.amazonaws.com/2017"
SPECIES, TRAIN, TEST, GROUPS = 5089, 579_184, 95_986, 13  # of the competition's page; checked
LISTS = ("train2017.json", "val2017.json")
BOXES = ("train_2017_bboxes.json", "val_2017_bboxes.json")


class INat2017(BenchDataModule):
    """Datamodule of iNaturalist 2017.

    Args:
        classes: only the first so many species, for quick runs; None is the whole dataset, whose counts are checked.
        kwargs: see ``BenchDataModule``.
    """

    name = "inat2017"
    has_boxes = True
    card = Card(
        title="iNaturalist 2017",
        paper="Van Horn et al., The iNaturalist Species Classification and Detection Dataset, CVPR 2018",
        home=HOME,
        licence="of each photograph in the JSON files; non-commercial research and education",
        disk="190 GB, of which copies of short side 600 or less can be kept alone",
        outputs=SPECIES,
        train=TRAIN,
        test=TEST,
        split="that of the competition; its validation images test, since labels of its test images are secret",
        leaks="none known; photographs of one observation can be in both splits",
    )
    copy_short = 600
    archives = (
        Archive(
            "train_val2017.zip",
            holds="inat2017/train2017.json",
            into="inat2017",
            url=f"{FILES}/train_val2017.zip",
            size_gb=0.026,
        ),
        Archive(
            "train_2017_bboxes.zip",
            holds="inat2017/train_2017_bboxes.json",
            into="inat2017",
            url=f"{FILES}/train_2017_bboxes.zip",
            size_gb=0.022,
            optional=True,
        ),
        Archive(
            "val_2017_bboxes.zip",
            holds="inat2017/val_2017_bboxes.json",
            into="inat2017",
            url=f"{FILES}/val_2017_bboxes.zip",
            size_gb=0.003,
            optional=True,
        ),
        Archive(
            "train_val_images.tar.gz",
            holds="inat2017/train_val_images",
            into="inat2017",
            url=f"{FILES}/train_val_images.tar.gz",
            size_gb=186.0,
        ),
    )

    def __init__(self, classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if classes is not None and not 2 <= classes <= SPECIES:
            raise ValueError(f"classes is {classes}, but must be from 2 to {SPECIES}, or null for all")
        self.classes = classes
        self.num_outputs = SPECIES if classes is None else classes

    def tree(self) -> Path:
        """The folder that has the JSON files: ``<root>/inat2017``, or ``root`` itself."""
        return self.root if (self.root / LISTS[0]).is_file() else self.root / "inat2017"

    def prepare_data(self) -> None:
        """Say where to get the data when it is not there; nothing is downloaded."""
        missing = [name for name in LISTS if not (self.tree() / name).is_file()]
        if missing:
            raise DataError(f"{self.name}: {self.tree()}: no {' and no '.join(missing)}. {self._advice()}.")

    def _advice(self) -> str:
        return (
            f"Get the archives of {HOME}, put them into {self.root / 'archives'} and run fgbench data prepare "
            f"{self.name}, or say where the datasets are with --machine.data_root"
        )

    def sources(self) -> tuple[Path, ...]:
        """The JSON files that are there."""
        there = [self.tree() / name for name in (*LISTS, *BOXES)]
        return tuple(path for path in there if path.is_file())

    def index_key(self) -> tuple[object, ...]:
        """The number of classes."""
        return (self.classes,)

    def read(self) -> Listing:
        """Both lists and their boxes; the whole dataset must have its published counts."""
        try:
            listing = read_lists(self.tree(), self.classes)
            found = [len(listing.label_names), *(len(listing.rows(split)) for split in ("train", "test"))]
            found.append(len(set(listing.label_groups)))
            if self.classes is None and found != [SPECIES, TRAIN, TEST, GROUPS]:
                raise DataError(
                    f"{self.tree()}: has {found[0]:,} species in {found[3]} super-categories, {found[1]:,} train and "
                    f"{found[2]:,} test images, iNaturalist 2017 has {SPECIES:,}, {GROUPS}, {TRAIN:,} and {TEST:,}. "
                    "For a part of it set data.init_args.classes"
                )
        except DataError as error:
            raise DataError(f"{str(error).rstrip('. ')}. {self._advice()}.") from None
        return listing


def read_lists(tree: Path, classes: int | None = None) -> Listing:
    """Images, labels, super-categories and boxes of both splits.

    Args:
        tree: folder of the JSON files.
        classes: the first so many species only; None reads all.

    Raises:
        DataError: a file is missing or damaged, files disagree, or listed images are absent.
    """
    names, target, split = [], [], []
    boxes, start = [np.zeros((0, 4))], [np.zeros(1, np.int64)]
    frames: list[Int64[ndarray, "n 2"]] = []
    label_names: list[str] = []
    groups: list[str] = []
    for part, (name, box_name) in enumerate(zip(LISTS, BOXES, strict=True)):
        content = read_json(tree / name)
        images = _list_of(tree / name, content, "images", "id", "file_name")
        known = _categories(tree / name, content)
        if part and known != (label_names, groups):
            raise DataError(f"{tree / name}: its categories are not those of {LISTS[0]}")
        label_names, groups = known
        own = np.array([image["id"] for image in images], np.int64)
        frame = _frames(tree / name, images)
        names += [str(image["file_name"]).encode() for image in images]
        target.append(_labels(tree / name, content, own, len(label_names)))
        split.append(np.full(len(own), part, np.int64))
        _check_folders(tree / name, images, target[-1], label_names, groups)
        frames.append(frame)
        found, first = _boxes(tree / box_name, own, frame)
        boxes.append(found)
        start.append(first + start[-1][-1])
    listing = Listing(
        folder=tree,
        names=np.array(names, np.bytes_),
        image_id=np.arange(len(names)),
        target=np.concatenate(target),
        split=np.concatenate(split),
        boxes=np.concatenate(boxes),
        box_start=np.concatenate([start[0], *(part[1:] for part in start[1:])]),
        landmarks=np.zeros((len(names), 0, 2)),
        visible=np.zeros((len(names), 0), np.bool_),
        label_names=tuple(label_names),
        landmark_names=(),
        label_groups=tuple(groups),
        frames=np.concatenate(frames),
    )
    listing = listing if classes is None else _first_classes(listing, classes)
    check_images(listing)
    return listing


def _list_of(path: Path, content: dict[str, Any], key: str, *fields: str) -> list[dict[str, Any]]:
    """A list of objects that have certain fields."""
    found = content.get(key)
    if not isinstance(found, list) or not found:
        raise DataError(f"{path}: has no list {key!r}")
    for number, entry in enumerate(found):
        if not isinstance(entry, dict) or any(field not in entry for field in fields):
            raise DataError(f"{path}: entry {number} of {key!r} lacks one of {', '.join(fields)}: {str(entry)[:80]}")
    return found


def _categories(path: Path, content: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Names and super-categories of the classes, which must be numbered 0, 1, 2, ..."""
    found = sorted(_list_of(path, content, "categories", "id", "name", "supercategory"), key=lambda c: c["id"])
    if [category["id"] for category in found] != list(range(len(found))):
        raise DataError(f"{path}: the ids of its categories are not 0, 1, 2, ...")
    return [str(category["name"]) for category in found], [str(category["supercategory"]) for category in found]


def _labels(path: Path, content: dict[str, Any], ids: Int64[ndarray, " n"], count: int) -> Int64[ndarray, " n"]:
    """The class of each image; each must have exactly one."""
    entries = _list_of(path, content, "annotations", "image_id", "category_id")
    row = _rows(path, ids, np.array([entry["image_id"] for entry in entries], np.int64))
    label = np.array([entry["category_id"] for entry in entries], np.int64)
    times = np.bincount(row, minlength=len(ids))
    if (times != 1).any():
        wrong = int(np.flatnonzero(times != 1)[0])
        raise DataError(f"{path}: image {ids[wrong]} has {times[wrong]} labels instead of one")
    if not 0 <= label.min() <= label.max() < count:
        wrong = int(label.max() if label.min() >= 0 else label.min())
        raise DataError(f"{path}: category {wrong} is not one of its {count}")
    target = np.empty(len(ids), np.int64)
    target[row] = label
    return target


def _frames(path: Path, images: list[dict[str, Any]]) -> Int64[ndarray, "n 2"]:
    """Height and width that the list gives each image; zeros where it gives none."""
    try:
        return np.array([(image.get("height", 0), image.get("width", 0)) for image in images], np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: a height or width of 'images' is no whole number ({error})") from None


def _check_folders(
    path: Path, images: list[dict[str, Any]], target: Int64[ndarray, " n"], names: list[str], groups: list[str]
) -> None:
    """Images lie in the folder of their species, which is in that of its super-category."""
    folders = [f"{group}/{name}" for group, name in zip(groups, names, strict=True)]
    for number, (image, label) in enumerate(zip(images, target.tolist(), strict=True)):
        if not str(image["file_name"]).rpartition("/")[0].endswith(f"/{folders[label]}"):
            raise DataError(
                f"{path}: entry {number} of 'images': {image['file_name']} is labelled {folders[label]}, which is not "
                "its folder"
            )


def _boxes(
    path: Path, ids: Int64[ndarray, " n"], frames: Int64[ndarray, "n 2"]
) -> tuple[Float[ndarray, "t 4"], Int64[ndarray, " n1"]]:
    """The boxes of a split's images, image by image, and where each image's start; none without the file."""
    if not path.is_file():
        return np.zeros((0, 4)), np.zeros(len(ids) + 1, np.int64)
    content = read_json(path)
    entries = _list_of(path, content, "annotations", "image_id", "bbox")
    if "images" in content:
        images = _list_of(path, content, "images", "id")
        place = _rows(path, ids, np.array([image["id"] for image in images], np.int64))
        other = (_frames(path, images) != frames[place]).any(axis=1)
        if other.any():
            wrong = images[int(other.argmax())]
            height, width = frames[place[int(other.argmax())]].tolist()
            raise DataError(
                f"{path}: image {wrong['id']} is {wrong.get('height')} x {wrong.get('width')} (height x width), but "
                f"{height} x {width} in the list of images"
            )
    row = _rows(path, ids, np.array([entry["image_id"] for entry in entries], np.int64))
    try:
        box = np.array([entry["bbox"] for entry in entries], np.float64).reshape(len(entries), 4)
    except ValueError:
        raise DataError(f"{path}: a bbox is not four numbers") from None
    flat = np.flatnonzero(~np.logical_and.reduce(box[:, 2:] > 0, axis=1))
    if len(flat):
        raise DataError(f"{path}: entry {flat[0]} of 'annotations': a width or height is not positive: {box[flat[0]]}")
    order = np.argsort(row, kind="stable")
    box = box[order]
    first = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=len(ids)), out=first[1:])
    return np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1), first


def _rows(path: Path, ids: Int64[ndarray, " n"], wanted: Int64[ndarray, " m"]) -> Int64[ndarray, " m"]:
    """Places of ids in a list of them."""
    order = np.argsort(ids, kind="stable")
    ranked = ids[order]
    twice = np.flatnonzero(ranked[1:] == ranked[:-1])
    if len(twice):
        raise DataError(f"{path}: image {ranked[twice[0]]} is listed twice")
    place = np.searchsorted(ranked, wanted).clip(max=len(ranked) - 1)
    absent = np.flatnonzero(ranked[place] != wanted)
    if len(absent):
        raise DataError(
            f"{path}: annotation {absent[0]} is of image {wanted[absent[0]]}, which is not among its split's images"
        )
    found: ndarray = order[place]
    return found


def _first_classes(listing: Listing, classes: int) -> Listing:
    """The part of a listing that has the first so many classes; images keep their ids."""
    if classes > len(listing.label_names):
        raise DataError(f"{listing.folder}: {classes} classes asked for, but there are {len(listing.label_names)}")
    keep, count = listing.target < classes, np.diff(listing.box_start)
    return replace(
        listing,
        names=listing.names[keep],
        image_id=listing.image_id[keep],
        target=listing.target[keep],
        split=listing.split[keep],
        boxes=listing.boxes[np.repeat(keep, count)],
        box_start=np.concatenate([[0], np.cumsum(count[keep])]),
        landmarks=listing.landmarks[keep],
        frames=None if listing.frames is None else listing.frames[keep],
        visible=listing.visible[keep],
        label_names=listing.label_names[:classes],
        label_groups=listing.label_groups[:classes],
    )
