"""Reader of the CUB layout, and CUB200 on a fake of the authors' tree."""

import shutil

import numpy as np
import pytest

from fgbench.data import CUB200, DataError, View
from fgbench.data.cub_tree import FILES, read_tree


def _tree(root):
    return root / "CUB_200_2011"


def _edit(path, line, text):
    lines = path.read_text().splitlines()
    lines[line - 1 : line] = [] if text is None else [text]
    path.write_text("\n".join(lines) + "\n")


def test_lists_and_annotations_are_read_as_written(cub):
    listing = read_tree(_tree(cub))
    assert listing.label_names == ("001.Bird_0", "002.Bird_1", "003.Bird_2")
    assert listing.landmark_names[:7] == ("back", "beak", "belly", "breast", "crown", "forehead", "left eye")
    assert listing.image_id.tolist() == list(range(12))
    assert listing.target.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert listing.rows("train").tolist() == [0, 1, 4, 5, 8, 9]
    assert listing.rows("test").tolist() == [2, 3, 6, 7, 10, 11]
    assert listing.boxes_of(3)[0].tolist() == [8.0, 10.0, 38.0, 30.5]  # x y width height -> corners
    assert listing.landmarks[4, 5].tolist() == [21.0, 17.5]  # image 5, part 6: 10 + 5 + 6, 12 + 5.5
    assert listing.visible[4].tolist() == [part % 5 > 0 for part in range(1, 16)]
    assert (listing.landmarks[~listing.visible] == 0).all()
    assert listing.path(1).name == "Bird_0_1.jpg"


def test_part_of_the_classes_is_the_same_from_a_whole_and_from_a_partial_tree(cub):
    whole = read_tree(_tree(cub), classes=2)
    assert len(whole.names) == 8
    tree = _tree(cub)
    (tree / "classes.txt").write_text("".join((tree / "classes.txt").read_text().splitlines(True)[:2]))
    for name, lines in [(n, 8) for n in FILES[1:5]] + [(FILES[6], 8 * 15)]:
        (tree / name).write_text("".join((tree / name).read_text().splitlines(True)[:lines]))
    shutil.rmtree(tree / "images" / "003.Bird_2")
    assert read_tree(tree).digest() == whole.digest()


def test_image_id_is_the_official_number_even_where_numbers_are_missing(cub):
    tree = _tree(cub)
    for name, per_image in [(n, 1) for n in FILES[1:5]] + [(FILES[6], 15)]:
        lines = (tree / name).read_text().splitlines(True)
        (tree / name).write_text("".join(lines[: 2 * per_image] + lines[5 * per_image :]))
    assert read_tree(tree).image_id.tolist() == [0, 1, 5, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named_with_where_to_get_it(cub, name):
    (_tree(cub) / name).unlink()
    data = CUB200(classes=3, root=str(cub))
    first = data.prepare_data if name == "images.txt" else lambda: data.setup("fit")
    with pytest.raises(DataError, match=rf"{name}.*CUB_200_2011\.tgz"):
        first()


def test_absent_data_say_where_to_get_them(tmp_path):
    with pytest.raises(DataError, match=r"no images\.txt.*Unpack CUB_200_2011\.tgz from https.*--machine\.data_root"):
        CUB200(root=str(tmp_path)).prepare_data()


@pytest.mark.parametrize(
    ("name", "line", "text", "message"),
    [
        ("images.txt", 3, "3", r"images\.txt, line 3: expected a number and a name, found '3'"),
        ("images.txt", 3, "2 twice.jpg", r"images\.txt, line 3: number 2 occurs twice"),
        ("classes.txt", 2, "7 Bird", r"classes\.txt: class numbers are not 1, 2, 3"),
        ("image_class_labels.txt", 5, "5 9", r"image_class_labels\.txt, line 5: class is not one of classes\.txt"),
        ("image_class_labels.txt", 5, None, r"image_class_labels\.txt, line 5: found image 6 where .* image 5"),
        ("image_class_labels.txt", 12, None, r"image_class_labels\.txt: has 11 lines, but images\.txt asks for 12"),
        ("train_test_split.txt", 4, "4 2", r"train_test_split\.txt, line 4: split is neither"),
        ("train_test_split.txt", 4, "4 x", r"train_test_split\.txt, line 4: expected 2 numbers, found '4 x'"),
        ("bounding_boxes.txt", 6, "6 1.0 2.0 3.0", r"bounding_boxes\.txt, line 6: expected 5 numbers"),
        ("bounding_boxes.txt", 6, "6 1.0 2.0 nan 3.0", r"bounding_boxes\.txt, line 6: expected 5 numbers"),
        ("bounding_boxes.txt", 6, "6 1.0 2.0 0.0 3.0", r"bounding_boxes\.txt, line 6: width or height"),
        ("parts/part_locs.txt", 20, "2 6 1.0 2.0 1", r"part_locs\.txt, line 20: parts must run"),
        ("parts/part_locs.txt", 20, "2 5 1.0 2.0 3", r"part_locs\.txt, line 20: parts must run"),
    ],
)
def test_damaged_line_is_named(cub, name, line, text, message):
    _edit(_tree(cub) / name, line, text)
    with pytest.raises(DataError, match=message):
        read_tree(_tree(cub))


def test_empty_and_binary_lists_are_named(cub):
    (_tree(cub) / "images.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"images\.txt: not a text file"):
        read_tree(_tree(cub))
    (_tree(cub) / "images.txt").write_text("")
    with pytest.raises(DataError, match=r"images\.txt: the file is empty"):
        read_tree(_tree(cub))
    (_tree(cub) / "bounding_boxes.txt").write_text("")
    with pytest.raises(DataError):
        read_tree(_tree(cub))


def test_absent_images_are_one_error_with_count_and_first_names(cub):
    for i in range(4):
        (_tree(cub) / f"images/002.Bird_1/Bird_1_{i}.jpg").unlink()
    with pytest.raises(
        DataError, match=r"4 of 12 listed images are absent: 002\.Bird_1/Bird_1_0\.jpg.*, \.\.\.\. Unpack"
    ):
        CUB200(classes=3, root=str(cub)).setup("fit")
    shutil.rmtree(_tree(cub) / "images/003.Bird_2")
    with pytest.raises(DataError, match=r"8 of 12"):
        read_tree(_tree(cub))
    assert len(read_tree(_tree(cub), classes=1).names) == 4


def test_whole_dataset_must_have_its_published_counts(cub):
    with pytest.raises(
        DataError, match=r"3 classes, 6 train and 6 test images, but CUB-200-2011 has 200, 5,994 and 5,794"
    ):
        CUB200(root=str(cub)).setup("fit")


def test_more_classes_than_there_are(cub):
    with pytest.raises(DataError, match=r"classes: 4 asked for, but .*classes\.txt has 3"):
        CUB200(classes=4, root=str(cub)).setup("fit")
    with pytest.raises(ValueError, match="from 2 to 200"):
        CUB200(classes=201, root=str(cub))


def test_root_may_be_the_tree_itself(cub):
    assert CUB200(classes=2, root=str(_tree(cub))).sizes() == CUB200(classes=2, root=str(cub)).sizes()


def test_whole_images_are_batched_by_shape_and_cut_to_sixteen(cub):
    view = View("short", 64, multiple=16)
    data = CUB200(classes=3, root=str(cub), test_view=view, eval_batch_size=4)
    shapes = [tuple(batch.image.shape) for batch in data.test_dataloader()]
    # 61 x 83 -> 64 x 87 -> 64 x 80; 50 x 90 -> 64 x 115 -> 64 x 112
    assert sorted(shapes) == [(3, 3, 64, 80), (3, 3, 64, 112)]


def test_grey_images_have_three_equal_channels(cub):
    data = CUB200(classes=3, root=str(cub))
    image = data.dataset(View())[2].image
    assert image.shape == (3, 61, 83)
    assert (image[0] == image[1]).all()
    assert (image[0] == image[2]).all()


def test_damaged_image_is_named_when_it_is_met(cub):
    path = _tree(cub) / "images/001.Bird_0/Bird_0_0.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"Bird_0_0\.jpg: the JPEG file is truncated"):
        CUB200(classes=3, root=str(cub)).dataset(View())[0]


def test_real_conventions_hold_in_numpy(cub):
    """Names stay bytes in one array, so that loader workers do not copy them page by page."""
    listing = read_tree(_tree(cub))
    assert listing.names.dtype.kind == "S"
    assert listing.boxes.dtype == np.float64
