"""iNaturalist 2017 on a fake of the authors' tree: three super-categories, boxes for one of them, several an image."""

import json

import numpy as np
import pytest

from fgbench.data import DataError, INat2017, View

VIEW = View("short", 40, "centre", 36)


def _data(root, classes=4, **kwargs):
    data = INat2017(classes=classes, root=str(root), batch_size=4, train_view=VIEW, test_view=VIEW, **kwargs)
    data.prepare_data()
    return data


def _edit(root, name, change):
    path = root / "inat2017" / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_lists_labels_groups_and_boxes_are_read_as_written(inat):
    listing = _data(inat).listing
    assert listing.label_names == ("Acer rubrum", "Apis mellifera", "Larus canus", "Parus major")
    assert listing.label_groups == ("Plantae", "Insecta", "Aves", "Aves")
    assert listing.target.tolist() == [0, 1, 2, 3] * 3 + [0, 1, 2, 3] * 2
    assert listing.split.tolist() == [0] * 12 + [1] * 8
    assert listing.image_id.tolist() == list(range(20))
    assert listing.name(2) == "train_val_images/Aves/Larus canus/train2.jpg"
    assert np.diff(listing.box_start).tolist() == [0, 0, 2, 3] * 3 + [0, 0, 1, 1] * 2
    assert listing.boxes_of(2).tolist() == [[2, 3, 22, 33], [3, 4, 23, 34]]  # x y width height -> corners
    assert listing.boxes_of(14).tolist() == [[2, 3, 22, 33]]
    assert listing.sizes[:4].tolist() == [[60, 80], [80, 60], [61, 83], [50, 90]]


def test_batches_pad_boxes_to_the_most_an_image_has(inat):
    data = _data(inat)
    batch = next(iter(data.train_dataloader()))
    assert batch.boxes.shape == (4, 3, 4)
    count = np.diff(data.listing.box_start)[batch.image_id.numpy()]
    assert batch.box_valid.sum(1).tolist() == count.tolist()
    assert (batch.boxes[~batch.box_valid] == 0).all()


def test_missing_boxes_leave_a_split_without_them(inat):
    (inat / "inat2017/val_2017_bboxes.json").unlink()
    listing = _data(inat).listing
    assert len(listing.boxes) == 15
    assert listing.box_start[12:].tolist() == [15] * 9


def test_the_first_classes_are_a_part_with_the_same_ids(inat):
    whole, part = _data(inat).listing, _data(inat, classes=3).listing
    keep = whole.target < 3
    assert part.image_id.tolist() == whole.image_id[keep].tolist()
    assert part.label_groups == whole.label_groups[:3]
    assert [part.boxes_of(i).tolist() for i in range(15)] == [
        whole.boxes_of(i).tolist() for i in np.flatnonzero(keep).tolist()
    ]


def test_the_whole_dataset_must_have_its_published_counts(inat):
    with pytest.raises(
        DataError, match=r"inat2017: .*4 species in 3 super-categories, 12 train and 8 test.*data prepare"
    ):
        _ = _data(inat, classes=None).listing


DAMAGE = {
    "label of no image": (
        "train2017.json", lambda c: c["annotations"][1].update(image_id=99), "annotation 1 is of image 99, which",
    ),
    "two labels": ("val2017.json", lambda c: c["annotations"][1].update(image_id=100), "image 100 has 2 labels"),
    "box of no image": (
        "val_2017_bboxes.json", lambda c: c["annotations"][0].update(image_id=1), "annotation 0 is of image 1, which",
    ),
    "flat box": ("train_2017_bboxes.json", lambda c: c["annotations"][2].update(bbox=[1, 1, 0, 5]), "not positive"),
    "half a box": ("train_2017_bboxes.json", lambda c: c["annotations"][2].update(bbox=[1, 1, 5]), "not four numbers"),
    "unknown class": ("val2017.json", lambda c: c["annotations"][0].update(category_id=9), "category 9 is not one of"),
    "other classes": ("val2017.json", lambda c: c["categories"][0].update(name="Acer"), "not those of train2017.json"),
    "numbers with a gap": ("train2017.json", lambda c: c["categories"][0].update(id=7), "not 0, 1, 2"),
    "wrong label": (
        "train2017.json", lambda c: c["annotations"][1].update(category_id=2), "train1.jpg is labelled Aves/Larus",
    ),
    "other super-category": (
        "train2017.json", lambda c: c["categories"][0].update(supercategory="Fungi"), "is labelled Fungi/Parus major",
    ),
    "two frames": (
        "val_2017_bboxes.json", lambda c: c["images"][2].update(width=7), "image 102 is 61 x 7 .* but 61 x 83",
    ),
    "no images": ("train2017.json", lambda c: c.pop("images"), "has no list 'images'"),
    "image without a name": ("train2017.json", lambda c: c["images"][0].pop("file_name"), "entry 0 of 'images' lacks"),
    "image twice": ("train2017.json", lambda c: c["images"][1].update(id=0), "image 0 is listed twice"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "change", "says"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_lists_are_named_with_a_remedy(inat, name, change, says):
    _edit(inat, name, change)
    with pytest.raises(DataError, match=rf"inat2017: .*{name}.*{says}.*fgbench data prepare inat2017"):
        _ = _data(inat).listing


def test_a_half_unpacked_tree_and_a_wrong_root_are_named(inat, tmp_path):
    with pytest.raises(DataError, match=r"inat2017: .*no train2017\.json and no val2017\.json.*archives"):
        _data(tmp_path / "nowhere")
    (inat / "inat2017/val2017.json").write_text('{"images": [{"id": 1, ')
    with pytest.raises(DataError, match=r"inat2017: .*val2017\.json, line 1: not JSON"):
        _ = _data(inat).listing


def test_a_renamed_folder_and_an_image_that_is_none_are_named(inat):
    images = inat / "inat2017/train_val_images"
    (images / "Aves").rename(images / "aves")
    with pytest.raises(DataError, match=r"inat2017: .*10 of 20 listed images are absent: train_val_images/Aves/Larus"):
        _ = _data(inat).listing
    (images / "aves").rename(images / "Aves")
    (images / "Aves/Larus canus/train2.jpg").write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"inat2017: .*train2\.jpg: cannot be decoded.*restore this file"):
        _ = _data(inat).listing


def test_boxes_that_refer_to_another_size_than_the_images_are_refused(inat):
    for name in ("train2017.json", "train_2017_bboxes.json"):
        _edit(inat, name, lambda content: content["images"][2].update(width=166, height=122))
    with pytest.raises(DataError, match=r"inat2017: .*train2\.jpg: 61 x 83 .* but the lists say 122 x 166.* 1 of 20 "):
        _ = _data(inat).listing
