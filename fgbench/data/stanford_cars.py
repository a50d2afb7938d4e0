"""Stanford Cars: 16,185 photographs of 196 models of cars with a box each.

*Paper*: J. Krause, M. Stark, J. Deng, L. Fei-Fei, 3D Object Representations for Fine-Grained Categorization, 3dRR at
ICCV 2013. *Home*: https://ai.stanford.edu/~jkrause/cars/car_dataset.html, which has not answered since 2023; the
files are the same wherever they are mirrored. *Licence*: none stated; photographs collected from the web, for
research. *Split*: official, 8,144 train and 8,041 test images.

The tree on disk, as distributed; the labels of the test images are a file of their own, which some copies keep in
``devkit``. The later release in one folder (``car_ims``, ``cars_annos.mat``) is not read::

    <root>/stanford_cars/cars_train/00001.jpg ... 08144.jpg
    <root>/stanford_cars/cars_test/00001.jpg ... 08041.jpg
    <root>/stanford_cars/devkit/{cars_meta,cars_train_annos}.mat
    <root>/stanford_cars/cars_test_annos_withlabels.mat

torchvision's parser gives neither boxes nor a word on what is missing, so the structs are read here: ``bbox_x1,
bbox_y1, bbox_x2, bbox_y2, class, fname``, counted from 1 in MATLAB's manner. A box of pixels ``x1`` to ``x2``, both
included, spans ``[x1 - 1, x2]``. Published order: train, then test.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from fgbench.data.archives import Archive
from fgbench.data.card import Card
from fgbench.data.listing import Listing
from fgbench.data.matlab import read_matlab, texts, whole_numbers
from fgbench.data.published import PublishedClasses, Rows, as_bytes
from fgbench.data.text import DataError

LABELS = "cars_test_annos_withlabels.mat"
FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")


class StanfordCars(PublishedClasses):
    """Datamodule of Stanford Cars."""

    name = "stanford_cars"
    folder, marker = "stanford_cars", "devkit/cars_meta.mat"
    has_boxes = True
    card = Card(
        title="Stanford Cars",
        paper="Krause et al., 3D Object Representations for Fine-Grained Categorization, 3dRR 2013",
        home="https://ai.stanford.edu/~jkrause/cars/car_dataset.html (or a mirror: it has not answered since 2023)",
        licence="none stated; photographs from the web, for research",
        disk="2 GB",
        outputs=196,
        train=8144,
        test=8041,
        split="official",
    )
    archives = (
        Archive("cars_train.tgz", holds="stanford_cars/cars_train", into="stanford_cars", size_gb=0.98),
        Archive("cars_test.tgz", holds="stanford_cars/cars_test", into="stanford_cars", size_gb=0.98),
        Archive("car_devkit.tgz", holds="stanford_cars/devkit/cars_meta.mat", into="stanford_cars"),
        Archive(LABELS, holds=f"stanford_cars/{LABELS}", into="stanford_cars"),
    )

    def sources(self) -> tuple[Path, ...]:
        """The MATLAB files."""
        devkit = self.tree() / "devkit"
        return devkit / "cars_meta.mat", devkit / "cars_train_annos.mat", self._test_labels(self.tree())

    def _test_labels(self, tree: Path) -> Path:
        return tree / "devkit" / LABELS if (tree / "devkit" / LABELS).is_file() else tree / LABELS

    def read_tree(self, tree: Path) -> Listing:
        """Both lists, their labels and their boxes."""
        meta = tree / "devkit/cars_meta.mat"
        names = texts(meta, "class_names", *read_matlab(meta, "class_names"))
        with_labels = self._test_labels(tree)
        train = _annotations(tree / "devkit/cars_train_annos.mat", "cars_train")
        test = _annotations(with_labels, "cars_test")
        rows = Rows(
            names=as_bytes(train[0] + test[0]),
            target=np.concatenate([train[1], test[1]]),
            split=np.repeat([0, 1], [len(train[0]), len(test[0])]),
            boxes=np.concatenate([train[2], test[2]]),
        )
        return self.make_listing(rows, tree, names, with_labels)


def _annotations(path: Path, folder: str) -> tuple[list[str], Int64[ndarray, " n"], Float[ndarray, "n 4"]]:
    """Files, class indices and boxes of one list."""
    (found,) = read_matlab(path, "annotations")
    missing = [name for name in FIELDS if name not in (found.dtype.names or ())]
    if missing:
        hint = f"; the labels of the test images are in {LABELS}" if missing == ["class"] else ""
        raise DataError(f"{path}: its annotations have no field {', '.join(missing)}{hint}")

    corners = np.stack([whole_numbers(path, name, found[name]) for name in FIELDS[:4]], axis=1)
    names = [f"{folder}/{name}" for name in texts(path, "fname", found["fname"])]
    return names, whole_numbers(path, "class", found["class"]) - 1, corners - np.array([1.0, 1.0, 0.0, 0.0])
