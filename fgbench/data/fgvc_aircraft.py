"""FGVC-Aircraft 2013b: 10,000 photographs of 100 variants of aircraft with a box each.

*Paper*: S. Maji, J. Kannala, E. Rahtu, M. Blaschko, A. Vedaldi, Fine-Grained Visual Classification of Aircraft,
arXiv:1306.5151. *Home*: https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/. *Licence*: photographs belong to their
photographers, who allow non-commercial research only. *Split*: official, in three thirds; as in the papers
``trainval`` (6,667) trains and ``test`` (3,333) tests. The official division of ``trainval`` is not used:
hyper-parameters are chosen on the cut of 10 % (``val_fraction``), which leaves more to train on.

The tree on disk, as distributed (``fgvc-aircraft-2013b.tar.gz``)::

    <root>/fgvc-aircraft-2013b/data/images/0034309.jpg
    <root>/fgvc-aircraft-2013b/data/images_{variant,family,manufacturer}_{trainval,test}.txt    "1025794 707-320"
    <root>/fgvc-aircraft-2013b/data/{variants,families,manufacturers}.txt                       in the order of classes
    <root>/fgvc-aircraft-2013b/data/images_box.txt                                "0034309 xmin ymin xmax ymax", from 1

The lowest 20 rows of pixels of each file are a banner with the copyright (the photographer, mostly). The home page
asks to remove it before training and evaluation, and here it is by default; whether the papers did, they do not say.
``banner: keep`` leaves it in. Boxes include both of their ends, so that ``xmin`` to ``xmax`` spans ``[xmin - 1,
xmax]``.

torchvision's parser gives no boxes, keeps the banner, and orders classes by the alphabet; so the files are read here.
Published order: ``trainval``, then ``test``. At every level the validation cut is that of
the variants: the same images are never trained on.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from fgbench.data.archives import Archive
from fgbench.data.card import Card
from fgbench.data.files import check_lines, table_of
from fgbench.data.listing import Listing
from fgbench.data.published import PublishedClasses, Rows, as_bytes
from fgbench.data.text import DataError, read_lines

Level = Literal["variant", "family", "manufacturer"]
LEVELS = {"variant": (100, "variants.txt"), "family": (70, "families.txt"), "manufacturer": (30, "manufacturers.txt")}
BANNER = 20  # pixels; home page


class FGVCAircraft(PublishedClasses):
    """Datamodule of FGVC-Aircraft.

    Args:
        level: of the hierarchy: 100 variants (the papers), 70 families or 30 manufacturers.
        banner: what is done with the copyright notice at the bottom of each image.
        kwargs: ``classes``, and see ``BenchDataModule``.
    """

    name = "fgvc_aircraft"
    folder, marker = "fgvc-aircraft-2013b", "data/variants.txt"
    has_boxes = True
    card = Card(
        title="FGVC-Aircraft",
        paper="Maji et al., Fine-Grained Visual Classification of Aircraft, arXiv:1306.5151",
        home="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        licence="non-commercial research; photographs belong to their photographers",
        disk="2.8 GB",
        outputs=100,
        train=6667,
        test=3333,
        split="official; `trainval` trains",
        validation="10 % cut of `trainval`; the official `val` third is trained on, as in the papers",
    )
    archives = (Archive("fgvc-aircraft-2013b.tar.gz", holds="fgvc-aircraft-2013b/data/variants.txt", size_gb=2.75),)

    def __init__(self, level: Level = "variant", banner: Literal["cut", "keep"] = "cut", **kwargs: Any) -> None:
        self.level = level  # asked for by the base class
        super().__init__(**kwargs)
        self.bottom = BANNER if banner == "cut" else 0

    def count_classes(self) -> int:
        """How many classes the level has."""
        return LEVELS[self.level][0]

    def sources(self) -> tuple[Path, ...]:
        """The text files."""
        data, levels = self.tree() / "data", dict.fromkeys((self.level, "variant"))
        lists = [f"images_{level}_{part}.txt" for level in levels for part in ("trainval", "test")]
        names = [LEVELS[level][1] for level in levels]
        return tuple(data / name for name in (*names, *lists, "images_box.txt"))

    def index_key(self) -> tuple[object, ...]:
        """The level, the number of classes, and what is cut off (sizes of images go without it)."""
        return (self.level, self.bottom, *super().index_key())

    def read_tree(self, tree: Path) -> Listing:
        """Both lists, their labels and boxes."""
        data, names_file = tree / "data", tree / "data" / LEVELS[self.level][1]
        label_names, index = _classes(names_file)
        _, variants = _classes(data / "variants.txt")
        above: dict[str, str] = {}  # the class of each variant
        stratum: list[int] = []
        numbers: list[str] = []
        target: list[int] = []
        counts = []
        for part in ("trainval", "test"):
            path = data / f"images_{self.level}_{part}.txt"
            pairs = _pairs(path, index, names_file)
            finest = _pairs(data / f"images_variant_{part}.txt", variants, data / "variants.txt")
            same = [own == other for (own, _), (other, _) in zip(pairs, finest, strict=False)]
            check_lines(path, np.array(same, np.bool_), f"another image than in images_variant_{part}.txt")
            if len(pairs) != len(finest):
                raise DataError(f"{path}: has {len(pairs):,} images, images_variant_{part}.txt has {len(finest):,}")
            family = [above.setdefault(variant, name) for (_, variant), (_, name) in zip(finest, pairs, strict=True)]
            right = [name == first for (_, name), first in zip(pairs, family, strict=True)]
            check_lines(path, np.array(right, np.bool_), f"another {self.level} than other images of its variant")
            numbers += [number for number, _ in pairs]
            target += [index[name] for _, name in pairs]
            stratum += [variants[name] for _, name in finest]
            counts.append(len(pairs))
        boxed, corners = table_of(data / "images_box.txt", 4)
        place = {number: i for i, number in enumerate(boxed)}
        absent = [number for number in numbers if number not in place]
        if absent:
            others = f", nor of {len(absent) - 1:,} others" if len(absent) > 1 else ""
            raise DataError(f"{data / 'images_box.txt'}: has no box of image {absent[0]}{others}")
        boxes = corners[[place[number] for number in numbers]] - np.array([1.0, 1.0, 0.0, 0.0])
        rows = Rows(
            names=as_bytes([f"{number}.jpg" for number in numbers]),
            target=np.array(target, np.int64),
            split=np.repeat([0, 1], counts),
            boxes=boxes,
            stratum=np.array(stratum, np.int64),
        )
        return self.make_listing(rows, data / "images", label_names, names_file)


def _classes(path: Path) -> tuple[list[str], dict[str, int]]:
    """The classes of a level in their order, and the number of each."""
    names = [line.strip() for line in read_lines(path)]
    first = np.array([names.index(name) == i for i, name in enumerate(names)], np.bool_)
    check_lines(path, first, "a class that was there before")
    return names, {name: i for i, name in enumerate(names)}


def _pairs(path: Path, index: dict[str, int], names_file: Path) -> list[tuple[str, str]]:
    """Number and class of each image of a list."""
    found = [line.strip().partition(" ") for line in read_lines(path)]
    known = np.array([name in index for _, _, name in found], np.bool_)
    check_lines(path, known, f"expected an image's number and a class of {names_file.name}")
    return [(number, name) for number, _, name in found]
