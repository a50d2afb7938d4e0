"""The boxes that the authors of Focus Longer published for CUB-200-2011, as a file for ``patches: official``.

Their arrays ``train_patches.npy`` and ``test_patches.npy`` (images 10 5) have the rows ``y0 y1 x0 x1 label`` in an
image squashed to 448 x 448, ends exclusive, and their images in torchvision's order: sorted folders of classes, sorted
files in each. Written are boxes ``x0 y0 x1 y1`` in pixels of the original files, in CUB's own order of images.

    python tools/official_patches.py <folder of the arrays> <CUB_200_2011> patches.safetensors

It is not known whether the authors chose the boxes of test images by their labels.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

SIDE = 448  # pixels of the squashed image


def convert(arrays: Path, tree: Path) -> np.ndarray:
    """Boxes of all images, ``images 10 4`` float32.

    Raises:
        ValueError: arrays and images do not belong together; names the file.
    """
    names = [line.split()[1] for line in (tree / "images.txt").read_text().splitlines()]
    trains = [line.split()[1] == "1" for line in (tree / "train_test_split.txt").read_text().splitlines()]
    labels = [int(line.split()[1]) - 1 for line in (tree / "image_class_labels.txt").read_text().splitlines()]
    boxes = np.zeros((len(names), 10, 4), np.float32)
    for split, wanted in (("train", True), ("test", False)):
        path = arrays / f"{split}_patches.npy"
        found = np.load(path, allow_pickle=False)
        order = sorted(
            (number for number, train in enumerate(trains) if train == wanted), key=lambda i: names[i].split("/")
        )
        if found.shape != (len(order), 10, 5):
            raise ValueError(f"{path}: an array of shape {found.shape} where {(len(order), 10, 5)} is expected")
        if (found[:, :, 4] != np.array([labels[number] for number in order])[:, None]).any():
            raise ValueError(f"{path}: its labels are not those of {tree}; is it of another list of images?")
        for row, number in enumerate(order):
            with Image.open(tree / "images" / names[number]) as image:
                width, height = image.size
            y0, y1, x0, x1 = found[row, :, :4].T
            boxes[number] = np.stack([x0 * width, y0 * height, x1 * width, y1 * height], 1) / SIDE
    return boxes


def main() -> None:
    """Read the arrays, write the file whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arrays", type=Path, help="folder of train_patches.npy and test_patches.npy")
    parser.add_argument("tree", type=Path, help="CUB_200_2011")
    parser.add_argument("file", type=Path, help="the .safetensors file to write")
    options = parser.parse_args()
    if options.file.suffix != ".safetensors":
        parser.error("name a file that ends in .safetensors")
    part = options.file.with_name(f".{options.file.name}.{os.getpid()}.part")
    save_file({"boxes": convert(options.arrays, options.tree)}, part)
    part.replace(options.file)


if __name__ == "__main__":
    main()
