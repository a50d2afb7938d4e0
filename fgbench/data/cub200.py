"""CUB-200-2011: 11,788 photographs of 200 bird species with boxes and 15 landmarks.

*Paper*: C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie, The Caltech-UCSD Birds-200-2011 Dataset, Caltech
CNS-TR-2011-001. *Home*: https://www.vision.caltech.edu/datasets/cub_200_2011/ (``CUB_200_2011.tgz``, 1.1 GB).
*Licence*: images belong to their photographers; for non-commercial research and education.
*Split*: official, 5,994 train and 5,794 test images. *Leaks*: some test images occur in ImageNet's train split, which
the home page warns of; backbones pretrained there have seen them.

The tree on disk, as distributed (``fgbench.data.cub_tree`` says what the files hold)::

    <root>/CUB_200_2011/images/001.Black_footed_Albatross/Black_Footed_Albatross_0001_796111.jpg
    <root>/CUB_200_2011/{classes,images,image_class_labels,train_test_split,bounding_boxes}.txt
    <root>/CUB_200_2011/parts/{parts,part_locs}.txt

Coordinates are taken as they are written, as continuous coordinates (nearly all were clicked, and are whole numbers).
Boxes may end up to a few pixels outside of their image. A few images are grey.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from fgbench.data.archives import Archive
from fgbench.data.base import BenchDataModule
from fgbench.data.cub_tree import FILES, read_tree
from fgbench.data.listing import Listing
from fgbench.data.text import DataError

HOME = "https://www.vision.caltech.edu/datasets/cub_200_2011/"
CLASSES, TRAIN, TEST = 200, 5994, 5794  # of the paper; checked


class CUB200(BenchDataModule):
    """Datamodule of CUB-200-2011.

    Args:
        classes: only the first so many classes, for quick runs; None is the whole dataset, whose counts are checked.
        kwargs: see ``BenchDataModule``.
    """

    name = "cub200"
    landmark_frame = "box"
    has_boxes = True
    known_outside: ClassVar[Mapping[str, int]] = {"boxes": 8, "landmarks": 1}  # in a copy of 448 px; by 32 px at most
    archives = (Archive("CUB_200_2011.tgz", holds="CUB_200_2011/images.txt", url=HOME, size_gb=1.15),)
    landmark_classes = (0, 1, 2)  # the albatrosses CUB-001, -002, -003, by themselves in the tables of papers

    def __init__(self, classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if classes is not None and not 2 <= classes <= CLASSES:
            raise ValueError(f"classes is {classes}, but must be from 2 to {CLASSES}, or null for all")
        self.classes = classes
        self.num_outputs = CLASSES if classes is None else classes

    def sources(self) -> tuple[Path, ...]:
        """The text files."""
        return tuple(self.tree() / name for name in FILES)

    def index_key(self) -> tuple[object, ...]:
        """The number of classes."""
        return (self.classes,)

    def tree(self) -> Path:
        """The folder that has ``images.txt``: ``<root>/CUB_200_2011``, or ``root`` itself."""
        return self.root if (self.root / "images.txt").is_file() else self.root / "CUB_200_2011"

    def prepare_data(self) -> None:
        """Say where to get the data when it is not there; nothing is downloaded."""
        if not (self.tree() / "images.txt").is_file():
            raise DataError(f"{self.tree()}: no images.txt. {self._advice()}.")

    def _advice(self) -> str:
        return f"Unpack CUB_200_2011.tgz from {HOME} into {self.root}, or say where it is with --machine.data_root"

    def read(self) -> Listing:
        """Lists and annotations; the whole dataset must have its published counts."""
        listing = read_tree(self.tree(), self.classes, self._advice())
        if self.classes is None:
            found = (len(listing.label_names), len(listing.rows("train")), len(listing.rows("test")))
            if found != (CLASSES, TRAIN, TEST):
                raise DataError(
                    f"{self.tree()}: has {found[0]} classes, {found[1]:,} train and {found[2]:,} test images, but "
                    f"CUB-200-2011 has {CLASSES}, {TRAIN:,} and {TEST:,}. For a part of it set data.init_args.classes. "
                    f"{self._advice()}."
                )
        return listing
