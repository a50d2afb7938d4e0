"""What the makers of a dataset distribute, and how it is unpacked: each file whole or not there, and never outside.

Archives are data from elsewhere: a member with an absolute path, with ``..``, a link or a device is refused, and
nothing of it is written. A file that is there in its full size is not written again, so a killed unpacking goes on.
"""

import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any

from fgbench.data.text import DataError

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


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


def unpack(archive: Archive, source: Path, root: Path, tick: Callable[[int], None] = lambda size: None) -> int:
    """Unpack one archive.

    Args:
        archive: what it is.
        source: the file.
        root: folder of all datasets.
        tick: called with the bytes of each file, written or already there.

    Returns:
        The number of files written.

    Raises:
        DataError: the archive is damaged or incomplete, or wants to write elsewhere; files unpacked so far stay.
    """
    base = root / archive.into
    if not source.name.lower().endswith((*_TAR, ".zip")):
        size = source.stat().st_size
        with source.open("rb") as file:
            written = _write(base / archive.name, size, lambda: file)
        tick(size)
        return int(written)
    try:
        return _unpack_members(_members(source), base, source, archive.nested, tick)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, LZMAError, zlib.error) as error:
        raise DataError(
            f"{source}: the archive is damaged or incomplete ({error}); get it again from {archive.url or 'its home'}"
        ) from None


def _unpack_members(
    members: Iterator[_Member], base: Path, source: Path, nested: bool, tick: Callable[[int], None]
) -> int:
    written, known = 0, {base}
    for member in members:
        path = base / _safe(member, source)
        if nested:
            with member.open() as file, tarfile.open(fileobj=file, mode="r|") as inner:
                written += _unpack_members(_tar_members(inner), path.with_suffix(""), source, False, tick)
            continue
        if path.parent not in known:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.parent.resolve().is_relative_to(base.resolve()):
                raise DataError(f"{source}: {member.name} would be written through a link to {path.parent.resolve()}")
            known.add(path.parent)
        written += _write(path, member.size, member.open)
        tick(member.size)
    return written


def _members(source: Path) -> Iterator[_Member]:
    if source.name.lower().endswith(".zip"):
        with zipfile.ZipFile(source) as file:
            for info in file.infolist():
                mode = info.external_attr >> 16
                kind = "link" if stat.S_ISLNK(mode) else ""
                if not info.is_dir() or kind:
                    yield _Member(info.filename, info.file_size, kind, partial(file.open, info))
    else:
        with closing(tarfile.open(source, mode="r:*")) as file:
            yield from _tar_members(file)


def _tar_members(file: tarfile.TarFile) -> Iterator[_Member]:
    while (info := file.next()) is not None:
        kind = "link" if info.issym() or info.islnk() else "" if info.isreg() else "device"
        if not info.isdir():
            yield _Member(info.name, info.size, kind, partial(_open, file, info))
        file.members = []  # type: ignore[attr-defined]  # it would remember half a million


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
            f"{source}: member {member.name!r} {problem}; official archives have no such member. Nothing of it was "
            "written: get the archive again from its home"
        )
    return path


def _write(path: Path, size: int, content: Callable[[], Any]) -> bool:
    """Write a file under another name and rename it; False where it is there already."""
    if path.is_file() and path.stat().st_size == size:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")  # one name: the next try writes over what a killed one left
    try:
        with content() as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        if temporary.stat().st_size != size:
            raise EOFError(f"{path.name} has {temporary.stat().st_size:,} of {size:,} bytes")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True
