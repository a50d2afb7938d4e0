"""CelebA in the wild: original photographs in which the face fills 30 % or more, for landmarks that nothing aligned.

*Papers*: the dataset is that of Z. Liu et al., ICCV 2015 (``celeba``); the protocol that of W.-C. Hung et al., SCOPS:
Self-Supervised Co-Part Segmentation, CVPR 2019, and Z. Huang, Y. Li, Region Grouping, CVPR 2020; its lists are MAFL's
(Z. Zhang et al., Facial Landmark Detection by Deep Multi-task Learning, ECCV 2014). *Home*:
https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and, for MAFL, https://mmlab.ie.cuhk.edu.hk/projects/TCDCN.html.
*Licence*: non-commercial research only.

The tree on disk, beside that of ``celeba`` (``fgbench.data.celeba_files``)::

    <root>/celeba/Img/img_celeba/000001.jpg ...                           img_celeba.7z
    <root>/celeba/Anno/{list_attr_celeba,list_bbox_celeba,list_landmarks_celeba}.txt
    <root>/celeba/Eval/list_eval_partition.txt
    <root>/celeba/MAFL/{training,testing}.txt        or MAFL_training.txt, MAFL_testing.txt in Eval or beside it
    <root>/celeba/Anno/list_imsize_celeba.txt        optional, "000001.jpg 687 409"; else headers are read

*Rule*: an image is kept iff width x height of its face's box is 30 % of the image's or more, in whole numbers.

=========== ========================================================== ======= ======
list        what                                                       before  after
=========== ========================================================== ======= ======
train       official train without the images of MAFL's test list     161,962 45,609
fit         MAFL's training list: fits the landmarks' regressors        19,000  5,379
test        MAFL's test list                                             1,000    283
validation  official validation without the images of the test list
=========== ========================================================== ======= ======

The counts after the rule are the papers', and checked. ``fit`` overlaps with train (15,461 images before the rule)
and with the official validation and test images; with the test list it has nothing in common.

*Differences from the papers*: their validation list holds 96 images of the test list, and the epoch was chosen on it;
here these are left out, so that nothing is chosen on a test image. Their attribute accuracy is that of the official
test images which pass the rule, whose count they do not give: ``test_list: attributes`` is that list, with ``fit``
cleared of it (rows of such runs are ``custom``, and their landmark errors are not the papers'). Landmarks keep their
fractions; SCOPS cuts them to integers.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from fgbench.data import celeba_files as files
from fgbench.data.archives import Archive
from fgbench.data.card import Card
from fgbench.data.celeba import CelebA
from fgbench.data.files import check_images, check_lines, table_of
from fgbench.data.images import image_sizes
from fgbench.data.listing import FIT, NONE, Listing, Split
from fgbench.data.text import DataError, read_lines

MAFL = "https://mmlab.ie.cuhk.edu.hk/projects/TCDCN.html"
SIZES = "list_imsize_celeba.txt"
PERCENT = 30  # of the image's area, at least; both papers


class CelebAWild(CelebA):
    """Datamodule of CelebA in the wild.

    Args:
        test_list: ``landmarks`` tests on MAFL's test list (283 images), ``attributes`` on the official test images.
        kwargs: ``images``, and see ``BenchDataModule``.
    """

    name = "celeba_wild"
    has_boxes = True
    card = Card(
        title="CelebA in the wild",
        paper="Hung et al., SCOPS, CVPR 2019; Huang and Li, Region Grouping, CVPR 2020; on Liu et al., ICCV 2015",
        home="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        licence="non-commercial research",
        by_hand="img_celeba.7z (14 parts, 9.6 GB; with 7z, into celeba/Img)",
        disk="10 GB",
        outputs=files.ATTRIBUTES,
        train=45609,
        fit=5379,
        test=283,
        split="faces of 30 % of the image or more; MAFL's lists fit the landmarks' regressors and test",
        validation="the official validation images without those of the test list",
        landmarks=5,
    )
    archives = (
        *(Archive(name, holds=f"celeba/Anno/{name}", into="celeba/Anno") for name in files.ORIGINAL),
        Archive(files.PARTITION, holds=f"celeba/Eval/{files.PARTITION}", into="celeba/Eval"),
        Archive("training.txt", holds="celeba/MAFL/training.txt", into="celeba/MAFL", url=MAFL),
        Archive("testing.txt", holds="celeba/MAFL/testing.txt", into="celeba/MAFL", url=MAFL),
    )

    def __init__(self, test_list: Literal["landmarks", "attributes"] = "landmarks", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.test_list = test_list

    def sources(self) -> tuple[Path, ...]:
        """The text files; the list of sizes only where it is."""
        tree = self.tree()
        lists = [files.annotation(tree, name) for name in files.ORIGINAL]
        lists += [files.partition(tree), _mafl(tree, "training"), _mafl(tree, "testing")]
        sizes = files.annotation(tree, SIZES)
        return (*lists, sizes) if sizes.is_file() else tuple(lists)

    def index_key(self) -> tuple[object, ...]:
        """The number of images and the test list."""
        return (self.images, self.test_list)

    def published(self) -> dict[Split, int]:
        """The papers' counts; of the list for attributes they give that of the training images only."""
        counts = super().published()
        return counts if self.test_list == "landmarks" else {**dict.fromkeys(counts, 0), "train": self.card.train}

    def read_tree(self, tree: Path) -> Listing:
        """All lists and annotations, of the images that pass the rule."""
        names, labels, target = files.read_attributes(tree)
        split, boxes = files.read_partition(tree, names), files.read_boxes(tree, names)
        fit, tested = (_members(_mafl(tree, part), names) for part in ("training", "testing"))
        if self.test_list == "landmarks":
            split[split == 1] = NONE
            split[tested] = 1
        else:
            split[tested & (split == 0)] = NONE
        fit &= split != 1
        arrays = {"target": target, "landmarks": files.read_landmarks(tree, files.ORIGINAL[1], names)}

        def listing_of(split: Int64[ndarray, " n"]) -> Listing:
            folder = files.find(tree, "Img/img_celeba", "img_celeba")
            return files.make_listing(folder, names, split, **arrays, label_names=labels, boxes=boxes)

        candidates = listing_of(split + FIT * fit)
        check_images(candidates)  # now, since the rule asks for their sizes
        small = 100 * boxes[candidates.image_id, 2:].prod(axis=1) < PERCENT * _areas(tree, candidates)
        split[candidates.image_id[small]] = NONE
        fit[candidates.image_id[small]] = False
        if self.images is not None:
            fit[np.flatnonzero(fit)[self.images :]] = False
        return listing_of(files.first_of_each(split, self.images) + FIT * fit)


def _mafl(tree: Path, part: str) -> Path:
    """One of MAFL's two lists, under the names that it goes by."""
    return files.find(tree, f"MAFL/{part}.txt", f"Eval/MAFL_{part}.txt", f"Anno/MAFL_{part}.txt", f"MAFL_{part}.txt")


def _members(path: Path, names: list[str]) -> Bool[ndarray, " n"]:
    """Which images are in a list."""
    listed = [line.strip() for line in read_lines(path)]
    check_lines(path, np.isin(listed, names), f"no image of {files.MARKER}")
    return np.isin(names, listed)


def _areas(tree: Path, listing: Listing) -> Float[ndarray, " n"]:
    """Width times height of each image: from the list of sizes, or else from the files' headers."""
    areas: Float[ndarray, " n"]
    path = files.annotation(tree, SIZES)
    if path.is_file():
        text = read_lines(path)
        skip = next((i for i, line in enumerate(text) if ".jpg" in line), len(text))
        found, sizes = table_of(path, 2, skip)
        place = {name: i for i, name in enumerate(found)}
        wanted = [bytes(name).decode() for name in listing.names]
        absent = [name for name in wanted if name not in place]
        if absent:
            raise DataError(f"{path}: has no size of {absent[0]}, nor of {len(absent) - 1:,} others; it may be deleted")
        areas = sizes.prod(axis=1)[[place[name] for name in wanted]]
        return areas
    try:
        sizes_of_files = image_sizes([listing.path(row) for row in range(len(listing.names))])
    except (FileNotFoundError, ValueError) as error:
        raise DataError(str(error)) from None
    areas = sizes_of_files.astype(np.float64).prod(axis=1)
    return areas
