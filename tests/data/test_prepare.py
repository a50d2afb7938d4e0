"""From archives to an index: whole or resumed, and what is wrong is said with a remedy."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fgbench import cli
from fgbench.data import CUB200, DataError, INat2017, View
from fgbench.data.check import _differing, check
from fgbench.data.contact_sheet import contact_sheet
from fgbench.data.prepare import _alone, _is_copy, prepare

VIEW = View("squash", 24)


def _inat(root, **kwargs):
    return INat2017(classes=4, root=str(root), batch_size=4, train_view=VIEW, test_view=VIEW, **kwargs)


def _pack(root: Path) -> Path:
    """A root that has nothing but the archives, as distributed."""
    empty = root / "only archives"
    folder = empty / "archives"
    folder.mkdir(parents=True)
    tree = root / "inat2017"
    for archive, names in {
        "train_val2017.zip": ("train2017.json", "val2017.json"),
        "train_2017_bboxes.zip": ("train_2017_bboxes.json",),
        "val_2017_bboxes.zip": ("val_2017_bboxes.json",),
    }.items():
        with zipfile.ZipFile(folder / archive, "w") as file:
            for name in names:
                file.write(tree / name, name)
    with tarfile.open(folder / "train_val_images.tar.gz", "w:gz") as file:
        file.add(tree / "train_val_images", "train_val_images")
    return empty


def _state(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.suffix != ".parquet"}


def test_archives_become_a_dataset_and_a_second_time_nothing_is_written(inat):
    expected = _inat(inat).listing
    root = _pack(inat)
    said = []
    listing = prepare(_inat(root), say=said.append)
    np.testing.assert_array_equal(listing.boxes, expected.boxes)
    assert any(line.startswith("train_val_images.tar.gz: 20 files") for line in said)
    before = _state(root)
    said.clear()
    prepare(_inat(root), say=said.append)
    assert "train_val_images.tar.gz: was unpacked before" in said
    assert _state(root) == before
    data = _inat(root)
    assert data.index_path().is_file()
    shutil.rmtree(root / "inat2017/train_val_images")  # the copies are what training sees
    assert sum(len(batch.image) for batch in data.train_dataloader()) == 12


def test_archives_may_lie_elsewhere_and_optional_ones_may_be_absent(inat, tmp_path):
    root = _pack(inat)
    (root / "archives").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/val_2017_bboxes.zip").unlink()
    said = []
    listing = prepare(_inat(root), archives=tmp_path / "elsewhere", say=said.append)
    assert "val_2017_bboxes.zip: not there, and not needed" in said
    assert len(listing.boxes) == 15


def test_missing_archives_are_named_with_their_addresses(inat):
    root = _pack(inat)
    (root / "archives/train_val_images.tar.gz").unlink()
    with pytest.raises(DataError, match=r"20 of 20 listed images are absent.*put into .*: train_val_images.*https"):
        prepare(_inat(root), say=lambda line: None)
    with pytest.raises(DataError, match=r"train_val2017\.zip \(https.*train_val_images\.tar\.gz \(https"):
        prepare(_inat(root.parent / "nowhere"), say=lambda line: None)


def test_another_archive_of_the_same_name_is_said_to_be_one(inat):
    root = _pack(inat)
    with zipfile.ZipFile(root / "archives/train_val2017.zip", "w") as file:
        file.writestr("something.txt", "else")
    with pytest.raises(DataError, match=r"inat2017: .*train2017\.json is still not there: is it the official archive"):
        prepare(_inat(root), say=lambda line: None)


def test_a_killed_preparation_goes_on_and_ends_the_same(inat):
    """Killed twice by a signal that nobody can catch, in the middle of the images."""
    root = _pack(inat)
    folder = inat / "inat2017/train_val_images/more"  # so that there is a half-way
    folder.mkdir()
    for number in range(300):
        (folder / f"{number}.bin").write_bytes(os.urandom(30_000))
    with tarfile.open(root / "archives/train_val_images.tar.gz", "w:gz", compresslevel=1) as file:
        file.add(folder.parent, "train_val_images")
    code = (  # what prepare does with it, without two seconds of imports
        "import sys, pathlib; from fgbench.data.archives import Archive, unpack; root = pathlib.Path(sys.argv[1]);"
        "unpack(Archive('x', 'x', into='inat2017'), root / 'archives/train_val_images.tar.gz', root)"
    )
    project = str(Path(__file__).parents[2])
    done = 0
    for files in (20, 150):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(root)], env={**os.environ, "PYTHONPATH": project}, cwd=project
        )
        deadline = time.monotonic() + 60
        there: list[Path] = []
        while len(there) < files and time.monotonic() < deadline:
            there = list((root / "inat2017").rglob("*.bin"))
        process.send_signal(signal.SIGKILL)
        process.wait()
        there = list((root / "inat2017").rglob("*.bin"))
        assert done < len(there)
        assert all(path.stat().st_size == 30_000 for path in there)  # what has a name is whole
        done = len(there)
    assert done < 300
    prepare(_inat(root), say=lambda line: None)
    for path in (inat / "inat2017/train_val_images").rglob("*.*"):
        assert (root / path.relative_to(inat)).read_bytes() == path.read_bytes()
    assert not list((root / "inat2017").rglob("*.part"))
    assert check(_inat(root)).is_good


def test_copies_are_smaller_whole_and_show_the_same_boxes(inat, monkeypatch):
    monkeypatch.setattr(INat2017, "copy_short", 55)
    plain = _inat(inat)
    originals = plain.listing
    said = []
    part = prepare(_inat(inat), say=said.append)
    assert part.folder == inat / "inat2017_short55"
    assert any("20 copies written" in line for line in said)
    sizes = [cv2.imread(str(part.path(row))).shape[:2] for row in range(20)]
    assert sizes[:4] == [(55, 73), (73, 55), (55, 74), (50, 90)]
    assert part.path(3).read_bytes() == originals.path(3).read_bytes()  # small enough: not packed again
    assert part.path(0).read_bytes() != originals.path(0).read_bytes()
    data = _inat(inat)
    assert data.listing.folder == part.folder
    np.testing.assert_array_equal(data.listing.boxes, originals.boxes)
    for row in (2, 6, 14):
        small, large = data.dataset(VIEW)[row], plain.dataset(VIEW)[row]
        np.testing.assert_allclose(small.boxes, large.boxes, atol=1e-4)
        np.testing.assert_allclose(small.frame, large.frame, atol=1e-12)
        assert (small.image.float() - large.image.float()).abs().mean() < 20
    prepare(_inat(inat), copies=False, say=said.append)
    assert _inat(inat).listing.folder == inat / "inat2017"


def _quiet(data, **kwargs):
    return prepare(data, say=lambda line: None, **kwargs)


def test_a_corrected_archive_of_the_same_size_replaces_what_the_old_one_left(inat):
    root = _pack(inat)
    archive = root / "archives/val_2017_bboxes.zip"
    with zipfile.ZipFile(archive) as file:
        content = file.read("val_2017_bboxes.json").decode()
    _quiet(_inat(root))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("val_2017_bboxes.json", content.replace("20,", "19,"))
    assert set(np.diff(_quiet(_inat(root)).boxes[-4:, ::2]).ravel().tolist()) == {19.0}


def test_a_damaged_archive_is_named_and_what_it_left_is_compared(inat):
    root = _pack(inat)
    archive = root / "archives/train_val_images.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-8] + b"\0\0\0\0" + whole[-4:])  # the check sum, read last
    with pytest.raises(DataError, match=r"inat2017: .*train_val_images\.tar\.gz: the archive is damaged"):
        _quiet(_inat(root))
    name = "inat2017/train_val_images/Aves/Parus major/train3.jpg"
    image, good = root / name, (inat / name).read_bytes()
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(bytes(len(good)))  # as a larger archive leaves it: of the right size, written just now
    archive.unlink()
    with pytest.raises(DataError, match=r"train_val_images\.tar\.gz was damaged, or .* put it whole into"):
        _quiet(_inat(root))
    archive.write_bytes(whole)
    _quiet(_inat(root))
    assert image.read_bytes() == good


def test_what_a_killed_preparation_wrote_is_trusted_and_mended_where_it_is_no_image(inat):
    root = _pack(inat)
    archive, name = root / "archives/train_val_images.tar.gz", "inat2017/train_val_images/Aves/Parus major/train3.jpg"
    begun = root / "index/inat2017-train_val_images.tar.gz.unpacking"
    begun.parent.mkdir()
    begun.write_text(f"{archive.stat().st_size} {archive.stat().st_mtime_ns}\n")
    (root / name).parent.mkdir(parents=True)
    (root / name).write_bytes(bytes((inat / name).stat().st_size))  # later, so by the unpacking that was begun
    said = []
    prepare(_inat(root), say=said.append)
    written = [line for line in said if line.startswith("train_val_images.tar.gz: ")]
    assert written == [f"train_val_images.tar.gz: {count} files written" for count in (19, 1)]
    assert (root / name).read_bytes() == (inat / name).read_bytes()
    assert not begun.exists()


def test_a_lost_image_is_unpacked_once_more(inat):
    root = _pack(inat)
    path = _quiet(_inat(root), copies=False).path(5)
    before = path.read_bytes()
    path.unlink()
    said = []
    prepare(_inat(root), copies=False, say=said.append)
    assert path.read_bytes() == before
    assert any("1 of 20 listed images are absent" in line and "once more" in line for line in said)
    assert "train_val_images.tar.gz: 1 files written" in said


def test_copies_follow_their_originals(inat, monkeypatch):
    """Rows 0 and 3: one is made smaller, one is small enough and linked to."""
    monkeypatch.setattr(INat2017, "copy_short", 55)
    part, originals = _quiet(_inat(inat)), _inat(inat).read()
    for row in (0, 3):
        path = originals.path(row)
        other = path.with_suffix(".tmp.jpg")
        cv2.imwrite(str(other), 255 - cv2.imread(str(path)))
        os.utime(other, ns=(5, 5))  # older than the copy
        other.replace(path)
    said = []
    prepare(_inat(inat), say=said.append)
    assert any("2 copies written, 18 were there" in line for line in said)
    assert part.path(3).read_bytes() == originals.path(3).read_bytes()
    small = cv2.resize(cv2.imread(str(originals.path(0))), (73, 55), interpolation=cv2.INTER_AREA)
    assert np.abs(cv2.imread(str(part.path(0))).astype(int) - small).mean() < 10  # what JPEG costs


def test_copies_can_be_kept_alone_and_indexed_again(inat, monkeypatch):
    monkeypatch.setattr(INat2017, "copy_short", 55)
    before = _quiet(_inat(inat))
    (inat / "inat2017/val_2017_bboxes.json").unlink()
    shutil.rmtree(inat / "inat2017/train_val_images")
    _quiet(_inat(inat))
    listing = _inat(inat).listing
    assert listing.folder == inat / "inat2017_short55"
    np.testing.assert_array_equal(listing.sizes, before.sizes)
    assert len(listing.boxes) == len(before.boxes) - 4
    assert check(_inat(inat)).is_good
    before.path(7).unlink()
    with pytest.raises(DataError, match=r"20 of 20 listed images are absent.*has copies, but .* unpack the originals"):
        _quiet(_inat(inat))


def test_two_preparations_of_one_folder_do_not_meet(cub):
    message = r"cub200: another fgbench data prepare is running in"
    with _alone(_cub(cub), cub / "archives"), pytest.raises(DataError, match=message):
        _quiet(_cub(cub))
    _quiet(_cub(cub))


def test_a_wrong_root_is_not_made(tmp_path):
    with pytest.raises(DataError, match=r"cub200: .*nowhere"):
        _quiet(_cub(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_annotations_that_nobody_watches_are_compared_with_the_index(fake_copy, open_fake):
    root = fake_copy("stanford_dogs")
    _quiet(open_fake("stanford_dogs", root))
    data = open_fake("stanford_dogs", root)
    assert check(data).is_good
    name = data.listing.name(1)
    path = root / "stanford_dogs/Annotation" / name.rpartition(".")[0]
    whole = path.read_text()
    path.write_text(re.sub(r"<xmin>\d+</xmin>", "<xmin>1</xmin>", whole))
    (finding,) = [f for f in check(open_fake("stanford_dogs", root)).findings if f.found and not f.harmless]
    assert finding.what == "lists and annotations that the index has otherwise than the tree"
    assert finding.examples[0].startswith(f"boxes of {name} changed")
    path.unlink()
    (finding,) = [f for f in check(open_fake("stanford_dogs", root)).findings if f.found and not f.harmless]
    assert path.name in finding.examples[0]


@pytest.mark.parametrize("row", [0, 4])
def test_the_image_that_has_another_number_of_boxes_is_named(row, inat):
    listing = _inat(inat).listing
    assert _differing(listing, listing) == []
    more = np.diff(listing.box_start)
    more[row] += 1
    changed = replace(
        listing,
        boxes=np.insert(listing.boxes, listing.box_start[row], (1, 2, 3, 4), axis=0),
        box_start=np.concatenate([[0], np.cumsum(more)]),
    )
    assert _differing(listing, changed) == ["boxes changed", f"box_start of {listing.name(row)} changed"]


def test_a_stale_index_is_a_finding_and_the_tree_is_looked_at(cub):
    _quiet(_cub(cub))
    boxes = cub / "CUB_200_2011/bounding_boxes.txt"
    first, _, rest = boxes.read_text().partition("\n")
    number, *_ = first.split()
    boxes.write_text(f"{number} 1.0 1.0 5.0 5.0\n{rest}")
    found = _found(_cub(cub))
    assert "bounding_boxes.txt: changed since" in found["indices that are stale or damaged"].examples[0]


def test_without_an_index_all_that_is_absent_or_damaged_is_reported_at_once(cub):
    listing = _cub(cub).listing
    listing.path(0).unlink()
    listing.path(1).unlink()
    listing.path(4).write_text("not an image")
    report = check(_cub(cub))
    found = {finding.what: finding.found for finding in report.findings if finding.found}
    assert found == {"images that are missing": 2, "images that are unreadable or truncated": 1}
    assert report.counts == {"train": 6, "val": 0, "test": 6}


def test_an_image_that_is_none_is_named_before_anything_is_indexed(cub):
    image = cub / "CUB_200_2011/images/001.Bird_0/Bird_0_1.jpg"
    image.write_text("not an image")
    data = CUB200(classes=3, root=str(cub))
    with pytest.raises(DataError, match=r"cub200: .*Bird_0_1\.jpg: cannot be decoded as an image"):
        prepare(data, say=lambda line: None)
    assert not data.index_path().exists()


def _cub(root, **kwargs):
    return CUB200(classes=3, root=str(root), **kwargs)


def _found(data):
    return {finding.what: finding for finding in check(data).findings if finding.found}


def test_a_whole_dataset_has_no_finding(cub, toybirds):
    report = check(_cub(cub))
    assert report.is_good
    assert not _found(_cub(cub))
    assert report.counts == {"train": 6, "val": 0, "test": 6}
    assert report.digest == _cub(cub).digest()
    assert check(toybirds()).is_good


def test_every_kind_of_damage_is_found_and_named(cub):
    images = cub / "CUB_200_2011/images"
    listing = _cub(cub).listing
    data = _cub(cub)
    prepare(data, say=lambda line: None)
    names = [listing.name(row) for row in range(12)]
    (images / names[0]).unlink()
    (images / names[1]).write_bytes((images / names[1]).read_bytes()[:-40])
    (images / names[4]).write_text("not an image")
    cv2.imwrite(str(images / names[5]), np.zeros((30, 31, 3), np.uint8))
    shutil.copy(images / names[6], images / names[10])  # test to test, another class, same size
    shutil.copy(images / names[7], images / names[3])
    found = _found(_cub(cub))
    assert found["images that are missing"].examples == (f"{names[0]}: No such file or directory",)
    assert found["images that are unreadable or truncated"].found == 2
    assert (
        found["images that are unreadable or truncated"].examples[0].startswith(f"{names[1]}: the JPEG file is trunc")
    )
    assert found["images of another size (height x width) than listed"].examples == (
        f"{names[5]}: 30 x 31 instead of 80 x 60",
    )
    assert found["equal files with different labels"].found == 2
    assert found["equal files with different labels"].examples[0] in (
        f"{names[6]} = {names[10]}",
        f"{names[3]} = {names[7]}",
    )
    assert found["equal files within a split"].harmless
    assert "equal files in train and test" not in found
    shutil.copy(images / names[8], images / names[9])
    shutil.copy(images / names[8], images / names[11])
    assert found.keys() | {"equal files in train and test"} == _found(_cub(cub)).keys()


def test_boxes_and_landmarks_outside_of_their_image_are_found(cub, monkeypatch):
    boxes, parts = cub / "CUB_200_2011/bounding_boxes.txt", cub / "CUB_200_2011/parts/part_locs.txt"
    lines = boxes.read_text().splitlines()
    lines[1] = "2 -3.0 5.0 20.0 20.0"  # 80 x 60
    lines[2] = "3 70.0 5.0 13.9 20.0"  # 61 x 83: out by 0.9, tolerated
    boxes.write_text("\n".join(lines) + "\n")
    marks = parts.read_text().splitlines()
    marks[1] = "1 2 10.0 62.0 1"  # 60 x 80
    marks[2] = "1 3 10.0 99.0 0"  # not visible
    parts.write_text("\n".join(marks) + "\n")
    monkeypatch.setattr(CUB200, "known_outside", {})
    found = _found(_cub(cub))
    assert {what: finding.found for what, finding in found.items()} == {
        "boxes more than 1 px outside of their image": 1,
        "landmarks more than 1 px outside of their image": 1,
    }
    assert [finding.examples for finding in found.values()] == [
        ("001.Bird_0/Bird_0_1.jpg: -3 5 17 25",),
        ("001.Bird_0/Bird_0_0.jpg: beak at 10 62",),
    ]
    assert not check(_cub(cub)).is_good
    monkeypatch.setattr(CUB200, "known_outside", {"boxes": 1, "landmarks": 1})
    assert check(_cub(cub)).is_good


def test_a_contact_sheet_that_cannot_be_is_refused_with_its_reason(cub):
    with pytest.raises(ValueError, match=r"x\.foo: the picture is a PNG, so its name must end in \.png"):
        contact_sheet(_cub(cub), cub / "x.foo")
    with pytest.raises(ValueError, match=r"there is no val image: set val_fraction"):
        contact_sheet(_cub(cub), cub / "x.png", "val")


def test_the_command_line_prepares_checks_and_says_what_is_wrong(cub, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main(["data", *arguments, "--machine.data_root", str(cub), "--data.init_args.classes", "3"])
        return end.value.code, capsys.readouterr()

    assert run("prepare", "cub200")[0] == 0
    code, shown = run("check", "cub200")
    assert code == 0
    assert f"digest {_cub(cub).digest()}" in shown.out
    assert "cub200: nothing is wrong" in shown.out
    image = cub / "CUB_200_2011/images/001.Bird_0/Bird_0_1.jpg"
    image.write_bytes(image.read_bytes()[:-100])
    code, shown = run("check", "cub200")
    assert code == 1
    assert "unreadable or truncated: 001.Bird_0/Bird_0_1.jpg" in shown.out
    code, shown = run("show", "cub200", "--split", "fit", "--output", str(cub / "x.png"))
    assert code == 1
    assert re.fullmatch(r"fgbench: cub200: .*Bird_0_1\.jpg: the JPEG file is truncated.*\n", shown.err)
    (cub / "CUB_200_2011").rename(cub / "CUB")
    for action in ("check", "prepare", "show"):
        code, shown = run(action, "cub200")
        assert code == 1
        assert "fgbench: " in shown.err
        assert "Traceback" not in shown.err


def test_a_link_is_no_copy_of_an_original_that_grew(tmp_path):
    source, copy = tmp_path / "original.jpg", tmp_path / "copy.jpg"
    source.write_bytes(b"small")
    os.link(source, copy)
    assert _is_copy(source, copy, small=True)
    source.write_bytes(b"larger, in place")
    assert not _is_copy(source, copy, small=False)
