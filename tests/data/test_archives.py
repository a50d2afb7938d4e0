"""Archives are unpacked whole, only below their folder, and go on where they were stopped."""

import io
import os
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from fgbench.data.archives import Archive, DamagedArchiveError, unpack
from fgbench.data.text import DataError

FILES = {"images/a/1.jpg": b"one" * 50_000, "images/b/2.jpg": os.urandom(80_000), "list.txt": b"a\n"}


def _tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(content, tarfile.TarInfo) else content
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def _zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def _files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _make(folder, name, members=FILES):
    if name.endswith(".zip"):
        return _zip(folder / name, members)
    modes = {".tar": "w", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz", ".gz": "w:gz"}
    return _tar(folder / name, members, modes[name[name.rindex(".") :]])


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_every_kind_gives_the_files_that_were_packed(tmp_path, name):
    source, root = _make(tmp_path, name), tmp_path / "data"
    assert unpack(Archive(name, "set/list.txt", into="set"), source, root) == 3
    assert _files(root) == {f"set/{path}": content for path, content in FILES.items()}
    assert unpack(Archive(name, "set/list.txt", into="set"), source, root) == 0  # again: nothing is written


def test_other_files_are_copied_as_they_are(tmp_path):
    (tmp_path / "labels.mat").write_bytes(b"MATLAB")
    assert unpack(Archive("labels.mat", "set/labels.mat", into="set"), tmp_path / "labels.mat", tmp_path / "data") == 1
    assert _files(tmp_path / "data") == {"set/labels.mat": b"MATLAB"}


def test_archives_in_an_archive_get_a_folder_each(tmp_path):
    inner = {
        name: _make(tmp_path, name, {f"{name[0]}_1.JPEG": name.encode()}).read_bytes() for name in ("n1.tar", "n2.tar")
    }
    source = _make(tmp_path, "train.tar", inner)
    assert unpack(Archive("train.tar", "train", into="train", nested=True), source, tmp_path / "data") == 2
    assert _files(tmp_path / "data") == {"train/n1/n_1.JPEG": b"n1.tar", "train/n2/n_1.JPEG": b"n2.tar"}


def _link(name, kind, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


BAD = {
    "absolute": {"/etc/evil": b"x"},
    "outside": {"a/../../evil": b"x"},
    "drive": {"C:/evil": b"x"},
    "backslash": {"..\\evil": b"x"},
    "symbolic link": {"evil": _link("evil", tarfile.SYMTYPE, "/etc/passwd")},
    "hard link": {"evil": _link("evil", tarfile.LNKTYPE, "ok.txt")},
    "device": {"evil": _link("evil", tarfile.CHRTYPE, "")},
}


@pytest.mark.parametrize("members", BAD.values(), ids=BAD)
def test_members_that_lead_elsewhere_are_refused_by_name(tmp_path, members):
    root = tmp_path / "data/deep"
    source = _make(tmp_path, "a.tar", {"ok.txt": b"fine", **members})
    with pytest.raises(DataError, match=r"a\.tar: member '.*evil' (has an?|is a) (absolute|path that|link|device)"):
        unpack(Archive("a.tar", "ok.txt"), source, root)
    assert _files(root) == {"ok.txt": b"fine"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "data"}


@pytest.mark.parametrize("name", ["../evil", "/evil", "link"])
def test_members_of_a_zip_that_lead_elsewhere_are_refused(tmp_path, name):
    info = zipfile.ZipInfo(name)
    if name == "link":
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match=r"a\.zip: member"):
        unpack(Archive("a.zip", "x"), tmp_path / "a.zip", tmp_path / "data/deep")
    assert not list((tmp_path / "data").rglob("*")) if (tmp_path / "data").exists() else True
    assert not (tmp_path / "evil").exists()


def test_a_link_that_lies_in_the_way_is_not_followed(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data/images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="through a link"):
        unpack(Archive("a.zip", "x"), _make(tmp_path, "a.zip"), tmp_path / "data")
    assert not any(path.is_file() for path in (tmp_path / "elsewhere").rglob("*"))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.xz"])
def test_half_an_archive_is_said_to_be_one_and_the_whole_one_goes_on(tmp_path, name):
    source, root = _make(tmp_path, name), tmp_path / "data"
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"damaged or incomplete .*; get it again from https://home"):
        unpack(Archive(name, "list.txt", url="https://home"), source, root)
    if root.exists():
        there = _files(root)
        assert all(there[path] == FILES[path] for path in there)  # what is there is whole
    source.write_bytes(whole)
    unpack(Archive(name, "list.txt"), source, root)
    assert _files(root) == FILES


def _flipped(content, position):
    return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]


@pytest.mark.parametrize("name", ["a.tgz", "a.tar.bz2", "a.tar.xz", "a.zip"])
def test_one_wrong_bit_is_never_taken_for_another_file(tmp_path, name):
    """Wherever it is: either the archive is refused, or the files are those that were packed."""
    source, refused = _make(tmp_path, name), 0
    whole = source.read_bytes()
    for i, position in enumerate(np.linspace(0, len(whole) - 1, 40).astype(int).tolist()):
        source.write_bytes(_flipped(whole, position))
        try:
            unpack(Archive(name, "list.txt"), source, tmp_path / f"data{i}")
        except DamagedArchiveError:
            refused += 1
        else:
            assert _files(tmp_path / f"data{i}") == FILES, position
    assert refused >= 36  # a few bits, of a time or of the system it was packed on, mean nothing


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tar: _flipped(tar, tar.index(b"images/b")), "no member and no end at byte"),
        (lambda tar: tar[: tar.rindex(b"a\n") + 512], "no member and no end at byte"),
        (lambda tar: tar[: tar.rindex(b"a\n") + 1024], "one block of zeros"),
        (lambda tar: tar[: 30 * 512] + bytes(310 * 512) + tar[340 * 512 :], "a part of it is zeros"),
    ],
    ids=["header", "no end", "half an end", "hole"],
)
def test_a_tar_file_that_ends_early_is_damaged(tmp_path, change, complaint):
    source = _make(tmp_path, "a.tar")
    source.write_bytes(change(source.read_bytes()))
    with pytest.raises(DamagedArchiveError, match=complaint):
        unpack(Archive("a.tar", "list.txt"), source, tmp_path / "data")


@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
def test_a_file_of_the_same_size_is_compared_and_replaced(tmp_path, name):
    root, large = tmp_path / "data", os.urandom(3_000_000)
    unpack(Archive(name, "x"), _make(tmp_path, name, {"list.txt": b"1 7\n", "b.bin": large, "c": b"c"}), root)
    changed = large[:2_500_000] + b"corrected" + large[2_500_009:]
    members = {"list.txt": b"1 8\n", "b.bin": changed, "c": b"c"}
    assert unpack(Archive(name, "x"), _make(tmp_path, name, members), root) == 2
    assert _files(root) == members


def test_only_what_was_written_since_unpacking_began_is_trusted_by_its_size(tmp_path):
    source, root = _make(tmp_path, "a.zip", {"old": b"new", "late": b"new"}), tmp_path / "data"
    root.mkdir()
    for name, time in (("old", 10), ("late", 30)):
        (root / name).write_bytes(b"???")
        os.utime(root / name, ns=(time, time))
    assert unpack(Archive("a.zip", "x"), source, root, since=20) == 1
    assert _files(root) == {"old": b"new", "late": b"???"}


def test_a_plain_file_of_the_same_size_is_replaced(tmp_path):
    archive, root = Archive("list.txt", "list.txt"), tmp_path / "data"
    for content in (b"1 7\n", b"1 8\n"):
        (tmp_path / "list.txt").write_bytes(content)
        assert unpack(archive, tmp_path / "list.txt", root, since=0) == 1
    assert _files(root) == {"list.txt": b"1 8\n"}


def test_a_folder_where_a_file_goes_is_named(tmp_path):
    (tmp_path / "data/list.txt").mkdir(parents=True)
    with pytest.raises(DataError, match=r"a\.zip: could not be unpacked .*list\.txt"):
        unpack(Archive("a.zip", "x"), _make(tmp_path, "a.zip"), tmp_path / "data")


def test_a_zip_with_a_password_is_refused(tmp_path):
    source = _make(tmp_path, "a.zip", {"a": b"x"})
    content = bytearray(source.read_bytes())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + at] |= 1
    source.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"a\.zip: member 'a' is a secret that asks for a password"):
        unpack(Archive("a.zip", "x"), source, tmp_path / "data")
