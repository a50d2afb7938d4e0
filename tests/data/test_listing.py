"""Boxes of different numbers, and what the digest says of them."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fgbench.data.listing import Listing, copied_size


def _listing(counts, seed=0):
    rng, n = np.random.default_rng(seed), len(counts)
    return Listing(
        folder=Path("images"),
        names=np.array([f"{i}.jpg".encode() for i in range(n)]),
        image_id=np.arange(n),
        target=rng.integers(0, 3, n),
        split=np.arange(n) % 2,
        boxes=rng.uniform(0, 100, (sum(counts), 4)),
        box_start=np.concatenate([[0], np.cumsum(counts)]),
        landmarks=np.zeros((n, 0, 2)),
        visible=np.zeros((n, 0), np.bool_),
        label_names=("a", "b", "c"),
        landmark_names=(),
    )


def test_each_image_has_its_own_boxes():
    listing = _listing([2, 0, 3, 1])
    assert listing.most_boxes == 3
    assert listing.boxes_of(0).tolist() == listing.boxes[:2].tolist()
    assert listing.boxes_of(1).shape == (0, 4)
    assert listing.boxes_of(3).tolist() == listing.boxes[5:].tolist()


def test_digest_is_that_of_boxes_padded_with_zeros():
    """As it was when every image had as many places as the one with the most boxes: published rows stay comparable."""
    listing = _listing([2, 0, 3, 1] * 2000, seed=1)
    n, expected = 8000, hashlib.sha256()
    boxes, valid = np.zeros((n, 3, 4)), np.zeros((n, 3), np.bool_)
    for i in range(n):
        mine = listing.boxes[listing.box_start[i] : listing.box_start[i + 1]]
        boxes[i, : len(mine)], valid[i, : len(mine)] = mine, True
    arrays = [listing.image_id, listing.target, listing.split, boxes, valid, listing.landmarks, listing.visible]
    for array in arrays:
        expected.update(f"{array.dtype.kind}{array.shape}".encode() + array.tobytes())
    expected.update(b"".join(bytes(name) + b"\n" for name in listing.names) + b"a\nb\nc\n")
    assert listing.digest() == expected.hexdigest()


def test_digest_knows_groups_and_copies_and_not_sizes():
    listing = _listing([1, 1])
    others = [
        replace(listing, label_groups=("x", "x", "y")),
        replace(listing, label_groups=("x", "y", "y")),
        replace(listing, copy_short=600),
        replace(listing, boxes=listing.boxes[:1], box_start=np.array([0, 0, 1])),
    ]
    assert len({other.digest() for other in [listing, *others]}) == 5
    assert replace(listing, sizes=np.full((2, 2), 9)).digest() == listing.digest()


def test_copies_are_never_larger_than_their_originals():
    sizes = np.array([[800, 700], [600, 800], [400, 801], [3000, 1201], [1, 1]], np.int32)
    assert copied_size(sizes, 600).tolist() == [[685, 600], [600, 800], [400, 801], [1498, 600], [1, 1]]


def test_an_image_may_fit_regressors_and_train_or_validate_and_by_default_what_trains_fits():
    listing = _listing([1] * 8)
    assert listing.rows("fit").tolist() == listing.rows("train").tolist() == [0, 2, 4, 6]
    codes = replace(listing, split=np.array([0, 1, 2, 7, 4, 6, 0, 1]))
    found = {split: codes.rows(split).tolist() for split in ("train", "test", "val", "fit")}
    assert found == {"train": [0, 4, 6], "test": [1, 7], "val": [2, 5], "fit": [3, 4, 5]}


def test_no_second_validation_split_is_cut_where_there_is_one():
    listing = replace(_listing([1] * 8), split=np.array([0, 1, 2, 0, 0, 1, 0, 0]))
    with pytest.raises(ValueError, match="official validation split"):
        listing.with_validation(0.5)


def test_the_cut_is_of_each_class_those_whose_names_hash_lowest():
    listing = replace(
        _listing([0] * 40),
        target=np.arange(40) % 3,
        split=np.zeros(40, np.int64),
        names=np.array([f"{i:03d}.jpg".encode() for i in range(40)]),
    )
    expected = []
    for label in range(3):
        mine = [row for row in range(40) if row % 3 == label]
        order = sorted(mine, key=lambda row: hashlib.sha256(f"{row:03d}.jpg".encode()).hexdigest())
        expected += order[: round(0.1 * len(mine))]
    assert listing.with_validation(0.1).rows("val").tolist() == sorted(expected)
    assert set(expected) < set(listing.with_validation(0.3).rows("val").tolist())
