"""What the makers of a dataset distribute, and how it is unpacked: each file whole or not there, and never outside.

Archives are data from elsewhere: at a member with an absolute path, with ``..``, a link or a device unpacking stops,
and that member is not written. A file that is there is compared with what the archive has and written again where they
differ; only when an unpacking of the same archive goes on, the size of what was written since it began is enough.

A compressed archive is read to the last byte of its file, since its check sum is there: what was written before may
hold wrong bytes when this fails, and the next unpacking compares it.
"""

import bz2
import gzip
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from fgbench.data.text import DataError

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_CHUNK, _BLOCK, _RECORD = 1 << 20, 512, 10240  # bytes read at once; a block and a record of a tar file
_OPEN: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}  # by what files begin with


class DamagedArchiveError(DataError):
    """An archive is not whole: what was unpacked from it may be wrong."""


@dataclass(frozen=True)
class Archive:
    """One file as its makers distribute it, under its official name.

    Attributes:
        name: of the file: ``.zip``, ``.tar``, ``.tar.gz``, ``.tgz``, ``.tar.bz2``, ``.tar.xz``; any other suffix
            (``.mat``, ``.txt``) is a file that is copied as it is.
        holds: a file or folder, relative to the folder of all datasets, that is there once this is unpacked, so that
            a tree which was unpacked by hand is recognised.
        into: where it is unpacked, relative to the folder of all datasets; empty for that folder itself.
        url: where to get it.
        size_gb: of the download, 10^9 bytes.
        optional: whether the dataset can be read without it.
        nested: whether its members are ``.tar`` files that are unpacked in turn, each into a folder of its own name
            (ImageNet's training images).
    """

    name: str
    holds: str
    into: str = ""
    url: str = ""
    size_gb: float = 0.0
    optional: bool = False
    nested: bool = False


@dataclass(frozen=True)
class _Member:
    """A file in an archive; ``kind`` says what it is when it is none, ``open`` gives its bytes as a file."""

    name: str
    size: int
    kind: str
    open: Callable[[], Any]


def is_plain(name: str) -> bool:
    """Whether a file of this name is no archive, but copied as it is."""
    return not name.lower().endswith((*_TAR, ".zip"))


def unpack(
    archive: Archive,
    source: Path,
    root: Path,
    tick: Callable[[int], None] = lambda size: None,
    since: int | None = None,
) -> int:
    """Unpack one archive.

    Args:
        archive: what it is.
        source: the file.
        root: folder of all datasets.
        tick: called with the bytes of each file, written or already there.
        since: when an unpacking of this very file began, which now goes on, ns: files written since then are not
            compared, their size is enough. None compares all that are there.

    Returns:
        The number of files written; those that were there and are the same do not count.

    Raises:
        DamagedArchiveError: the archive is damaged or incomplete.
        DataError: it wants to write elsewhere, or a file cannot be written. Files unpacked so far stay.
    """
    base, home = root / archive.into, archive.url or "its home"
    try:
        if is_plain(source.name):
            size = source.stat().st_size
            written = _write(base / archive.name, size, lambda: source.open("rb"), None)
            tick(size)
            return int(written)
        return _unpack_members(_members(source), base, source, archive.nested, tick, since)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, lzma.LZMAError, zlib.error, struct.error) as error:
        problem: Exception = error
    except NotImplementedError as error:  # zipfile: a damaged header, or a compression that Python has not
        problem = error
    except OSError as error:
        if error.errno is not None:
            raise DataError(f"{source}: could not be unpacked ({error})") from None
        problem = error  # gzip's and bz2's word for damage
    raise DamagedArchiveError(
        f"{source}: the archive is damaged or incomplete ({problem}), and what was unpacked from it may be wrong; "
        f"get it again from {home}"
    )


def _unpack_members(
    members: Iterator[_Member],
    base: Path,
    source: Path,
    nested: bool,
    tick: Callable[[int], None],
    since: int | None,
) -> int:
    written, known = 0, {base}
    for member in members:
        path = base / _safe(member, source)
        if nested:
            with member.open() as file, _open_tar(file) as inner:
                written += _unpack_members(_tar_members(inner), path.with_suffix(""), source, False, tick, since)
            continue
        if path.parent not in known:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.resolve().is_relative_to(base.resolve()):
                raise DataError(f"{source}: {member.name} would be written through a link to {path.parent.resolve()}")
            known.add(path.parent)
        written += _write(path, member.size, member.open, since)
        tick(member.size)
    return written


def _members(source: Path) -> Iterator[_Member]:
    if source.name.lower().endswith(".zip"):
        with zipfile.ZipFile(source) as file:
            for info in file.infolist():
                mode = info.external_attr >> 16
                kind = "link" if stat.S_ISLNK(mode) else "secret that asks for a password" if info.flag_bits & 1 else ""
                if not info.is_dir() or kind:
                    yield _Member(info.filename, info.file_size, kind, partial(file.open, info))
    else:
        with _content(source) as stream, _open_tar(stream) as file:
            yield from _tar_members(file)


def _content(source: Path) -> Any:
    """The bytes in a file that may be compressed, whatever its name says."""
    with source.open("rb") as file:
        start = file.read(6)
    for mark, opener in _OPEN.items():
        if start.startswith(mark):
            return opener(source, "rb")
    return source.open("rb")


class _Header(tarfile.TarInfo):
    """A member's header; ``tarfile`` itself takes a damaged one, and the end of the file, for the end of members."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile, /) -> Any:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no member and no end at byte {tarfile_.offset:,}: {error}") from None


def _open_tar(stream: Any) -> tarfile.TarFile:
    return tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK, tarinfo=_Header)


def _tar_members(file: tarfile.TarFile) -> Iterator[_Member]:
    """All members; then what follows them is read to the end of the stream, whose check sum is there."""
    while (info := file.next()) is not None:
        kind = "link" if info.issym() or info.islnk() else "" if info.isreg() else "device"
        if not info.isdir():
            yield _Member(info.name, info.size, kind, partial(_open, file, info))
        file.members = []  # type: ignore[attr-defined]  # it would remember half a million
    stream: Any = file.fileobj
    if stream.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError("its end has one block of zeros instead of two")
    stream.read(_RECORD)  # old tools filled the last record with what they had in memory
    while rest := stream.read(_CHUNK):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("there is more behind its end: a part of it is zeros")


def _open(file: tarfile.TarFile, info: tarfile.TarInfo) -> Any:
    content = file.extractfile(info)
    if content is None:
        raise tarfile.ReadError(f"{info.name} has no content")
    return content


def _safe(member: _Member, source: Path) -> PurePosixPath:
    """Where a member goes, relative to where the archive is unpacked.

    Raises:
        DataError: it is no file, or it would go elsewhere.
    """
    path = PurePosixPath(member.name)
    problem = f"is a {member.kind}" if member.kind else ""
    if path.is_absolute() or re.match(r"[A-Za-z]:", member.name) or "\\" in member.name:
        problem = "has an absolute or foreign path"
    elif ".." in path.parts:
        problem = "has a path that leads outside"
    elif not path.parts:
        problem = "has no name"
    if problem:
        raise DataError(
            f"{source}: member {member.name!r} {problem}; official archives have no such member. It was not written, "
            "nor was what follows it: get the archive again from its home"
        )
    return path


def _write(path: Path, size: int, content: Callable[[], Any], since: int | None) -> bool:
    """Write a file under another name and rename it; False where it is there already.

    Args:
        path: the file.
        size: its bytes.
        content: opens them.
        since: a file of the right size that was written since then is not compared; ns, None compares.
    """
    found = path.stat() if path.is_file() else None
    old = path if found and found.st_size == size else None
    if found and old and since is not None and found.st_mtime_ns >= since:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")  # one name: the next try writes over what a killed one left
    try:
        with content() as source:
            same, rest = _compare(source, old) if old else (0, b"")
            if old and same == size:
                return False
            with temporary.open("wb") as target:
                if old and same:  # the stream cannot be read twice, but what it had so far is in the old file
                    with old.open("rb") as begun:
                        while missing := same - target.tell():
                            target.write(begun.read(min(missing, _CHUNK)))
                target.write(rest)
                shutil.copyfileobj(source, target, _CHUNK)
        if temporary.stat().st_size != size:
            raise EOFError(f"{path.name} has {temporary.stat().st_size:,} of {size:,} bytes")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _compare(source: Any, path: Path) -> tuple[int, bytes]:
    """How many bytes of a stream are as in a file, and the piece that is not (empty at the end of the stream)."""
    same = 0
    with path.open("rb") as file:
        while piece := source.read(_CHUNK):
            if file.read(len(piece)) != piece:
                return same, piece
            same += len(piece)
    return same, b""
