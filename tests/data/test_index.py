"""The index says what the reader said, is refused when that is no longer so, and stays small at any size."""

import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fgbench.data import CUB200, DataError, INat2017, View
from fgbench.data.dataset import ImageDataset
from fgbench.data.index import read_index, write_index
from fgbench.data.listing import Listing

VIEW = View("short", 40, multiple=8)


def _cub(root, **kwargs):
    data = CUB200(classes=3, root=str(root), batch_size=4, test_view=VIEW, train_view=View("squash", 32), **kwargs)
    data.prepare_data()
    return data


def _indexed(root):
    data = _cub(root)
    write_index(data.index_path(), data.read_sized(), data.root, data.sources())
    return data


def _equal(first: Listing, second: Listing) -> None:
    for field in fields(Listing):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, field.name


def test_what_was_written_is_read(cub):
    data = _indexed(cub)
    listing = data.read_sized()
    assert listing.sizes[:4].tolist() == [[60, 80], [80, 60], [61, 83], [50, 90]]
    _equal(read_index(data.index_path(), cub, ""), listing)


def test_all_that_a_listing_may_hold_comes_back(tmp_path):
    n, rng = 70_000, np.random.default_rng(0)  # more than one block
    count = rng.integers(0, 4, n)
    listing = Listing(
        folder=tmp_path / "deep/images",
        names=np.array([f"{'é' * (i % 3)}{i}.jpg".encode() for i in range(n)]),
        image_id=rng.permutation(n),
        target=rng.integers(0, 2, (n, 5)).astype(np.float64),
        split=rng.integers(0, 2, n),
        boxes=rng.uniform(-5, 500, (count.sum(), 4)),
        box_start=np.concatenate([[0], np.cumsum(count)]),
        landmarks=rng.uniform(0, 100, (n, 2, 2)),
        visible=rng.random((n, 2)) < 0.5,
        label_names=tuple("abcde"),
        landmark_names=("left eye", "right eye"),
        label_groups=tuple("xxyyy"),
        sizes=rng.integers(1, 4000, (n, 2)).astype(np.int32),
        copy_short=600,
    )
    bare = replace(listing, landmarks=np.zeros((n, 0, 2)), visible=np.zeros((n, 0), np.bool_), landmark_names=())
    boxless = replace(bare, boxes=np.zeros((0, 4)), box_start=np.zeros(n + 1, np.int64), target=rng.integers(0, 5, n))
    for one in (listing, bare, boxless):
        write_index(tmp_path / "i.parquet", one, tmp_path, [])
        _equal(read_index(tmp_path / "i.parquet", tmp_path, ""), one)


def test_an_index_is_used_and_asks_no_image(cub):
    expected = _cub(cub).listing
    _indexed(cub)
    (cub / "CUB_200_2011/images").rename(cub / "elsewhere")
    data = _cub(cub)
    _equal(data.listing, expected)
    assert len(data.test_dataloader()) == 2  # of two shapes, from the index alone
    (cub / "elsewhere").rename(cub / "CUB_200_2011/images")
    assert sum(len(batch.image) for batch in data.test_dataloader()) == 6


def test_an_index_moves_with_its_folder(cub, tmp_path):
    _indexed(cub)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("CUB_200_2011", "index"):
        (cub / name).rename(moved / name)
    assert _cub(moved).listing.path(0).is_file()


def test_other_arguments_have_another_index(cub):
    _indexed(cub)
    assert CUB200(classes=2, root=str(cub)).index_path() != _cub(cub).index_path()
    assert _cub(cub, seed=4, val_fraction=0.5).index_path() == _cub(cub).index_path()


def test_a_touched_source_is_read_again_and_a_changed_one_is_refused(cub):
    _indexed(cub)
    source = cub / "CUB_200_2011/image_class_labels.txt"
    os.utime(source, ns=(1, 1))
    assert _cub(cub).listing.target[0] == 0
    source.write_text(source.read_text().replace("1 1\n", "1 2\n", 1))
    with pytest.raises(DataError, match=r"cub200: .*image_class_labels\.txt: changed since .* data prepare cub200"):
        _ = _cub(cub).listing
    source.unlink()
    with pytest.raises(DataError, match=r"cub200: .*image_class_labels\.txt: missing"):
        _ = _cub(cub).listing


def test_a_source_that_was_added_since_makes_the_index_stale(inat):
    boxes = inat / "inat2017/train_2017_bboxes.json"
    boxes.rename(inat / "later")
    data = INat2017(classes=4, root=str(inat))
    write_index(data.index_path(), data.read_sized(), data.root, data.sources())
    assert len(INat2017(classes=4, root=str(inat)).listing.boxes) == 4  # of val
    (inat / "later").rename(boxes)
    with pytest.raises(DataError, match=r"inat2017: .*train_2017_bboxes\.json: was not there when the index"):
        _ = INat2017(classes=4, root=str(inat)).listing


def test_cut_and_digest_from_an_index_are_those_of_the_names(cub, monkeypatch):
    expected = _cub(cub, val_fraction=0.5)
    cut, digest, plain = expected.listing.rows("val").tolist(), expected.digest(), _cub(cub).digest()
    data = _cub(cub)
    write_index(data.index_path(), data.read_sized(), data.root, data.sources(), fractions=(0.0, 0.5))
    monkeypatch.setattr(Listing, "ranks", None)  # neither names nor lists are hashed any more
    monkeypatch.setattr(Listing, "digest", None)
    assert _cub(cub, val_fraction=0.5).listing.rows("val").tolist() == cut
    assert _cub(cub, val_fraction=0.5).digest() == digest
    assert _cub(cub).digest() == plain != digest


def test_a_digest_of_a_cut_that_the_index_has_not_is_computed(cub):
    expected = _cub(cub, val_fraction=0.5).digest()
    _indexed(cub)
    assert _cub(cub, val_fraction=0.5).digest() == expected


@pytest.mark.parametrize("keep", [0, 100, -20])
def test_a_damaged_index_says_how_to_make_it_again(cub, keep):
    path = _indexed(cub).index_path()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cub200: .*cannot be read.*fgbench data prepare cub200"):
        _ = _cub(cub).listing


def test_an_image_that_changed_since_is_named(cub):
    data = _indexed(cub)
    images = cub / "CUB_200_2011/images"
    first, second = sorted(images.rglob("*.jpg"))[:2]
    first.write_bytes(second.read_bytes())
    with pytest.raises(ValueError, match=rf"{first.name}: 80 x 60 .* 60 x 80 are listed"):
        _ = data.dataset(VIEW)[0]


def test_coordinates_of_a_smaller_copy_are_those_of_the_original(cub):
    """Copies of half the size and the originals show boxes and landmarks in the same place, in original pixels."""
    listing = _cub(cub).listing
    for row in range(12):
        small = cub / "copies" / bytes(listing.names[row]).decode()
        small.parent.mkdir(parents=True, exist_ok=True)
        image = cv2.imread(str(listing.path(row)))
        height, width = View("short", 30).resized(*image.shape[:2])
        cv2.imwrite(str(small), cv2.resize(image, (width, height)))
    copies = replace(listing, folder=cub / "copies", copy_short=30)
    assert copies.stored_sizes()[:3].tolist() == [[30, 40], [40, 30], [30, 40]]
    for view in (View("squash", 48), View(), View("short", 20, "centre", 16)):
        small, large = ImageDataset(copies, view), ImageDataset(listing, view)
        for row in range(12):
            height, width = small[row].image.shape[1:]
            a, b, c, d, e, f = small[row].frame.tolist()
            if view.crop == "none":  # the input's corners are those of the original
                assert [c, f, a * width + c, e * height + f] == pytest.approx([0, 0, *listing.sizes[row, ::-1]])
            for (x, y), seen, there in zip(
                small[row].landmarks.tolist(), small[row].visible.tolist(), listing.landmarks[row], strict=True
            ):
                if seen:
                    assert [a * x + b * y + c, d * x + e * y + f] == pytest.approx(there, abs=1e-3)
            if view.resize == "squash":
                np.testing.assert_allclose(small[row].boxes, large[row].boxes, atol=1e-4)
                np.testing.assert_array_equal(small[row].visible, large[row].visible)


_SCALE = """
import sys
from pathlib import Path
import numpy as np
from fgbench.data import CUB200, View
from fgbench.data.dataset import ImageDataset, collate
from fgbench.data.index import read_index
from fgbench.data.listing import SPLITS
from fgbench.data.samplers import EvalBatches, TrainBatches

def memory(kind):
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(kind)) * 1024

root = Path(sys.argv[1])
read_index(root / "small.parquet", root, "")  # imports, and what the library keeps for itself
before = memory("Rss:")
listing = read_index(root / "large.parquet", root, "").with_validation(0.1)
train, test = listing.rows("train"), listing.rows("test")
batches = TrainBatches(train, 64, 0)
first = next(iter(batches))
shapes = View("short", 40).shapes(listing.stored_sizes()[test])
evaluation = EvalBatches(test, 64, shapes)
next(iter(evaluation))
print(len(listing.names), len(train), len(test), len(batches), len(evaluation), memory("Rss:") - before)
"""


def test_memory_of_a_large_index_is_that_of_its_arrays(tmp_path):
    """A fifth of inat2017: 135,000 images, boxes for some of them."""
    n, rng = 135_000, np.random.default_rng(0)
    count = np.where(rng.random(n) < 0.5, rng.geometric(0.8, n), 0)
    count[7] = 100  # padding every image to this would take 540 MB
    listing = Listing(
        folder=tmp_path,
        names=np.array([f"train_val_images/Plantae/Species {i % 5089:04d}/{i:032x}.jpg".encode() for i in range(n)]),
        image_id=np.arange(n),
        target=np.arange(n) % 5089,
        split=(np.arange(n) >= 110_000).astype(np.int64),
        boxes=rng.uniform(0, 500, (count.sum(), 4)),
        box_start=np.concatenate([[0], np.cumsum(count)]),
        landmarks=np.zeros((n, 0, 2)),
        visible=np.zeros((n, 0), np.bool_),
        label_names=tuple(map(str, range(5089))),
        landmark_names=(),
        sizes=np.stack([np.full(n, 600), 600 + np.arange(n) % 200], axis=1).astype(np.int32),
    )
    write_index(tmp_path / "large.parquet", listing, tmp_path, [])
    rows = ("names", "image_id", "target", "split", "landmarks", "visible", "sizes")
    first = {name: getattr(listing, name)[:10] for name in rows}
    few = replace(listing, **first, boxes=listing.boxes[: listing.box_start[10]], box_start=listing.box_start[:11])
    write_index(tmp_path / "small.parquet", few, tmp_path, [])
    project = str(Path(__file__).parents[2])
    found = subprocess.run(
        [sys.executable, "-c", _SCALE, str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=project,
        env={**os.environ, "PYTHONPATH": project},
    ).stdout.split()  # fmt: skip
    images, train, test, steps, batches, memory = map(int, found)
    assert (images, test) == (n, 25_000)
    assert 0.89 * 110_000 < train < 0.91 * 110_000
    assert steps == train // 64
    assert 25_000 / 64 <= batches <= 25_000 / 64 + 200
    assert memory < 80e6  # a fifth of 300 MB and what the allocator keeps


def test_what_is_no_part_of_the_image_is_neither_listed_nor_shown(cub):
    whole, cut = _cub(cub), _cub(cub)
    cut.bottom = 20
    assert (whole.listing.sizes - cut.listing.sizes).tolist() == [[20, 0]] * 12
    a, b = whole.dataset(View())[0].image, cut.dataset(View())[0].image
    assert b.shape == (3, 40, 80)
    assert (a[:, :40] == b).all()
