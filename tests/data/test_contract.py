"""What holds for every dataset of the suite, on its fake (``fakes``)."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import FAKES

import fgbench.data
from fgbench.data import BenchDataModule, View
from fgbench.data.augment import mirror_order
from fgbench.data.images import image_size
from fgbench.types import Batch

TRAIN = View("short", 40, "random", 36, flip=0.5, brightness=0.1)
TEST = View("short", 40, "centre", 36)
LOCATE = View("short", 40, multiple=8)
SQUASH = View("squash", 44, flip=0.5)
VIEWS = {"train_view": TRAIN, "test_view": TEST, "locate_view": LOCATE, "batch_size": 4, "eval_batch_size": 5}

CLASSES = {"inat2017": 4}  # of the fake; others have 3


@pytest.fixture(params=list(FAKES))
def make(request, fake_root, open_fake):
    """Builds the dataset of this parameter, small, under the views above."""
    return lambda **kwargs: open_fake(request.param, fake_root(request.param), **{**VIEWS, **kwargs})


def _same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _cut(data: BenchDataModule) -> dict[str, float]:
    """The argument that gives a dataset validation images, if it has no official ones."""
    return {} if data.has_validation else {"val_fraction": 0.4}


def test_every_dataset_of_the_suite_has_a_file_a_reader_and_a_fake():
    for name, kind in fgbench.data.DATASETS.items():
        found = getattr(fgbench.data, kind)
        assert issubclass(found, BenchDataModule)
        assert found.name == name
        assert found.__module__ == f"fgbench.data.{name}"
        assert FAKES[name].write


def test_what_the_suite_asks_before_reading_is_known_at_once(make):
    data = make()
    assert (
        data.num_outputs == len(data.label_names) == (40 if data.target == "attributes" else CLASSES.get(data.name, 3))
    )
    assert (len(data.listing.boxes) > 0) == data.has_boxes
    assert (len(data.landmark_names) > 0) == (data.landmark_frame is not None)
    assert data.sizes() == {"n_train": data.split_size("train"), "n_test": data.split_size("test")}


def test_counts_of_the_whole_dataset_are_those_of_its_card(make):
    card, kind = make().card, type(make())
    assert card.train > card.test > 0 or kind.name in ("toybirds", "flowers102")
    assert (card.val > 0) == (kind.has_validation and kind.name != "celeba_wild")
    whole = kind()
    assert whole.num_outputs == card.outputs


def test_splits_are_disjoint_and_complete(make):
    data = make()
    listing = make(**_cut(data)).listing
    rows = [listing.rows(split) for split in ("train", "val", "test")]
    assert all(len(r) for r in rows)
    together = np.concatenate(rows)
    assert len(set(together.tolist())) == len(together)
    assert set(together) | set(listing.rows("fit")) == set(range(len(listing.names)))
    assert not set(listing.rows("fit")) & set(listing.rows("test"))
    assert len(set(listing.names.tolist())) == len(listing.names)
    assert len(set(listing.image_id.tolist())) == len(listing.names)
    assert (np.diff(listing.image_id) > 0).all()  # published order


def test_labels_are_in_range_and_every_class_is_in_both_splits(make):
    data = make()
    for split in ("train", "test"):
        target = data.listing.target[data.listing.rows(split)]
        assert set(target.reshape(-1)) == set(range(data.num_outputs) if data.target == "class" else (0, 1))


def test_boxes_and_landmarks_lie_inside_of_their_images(make):
    data = make()
    listing = data.listing
    for row in range(len(listing.names)):
        height, width = image_size(listing.path(row))
        for x0, y0, x1, y1 in listing.boxes_of(row):
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height - data.bottom
        for x, y in listing.landmarks[row][listing.visible[row]]:
            assert 0 <= x <= width
            assert 0 <= y <= height


def test_reading_again_gives_the_same_and_a_part_of_the_dataset_keeps_its_ids(make):
    assert make().digest() == make().digest()
    data = make()
    if hasattr(data, "classes"):
        part = make(classes=2)
        ids = dict(zip(data.listing.names.tolist(), data.listing.image_id.tolist(), strict=True))
        assert [ids[name] for name in part.listing.names.tolist()] == part.listing.image_id.tolist()
        assert set(part.listing.target) == {0, 1}


def test_batches_have_the_types_and_shapes_of_the_contract(make):
    data = make()
    batch = next(iter(data.train_dataloader()))
    labels = (40,) if data.target == "attributes" else ()
    boxes, marks = data.listing.most_boxes, len(data.landmark_names)
    shapes = {"image": (4, 3, 36, 36), "target": (4, *labels), "image_id": (4,), "boxes": (4, boxes, 4)}
    shapes |= {"box_valid": (4, boxes), "landmarks": (4, marks, 2), "visible": (4, marks), "frame": (4, 6)}
    shapes |= {"prepared": (4, 0), "mask": (4, 0)}  # nothing was; tests only
    kinds = (
        torch.uint8,
        torch.float32 if labels else torch.int64,
        torch.int64,
        torch.float32,
        torch.bool,
        torch.float32,
        torch.bool,
        torch.float64,
        torch.float32,
        torch.float32,
    )
    assert isinstance(batch, Batch)
    assert {name: tuple(value.shape) for name, value in batch._asdict().items()} == shapes
    assert tuple(value.dtype for value in batch) == kinds


@pytest.mark.parametrize("view", [TRAIN, TEST, LOCATE, SQUASH], ids=["train", "test", "locate", "squash"])
def test_boxes_and_landmarks_follow_the_image_and_come_back(make, view):
    data = make()
    listing, dataset = data.listing, data.dataset(view)
    mirror, mirrored = list(mirror_order(listing.landmark_names)), 0
    for row in range(len(listing.names)):
        item = dataset[row, 1]
        a, b, c, d, e, f = item.frame.tolist()
        height, width = item.image.shape[1:]
        order = mirror if a * e - b * d < 0 else list(range(len(mirror)))
        mirrored += a * e - b * d < 0
        for i, (x, y) in enumerate(item.landmarks.tolist()):
            there = listing.landmarks[row, order[i]]
            if item.visible[i]:
                assert [a * x + b * y + c, d * x + e * y + f] == pytest.approx(there, abs=1e-3)
                assert 0 <= x <= width
                assert 0 <= y <= height
            elif listing.visible[row, order[i]]:  # left the input
                x, y = np.linalg.solve([[a, b], [d, e]], there - [c, f])
                assert not (0 <= x <= width and 0 <= y <= height)
            if not item.visible[i]:
                assert item.landmarks[i].tolist() == [0, 0]
        assert int(item.box_valid.sum()) == len(listing.boxes_of(row))
        assert not item.boxes[~item.box_valid].any()
        for box, there in zip(item.boxes.tolist(), listing.boxes_of(row), strict=False):
            x0, y0, x1, y1 = box
            corners = np.array([[a * x + b * y + c, d * x + e * y + f] for x, y in ((x0, y0), (x1, y1))])
            assert [*corners.min(axis=0), *corners.max(axis=0)] == pytest.approx(there, abs=1e-3)
            assert x0 < x1
            assert y0 < y1
    assert (mirrored > 2) == view.is_random


def test_pixels_stay_where_the_frame_says(make):
    """The mean colour of the input is that of the part of the file that the frame says it shows."""
    data = make()
    dataset = data.dataset(replace(TRAIN, resize="none", brightness=0.0))
    for row in (0, len(data.listing.names) - 1):
        item, pixels = dataset[row, 3], dataset.pixels(row)
        a, _, c, _, _, f = item.frame.tolist()
        left, top = int(c - 36 if a < 0 else c), int(f)
        shown = pixels[top : top + 36, left : left + 36]
        assert torch.equal(item.image, torch.from_numpy((shown[:, ::-1] if a < 0 else shown).copy()).permute(2, 0, 1))


def test_an_item_is_the_same_in_any_process_and_changes_with_the_epoch(make):
    here, there = list(make().train_dataloader()), list(make(workers=2).train_dataloader())
    assert len(here) > 0
    assert all(_same(a, b) for a, b in zip(here, there, strict=True))
    dataset = make().dataset(TRAIN)
    assert _same(dataset[3, 7], pickle.loads(pickle.dumps(dataset))[3, 7])
    assert not _same(dataset[3, 7], dataset[3, 8]) or not _same(dataset[5, 7], dataset[5, 8])
    other = make(seed=1).dataset(TRAIN)
    assert any(not _same(dataset[i, 0], other[i, 0]) for i in range(4))


def test_memory_changes_nothing(make):
    kept, read = make(cache="ram"), make()
    for _ in range(2):
        assert all(_same(a, b) for a, b in zip(kept.train_dataloader(), read.train_dataloader(), strict=True))
        assert all(_same(a, b) for a, b in zip(kept.test_dataloader(), read.test_dataloader(), strict=True))


def test_image_id_does_not_depend_on_split_view_or_cut(make):
    data = make()
    cut = make(**_cut(data), seed=3, test_view=LOCATE)
    every = [
        [one.eval_loader(split, view) for split in ("train", "val", "test", "fit") if one.split_size(split)]
        for one, view in ((data, TEST), (cut, LOCATE))
    ]
    names = []
    for loaders in every:
        seen = {}
        for loader in loaders:
            for batch in loader:
                seen |= dict(zip(batch.image_id.tolist(), batch.target.tolist(), strict=True))
        names.append(seen)
    assert names[0] == names[1]
    assert len(names[0]) == len(data.listing.names)


def test_evaluation_is_deterministic_and_sees_every_image_once(make):
    data = make()
    for loader, split in (
        (data.fit_dataloader(), "fit"),
        (data.test_dataloader(), "test"),
        (data.locate_dataloader(), "test"),
    ):
        first, second = list(loader), list(loader)
        assert all(_same(a, b) for a, b in zip(first, second, strict=True))
        ids = torch.cat([batch.image_id for batch in first]).tolist()
        assert sorted(ids) == data.listing.image_id[data.listing.rows(split)].tolist()


def test_locating_view_is_left_out_where_it_is_the_test_view(make):
    assert make(locate_view=None).locate_dataloader() is None
    assert make(locate_view=TEST).locate_dataloader() is None
    assert next(iter(make(locate_view=None).fit_dataloader())).image.shape[2:] == (36, 36)


def test_validation_is_official_a_fixed_cut_or_the_test_split(make):
    data = make()
    legacy = make(validate_on_test=True)
    assert sum(len(batch.image) for batch in legacy.val_dataloader()) == legacy.split_size("test")
    if data.has_validation:
        assert sum(len(batch.image) for batch in data.val_dataloader()) == data.split_size("val") > 0
        with pytest.raises(ValueError, match="official validation split"):
            make(val_fraction=0.4)
        return
    assert data.val_dataloader() == []
    cut, again = make(val_fraction=0.4), make(val_fraction=0.4, seed=9)
    assert cut.listing.rows("val").tolist() == again.listing.rows("val").tolist()
    taken = np.bincount(cut.listing.target[cut.listing.rows("val")], minlength=data.num_outputs)
    before = np.bincount(data.listing.target[data.listing.rows("train")], minlength=data.num_outputs)
    assert taken.tolist() == [round(0.4 * count) for count in before]
    assert cut.split_size("train") + cut.split_size("val") == data.split_size("train")
    with pytest.raises(ValueError, match="exclude each other"):
        make(validate_on_test=True, val_fraction=0.4)
    with pytest.raises(ValueError, match="no validation image"):
        make(val_fraction=0.01)


def test_digest_knows_annotations_and_cut_but_neither_seed_nor_views(make):
    data = make()
    assert data.digest() == make(seed=5, test_view=LOCATE, workers=1).digest()
    if not data.has_validation:
        assert data.digest() != make(val_fraction=0.4).digest()
    before, listing = data.listing.digest(), data.listing
    for array in (listing.landmarks, listing.boxes, listing.target, listing.split):
        if array.size:
            changed = array.copy()
            changed.flat[1] += 1
            name = next(key for key, value in vars(listing).items() if value is array)
            assert replace(listing, **{name: changed}).digest() != before


def test_random_views_are_refused_in_tests(make):
    with pytest.raises(ValueError, match="no random crop"):
        make(test_view=TRAIN)
    with pytest.raises(ValueError, match="no random crop"):
        make(locate_view=View(flip=0.5))


def test_image_smaller_than_the_crop_is_named(make):
    view = View(crop="centre", crop_size=400)
    data = make(test_view=view)
    name = data.listing.path(0).name
    with pytest.raises(ValueError, match=r"the image is .* smaller than the view's crop") as error:
        data.dataset(view)[0]
    assert name in str(error.value)
