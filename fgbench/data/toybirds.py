"""Toybirds: drawn birds of which everything is known, for runs without a download and for tests.

Drawn by ``toybirds_draw``, written once to disk in the layout of CUB-200-2011, read by the reader of CUB-200-2011. Ten
species by default, up to 200; each differs from its nearest neighbour in one attribute (colour, shape or pattern) of
one part. Within a species: either side, turned up to 32 degrees, looking ahead or over the shoulder, wings folded or
raised, any place, 1.7-fold range of size, colour and slope of the light, contrast, noise, clutter in plumage colours
behind it, and sometimes a twig or a leaf before it. Boxes, 15 landmarks with visibility and a mask of parts are exact.

Licence: that of this project. Split: half of each class, odd numbers train. The tree on disk::

    <root>/toybirds/<digest of the knobs>/images/001.Common_Toybird/Common_Toybird_0001.png
    <root>/toybirds/<digest>/{classes,images,image_class_labels,train_test_split,bounding_boxes}.txt
    <root>/toybirds/<digest>/parts/{parts,part_locs}.txt
    <root>/toybirds/<digest>/segmentations/...      masks: 0, or the number of a part in segmentations.txt
    <root>/toybirds/<digest>/catalogue.json         the species, and how each differs from its neighbour

Pixels and annotation files are the same for the same knobs on every machine; the bytes of the PNG files may depend on
the version of zlib that packed them.
"""

from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from numpy import ndarray

from fgbench.data.base import BenchDataModule
from fgbench.data.card import Card
from fgbench.data.cub_tree import read_tree
from fgbench.data.images import read_mask
from fgbench.data.listed import knobs_digest
from fgbench.data.listing import Listing
from fgbench.data.text import DataError
from fgbench.data.toybirds_bird import PARTS
from fgbench.data.toybirds_catalogue import MOST
from fgbench.data.toybirds_draw import VERSION, Knobs
from fgbench.data.toybirds_write import write_toybirds


class ToyBirds(BenchDataModule):
    """Datamodule of toybirds; draws them at the first use (2,000 of 128 px take 15 s on two cores).

    Drawing starts processes: a script of your own that calls ``prepare_data`` needs ``if __name__ == "__main__":``.

    Args:
        num_classes: species, from 2; with those left out 200 at most. A species is the same bird in any number.
        first_class: how many species of the catalogue are left out before: with ``first_class: 10`` these are birds
            that the default protocol does not show, to pretrain on.
        num_images: of all classes and both splits together; a multiple of ``2 * num_classes``.
        image_size: side in pixels.
        difficulty: from 0 (a few leaves, even light, nothing in front) to 1; 0.5 is the default protocol.
        background_bias: share of images whose background's colour is that of their class, to study shortcuts.
        data_seed: of the pictures, not of the species. The order of training has ``seed``.
        kwargs: see ``BenchDataModule``.
    """

    name = "toybirds"
    landmark_frame = "box"
    has_boxes = True
    mask_names = PARTS
    card = Card(
        title="toybirds",
        paper="none: drawn by this project",
        home="here",
        licence="that of this project",
        disk="0.1 GB",
        outputs=10,
        train=1000,
        test=1000,
        split="odd numbers of each class train (knobs: classes, images)",
        leaks="none: drawn",
        landmarks=15,
    )

    def __init__(
        self,
        num_classes: int = 10,
        first_class: int = 0,
        num_images: int = 2000,
        image_size: int = 128,
        difficulty: float = 0.5,
        background_bias: float = 0.0,
        data_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not (num_classes >= 2 and 0 <= first_class <= MOST - num_classes):
            raise ValueError(
                f"num_classes is {num_classes} after a first_class of {first_class}, but there are {MOST} species, of "
                "which 2 at least are needed"
            )
        if num_images < 2 * num_classes or num_images % (2 * num_classes):
            raise ValueError(
                f"num_images is {num_images}, but must be a multiple of 2 * num_classes = {2 * num_classes}"
            )
        if not 32 <= image_size <= 1024:
            raise ValueError(f"image_size is {image_size}, but must be from 32 to 1024 pixels")
        if not (0 <= difficulty <= 1 and 0 <= background_bias <= 1 and data_seed >= 0):
            raise ValueError("difficulty and background_bias must be from 0 to 1, and data_seed 0 or more")
        self.num_outputs, self.first_class, self.num_images = num_classes, first_class, num_images
        self.knobs = Knobs(image_size, round(1000 * difficulty), round(1000 * background_bias), data_seed)

    def tree(self) -> Path:
        """Where these knobs' images are, or will be."""
        knobs: tuple[object, ...] = (VERSION, self.num_outputs, self.num_images, self.knobs)
        knobs += (self.first_class,) if self.first_class else ()
        return self.root / "toybirds" / knobs_digest(knobs)

    def prepare_data(self) -> None:
        """Draw the images if they are not there."""
        classes = range(self.first_class, self.first_class + self.num_outputs)
        write_toybirds(self.tree(), classes, self.num_images // self.num_outputs, self.knobs)

    def read(self) -> Listing:
        """Lists and annotations, by the reader of CUB-200-2011."""
        advice = f"Delete {self.tree()}; it will be drawn again"
        listing = read_tree(self.tree(), advice=advice)
        if len(listing.names) != self.num_images:
            raise DataError(f"{self.tree()}: {len(listing.names):,} images instead of {self.num_images:,}. {advice}.")
        return listing

    def part_mask(self, row: int) -> UInt8[ndarray, "h w"]:
        """Which part each pixel of an original image shows: 0, or 1 + the position in ``toybirds_bird.PARTS``."""
        path = self.mask_folder() / bytes(self.listing.names[row]).decode()
        try:
            return read_mask(str(path))
        except ValueError as error:
            raise DataError(f"{error}. Delete {self.tree()}; it will be drawn again.") from None

    def mask_folder(self) -> Path:
        """Masks lie beside the images, in their own folder."""
        return self.tree() / "segmentations"
