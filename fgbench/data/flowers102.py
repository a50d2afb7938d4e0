"""Oxford Flowers 102: 8,189 photographs of 102 kinds of flowers.

*Paper*: M.-E. Nilsback, A. Zisserman, Automated Flower Classification over a Large Number of Classes, ICVGIP 2008.
*Home*: https://www.robots.ox.ac.uk/~vgg/data/flowers/102/. *Licence*: none stated; photographs from the web, for
research. *Split*: official: 1,020 train, 1,020 validation (10 of each class in both) and 6,149 test images. As in the
papers, train and validation together (2,040) train; hyper-parameters are chosen on the cut of 10 %
(``val_fraction``).

Some works train on the 6,149 images, since they are the larger part, and test on the others: numbers of such works
are several percent higher and not comparable. ``tstid`` is the test split here, and the counts are checked.

The tree on disk, as distributed (``102flowers.tgz`` and two files)::

    <root>/flowers-102/jpg/image_00001.jpg ... image_08189.jpg
    <root>/flowers-102/imagelabels.mat          labels: of image 1, 2, 3, ..., from 1
    <root>/flowers-102/setid.mat                trnid, valid, tstid: numbers of images

torchvision's parser agrees with this one and gives the names of the classes, which the archives lack; but what it
says of damaged files is only that something is "not found or corrupted". Published order: the numbers of the images.
"""

from pathlib import Path

import numpy as np

from fgbench.data.archives import Archive
from fgbench.data.card import Card
from fgbench.data.listing import Listing
from fgbench.data.matlab import read_matlab, whole_numbers
from fgbench.data.published import PublishedClasses, Rows, as_bytes
from fgbench.data.text import DataError


class Flowers102(PublishedClasses):
    """Datamodule of Oxford Flowers 102."""

    name = "flowers102"
    folder, marker = "flowers-102", "setid.mat"
    card = Card(
        title="Oxford Flowers 102",
        paper="Nilsback and Zisserman, Automated Flower Classification over a Large Number of Classes, ICVGIP 2008",
        home="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        licence="none stated; photographs from the web, for research",
        disk="0.4 GB",
        outputs=102,
        train=2040,
        test=6149,
        split="official; `trnid` and `valid` train, `tstid` tests (some works swap them)",
        validation="10 % cut of the 2,040; the official validation images are trained on, as in the papers",
    )
    archives = (
        Archive("102flowers.tgz", holds="flowers-102/jpg", into="flowers-102", size_gb=0.34),
        Archive("imagelabels.mat", holds="flowers-102/imagelabels.mat", into="flowers-102"),
        Archive("setid.mat", holds="flowers-102/setid.mat", into="flowers-102"),
    )

    def sources(self) -> tuple[Path, ...]:
        """The MATLAB files."""
        return self.tree() / "imagelabels.mat", self.tree() / "setid.mat"

    def read_tree(self, tree: Path) -> Listing:
        """Labels of all images, and which of them train."""
        from torchvision.datasets import Flowers102 as Named

        labels = whole_numbers(tree / "imagelabels.mat", "labels", *read_matlab(tree / "imagelabels.mat", "labels"))
        names = ("trnid", "valid", "tstid")
        found = zip(names, read_matlab(tree / "setid.mat", *names), strict=True)
        sets = [whole_numbers(tree / "setid.mat", name, part) for name, part in found]
        number = np.concatenate(sets)
        split = np.repeat([0, 0, 1], [len(part) for part in sets])
        if number.min(initial=1) < 1 or number.max(initial=1) > len(labels):
            raise DataError(f"{tree / 'setid.mat'}: names an image beyond the {len(labels):,} of imagelabels.mat")
        order = np.argsort(number, kind="stable")
        number, split = number[order], split[order]
        rows = Rows(
            names=as_bytes([f"image_{i:05d}.jpg" for i in number.tolist()]),
            target=labels[number - 1] - 1,
            split=split,
        )
        return self.make_listing(rows, tree / "jpg", list(Named.classes), tree / "setid.mat")
