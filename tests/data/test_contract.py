"""What holds for every dataset; a new one adds a line to ``DATASETS``."""

import pickle

import numpy as np
import pytest
import torch

import fgbench.data
from fgbench.data import BenchDataModule, View
from fgbench.data.augment import mirror_order
from fgbench.types import Batch

TRAIN = View("short", 40, "random", 36, flip=0.5, brightness=0.1)
TEST = View("short", 40, "centre", 36)
LOCATE = View("short", 40, multiple=8)
VIEWS = {"train_view": TRAIN, "test_view": TEST, "locate_view": LOCATE, "batch_size": 4, "eval_batch_size": 5}
DATASETS = ("toybirds", "cub200")  # inat2017, without landmarks, has a file of its own


@pytest.fixture(params=DATASETS)
def make(request, toybirds, cub):
    """Builds the dataset of this parameter, small, under the views above."""

    def build(**kwargs):
        kwargs = {**VIEWS, **kwargs}
        if request.param == "toybirds":
            return toybirds(**kwargs)
        data = fgbench.data.CUB200(classes=3, root=str(cub), **kwargs)
        data.prepare_data()
        data.setup("fit")
        return data

    return build


def _same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_dataset_of_the_suite_is_under_contract():
    assert set(fgbench.data.DATASETS) == {*DATASETS, "inat2017"}
    for name, kind in fgbench.data.DATASETS.items():
        found = getattr(fgbench.data, kind)
        assert issubclass(found, BenchDataModule)
        assert found.name == name


def test_what_the_suite_asks_before_reading_is_known_at_once(make):
    data = make()
    assert data.num_outputs == len(data.label_names) == 3
    assert data.target == "class"
    assert data.has_boxes
    assert data.landmark_frame == "box"
    assert len(data.landmark_names) == 15
    assert data.sizes() == {"n_train": data.split_size("train"), "n_test": data.split_size("test")}


def test_splits_are_disjoint_and_complete(make):
    listing = make(val_fraction=0.4).listing
    rows = [listing.rows(split) for split in ("train", "val", "test")]
    assert all(len(r) for r in rows)
    assert np.sort(np.concatenate(rows)).tolist() == list(range(len(listing.names)))
    assert len(set(listing.names.tolist())) == len(listing.names)
    assert len(set(listing.image_id.tolist())) == len(listing.names)


def test_labels_are_in_range_and_every_class_is_in_both_splits(make):
    data = make()
    for split in ("train", "test"):
        assert set(data.listing.target[data.listing.rows(split)]) == set(range(data.num_outputs))


def test_batches_have_the_types_and_shapes_of_the_contract(make):
    data = make()
    batch = next(iter(data.train_dataloader()))
    shapes = {"image": (4, 3, 36, 36), "target": (4,), "image_id": (4,), "boxes": (4, 1, 4), "box_valid": (4, 1)}
    shapes |= {"landmarks": (4, 15, 2), "visible": (4, 15), "frame": (4, 6)}
    kinds = (torch.uint8, torch.int64, torch.int64, torch.float32, torch.bool, torch.float32, torch.bool, torch.float64)
    assert isinstance(batch, Batch)
    assert {name: tuple(value.shape) for name, value in batch._asdict().items()} == shapes
    assert tuple(value.dtype for value in batch) == kinds


@pytest.mark.parametrize("view", [TRAIN, TEST, LOCATE], ids=["train", "test", "locate"])
def test_boxes_and_landmarks_follow_the_image_and_come_back(make, view):
    data = make()
    listing, dataset = data.listing, data.dataset(view)
    mirror, mirrored = list(mirror_order(listing.landmark_names)), 0
    for row in range(len(listing.names)):
        item = dataset[row, 1]
        a, b, c, d, e, f = item.frame.tolist()
        height, width = item.image.shape[1:]
        order = mirror if a * e - b * d < 0 else list(range(15))
        mirrored += order == mirror
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
        x0, y0, x1, y1 = item.boxes[0].tolist()
        corners = np.array([[a * x + b * y + c, d * x + e * y + f] for x, y in ((x0, y0), (x1, y1))])
        found = [*corners.min(axis=0), *corners.max(axis=0)]
        assert found == pytest.approx(listing.boxes_of(row)[0], abs=1e-3)
        assert x0 < x1
        assert y0 < y1
    assert (mirrored > 2) == (view is TRAIN)


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
    data, cut = make(), make(val_fraction=0.4)
    every = (
        [data.fit_dataloader(), data.test_dataloader()],
        [cut.fit_dataloader(), cut.val_dataloader(), cut.test_dataloader()],
    )
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
        (data.fit_dataloader(), "train"),
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


def test_validation_is_none_a_fixed_cut_or_the_test_split(make):
    assert make().val_dataloader() == []
    cut, again = make(val_fraction=0.4), make(val_fraction=0.4, seed=9)
    assert cut.listing.rows("val").tolist() == again.listing.rows("val").tolist()
    counts = np.bincount(cut.listing.target[cut.listing.rows("val")], minlength=3)
    assert len(set(counts.tolist())) == 1
    assert cut.split_size("train") + cut.split_size("val") == make().split_size("train")
    legacy = make(validate_on_test=True)
    assert sum(len(batch.image) for batch in legacy.val_dataloader()) == legacy.split_size("test")
    with pytest.raises(ValueError, match="exclude each other"):
        make(validate_on_test=True, val_fraction=0.4)
    with pytest.raises(ValueError, match="no validation image"):
        make(val_fraction=0.01)


def test_digest_knows_annotations_and_cut_but_neither_seed_nor_views(make):
    assert make().digest() == make(seed=5, test_view=LOCATE, workers=1).digest()
    assert make().digest() != make(val_fraction=0.4).digest()
    data = make()
    before = data.listing.digest()
    data.listing.landmarks[1, 1] += 1.0
    assert data.listing.digest() != before


def test_random_views_are_refused_in_tests(make):
    with pytest.raises(ValueError, match="no random crop"):
        make(test_view=TRAIN)
    with pytest.raises(ValueError, match="no random crop"):
        make(locate_view=View(flip=0.5))


def test_image_smaller_than_the_crop_is_named(make):
    with pytest.raises(
        ValueError, match=r"(Toybird_0001\.png|Bird_0_0\.jpg): the image is .* smaller than the view's crop"
    ):
        make(test_view=View(crop="centre", crop_size=200)).dataset(View(crop="centre", crop_size=200))[0]
