"""Stanford Dogs: 20,580 photographs of 120 breeds of dogs, with a box for each dog.

*Paper*: A. Khosla, N. Jayadevaprakash, B. Yao, L. Fei-Fei, Novel Dataset for Fine-Grained Image Categorization, FGVC
at CVPR 2011. *Home*: http://vision.stanford.edu/aditya86/ImageNetDogs/. *Licence*: none stated; the images are
ImageNet's, for non-commercial research. *Split*: official, 100 images of each class train, 12,000 train and 8,580
test images. *Leak*: every image, of test too, was drawn from ImageNet, most from the training split of its challenge:
networks pretrained there have been trained on test images with labels of the same breeds. Accuracies of such networks
here are no measure of generalisation.

The tree on disk, as distributed (``images.tar``, ``annotation.tar``, ``lists.tar``)::

    <root>/stanford_dogs/Images/n02085620-Chihuahua/n02085620_7.jpg
    <root>/stanford_dogs/Annotation/n02085620-Chihuahua/n02085620_7          XML without a suffix, one object a dog
    <root>/stanford_dogs/{train_list,test_list}.mat      cells file_list and annotation_list, labels from 1

torchvision has no parser. Boxes are taken as written, as continuous coordinates. Published order: ``train_list``,
then ``test_list``. One file with the suffix of a JPEG is said to be a PNG; files are decoded by what they hold.
"""

from pathlib import Path

import numpy as np

from fgbench.data.archives import Archive
from fgbench.data.card import Card
from fgbench.data.files import check_folders, ragged, voc_boxes
from fgbench.data.listing import Listing
from fgbench.data.matlab import read_matlab, texts, whole_numbers
from fgbench.data.published import PublishedClasses, Rows, as_bytes
from fgbench.data.text import DataError


class StanfordDogs(PublishedClasses):
    """Datamodule of Stanford Dogs."""

    name = "stanford_dogs"
    folder, marker = "stanford_dogs", "train_list.mat"
    has_boxes = True
    card = Card(
        title="Stanford Dogs",
        paper="Khosla et al., Novel Dataset for Fine-Grained Image Categorization, FGVC 2011",
        home="http://vision.stanford.edu/aditya86/ImageNetDogs/",
        licence="none stated; images of ImageNet, for non-commercial research",
        disk="0.8 GB",
        outputs=120,
        train=12000,
        test=8580,
        split="official, 100 training images a class",
        leaks="drawn from ImageNet: networks pretrained there have seen test images, labelled with the same breeds",
    )
    archives = (
        Archive("images.tar", holds="stanford_dogs/Images", into="stanford_dogs", size_gb=0.79),
        Archive("annotation.tar", holds="stanford_dogs/Annotation", into="stanford_dogs", size_gb=0.02),
        Archive("lists.tar", holds="stanford_dogs/train_list.mat", into="stanford_dogs"),
    )

    def sources(self) -> tuple[Path, ...]:
        """Both lists; the 20,580 XML files are not watched."""
        return self.tree() / "train_list.mat", self.tree() / "test_list.mat"

    def read_tree(self, tree: Path) -> Listing:
        """Both lists, and the boxes of the wanted classes' images."""
        files, annotations, labels, split, entries = [], [], [], [], []
        for part, name in enumerate(("train_list.mat", "test_list.mat")):
            images, notes, targets = read_matlab(tree / name, "file_list", "annotation_list", "labels")
            if not len(images) == len(notes) == len(targets):
                raise DataError(
                    f"{tree / name}: has {len(images)} files, {len(notes)} annotations and {len(targets)} labels"
                )
            files += texts(tree / name, "file_list", images)
            annotations += texts(tree / name, "annotation_list", notes)
            labels.append(whole_numbers(tree / name, "labels", targets) - 1)
            split += [part] * len(images)
            entries += [f"{tree / name}, entry {i + 1}" for i in range(len(images))]
        target = np.concatenate(labels)
        check_folders(entries, files, target)
        wanted = target < self.num_outputs  # a part of the tree has no annotations of other classes
        none = np.zeros((0, 4))
        boxes, start = ragged(
            [
                voc_boxes(tree / "Annotation" / note) if want else none
                for note, want in zip(annotations, wanted, strict=True)
            ]
        )
        rows = Rows(as_bytes(files), target, np.array(split, np.int64), boxes, start)
        return self.make_listing(rows, tree / "Images", _breeds(files, target), tree / "train_list.mat")


def _breeds(files: list[str], target: np.ndarray) -> list[str]:
    """The folder of each class, which is its WordNet id and its name; one each, as has been checked."""
    folders: dict[int, str] = {}
    for file, label in zip(files, target.tolist(), strict=True):
        folders.setdefault(label, file.partition("/")[0])
    return [folders.get(label, f"class {label + 1}") for label in range(max(folders, default=-1) + 1)]
