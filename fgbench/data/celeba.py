"""CelebA, aligned: 202,599 faces of 10,177 people, 178 x 218 pixels, with 40 attributes and 5 landmarks.

*Paper*: Z. Liu, P. Luo, X. Wang, X. Tang, Deep Learning Face Attributes in the Wild, ICCV 2015. *Home*:
https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html. *Licence*: non-commercial research only. *Split*: official, by
people: 162,770 train, 19,867 validation and 19,962 test images; the validation images stay a split of their own.

The tree on disk, as distributed (``fgbench.data.celeba_files`` says what the files hold, and where else they may
lie)::

    <root>/celeba/Img/img_align_celeba/000001.jpg ... 202599.jpg          img_align_celeba.zip
    <root>/celeba/Anno/{list_attr_celeba,list_landmarks_align_celeba}.txt
    <root>/celeba/Eval/list_eval_partition.txt

There are no boxes: those of CelebA are of the original images (``celeba_wild``). Alignment moves the eyes to nearly
one place, so landmark errors here are small whatever a method does; the papers measure them on the original images.
Coordinates are taken as written, as continuous coordinates. Published order: the images' numbers.
"""

from pathlib import Path
from typing import Any

from fgbench.data import celeba_files as files
from fgbench.data.archives import Archive
from fgbench.data.card import Card
from fgbench.data.listing import Listing
from fgbench.data.published import Published


class CelebA(Published):
    """Datamodule of the aligned CelebA.

    Args:
        images: only the first so many images of each split, for quick runs; None is the whole dataset, whose counts are
            checked.
        kwargs: see ``BenchDataModule``.
    """

    name = "celeba"
    target = "attributes"
    landmark_frame = "interocular"
    has_validation = True
    folder, marker = "celeba", files.MARKER
    num_outputs = files.ATTRIBUTES
    card = Card(
        title="CelebA",
        paper="Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015",
        home="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        licence="non-commercial research",
        disk="1.8 GB",
        outputs=files.ATTRIBUTES,
        train=162770,
        val=19867,
        test=19962,
        split="official, by people",
        validation="the official validation split; `val_fraction` is refused",
        landmarks=5,
    )
    archives = (
        Archive("img_align_celeba.zip", holds="celeba/Img/img_align_celeba", into="celeba/Img", size_gb=1.44),
        *(Archive(name, holds=f"celeba/Anno/{name}", into="celeba/Anno") for name in files.ALIGNED),
        Archive(files.PARTITION, holds=f"celeba/Eval/{files.PARTITION}", into="celeba/Eval"),
    )

    def __init__(self, images: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if images is not None and images < 1:
            raise ValueError(f"{self.name}: images is {images}, but must be 1 or more, or null for all")
        self.images, self.is_part = images, images is not None

    def has_tree(self, folder: Path) -> bool:
        """Whether a folder holds the attributes, in ``Anno`` or by themselves."""
        return files.annotation(folder, files.MARKER).is_file()

    def sources(self) -> tuple[Path, ...]:
        """The text files."""
        tree = self.tree()
        return (*(files.annotation(tree, name) for name in files.ALIGNED), files.partition(tree))

    def index_key(self) -> tuple[object, ...]:
        """The number of images."""
        return (self.images,)

    def read_tree(self, tree: Path) -> Listing:
        """Attributes, landmarks and the official partition."""
        names, labels, target = files.read_attributes(tree)
        split = files.first_of_each(files.read_partition(tree, names), self.images)
        return files.make_listing(
            files.find(tree, "Img/img_align_celeba", "img_align_celeba"),
            names,
            split,
            target=target,
            landmarks=files.read_landmarks(tree, files.ALIGNED[1], names),
            label_names=labels,
        )
