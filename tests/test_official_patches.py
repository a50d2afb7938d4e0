"""The authors' boxes become boxes of the original files, in CUB's order of images."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("official_patches", ROOT / "tools/official_patches.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folders(tmp_path):
    """Four images; CUB lists the files of a class in another order than a sort does."""
    tree, arrays = tmp_path / "CUB_200_2011", tmp_path / "Patches"
    names = ["001.A/A_10.jpg", "001.A/A_09.jpg", "002.B/B_1.jpg", "002.B/B_2.jpg"]
    sizes = [(100, 50), (224, 448), (448, 448), (896, 112)]
    for name, size in zip(names, sizes, strict=True):
        (tree / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(tree / "images" / name)
    for file, values in (
        ("images.txt", names),
        ("train_test_split.txt", ["1", "1", "1", "0"]),
        ("image_class_labels.txt", ["1", "1", "2", "2"]),
    ):
        (tree / file).write_text("".join(f"{number + 1} {value}\n" for number, value in enumerate(values)))
    arrays.mkdir()
    train = np.zeros((3, 10, 5))
    for row, label in enumerate((0, 0, 1)):  # A_09, A_10, B_1
        train[row] = [112, 224, 0, 448, label]
    train[0, 0, :4] = [0, 448, 224, 336]
    np.save(arrays / "train_patches.npy", train)
    np.save(arrays / "test_patches.npy", np.tile([0, 448, 0, 112, 1.0], (1, 10, 1)))
    return arrays, tree


def test_boxes_are_of_their_image_and_in_its_pixels(tool, folders):
    boxes = tool.convert(*folders)
    assert boxes.shape == (4, 10, 4)
    assert boxes[1, 0].tolist() == [112, 0, 168, 448]  # A_09 is the second of CUB's list, the first of the array
    assert boxes[0, 0].tolist() == pytest.approx([0, 12.5, 100, 25])
    assert boxes[3, 5].tolist() == [0, 0, 224, 112]


def test_arrays_of_other_images_are_refused(tool, folders):
    arrays, tree = folders
    wrong = np.load(arrays / "train_patches.npy")
    wrong[2, :, 4] = 0
    np.save(arrays / "train_patches.npy", wrong)
    with pytest.raises(ValueError, match="labels are not those"):
        tool.convert(arrays, tree)
    np.save(arrays / "train_patches.npy", wrong[:2])
    with pytest.raises(ValueError, match="shape"):
        tool.convert(arrays, tree)
