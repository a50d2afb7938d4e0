"""From the archives that the user has to a dataset that opens at once: unpack, copy smaller, index.

Every step can be killed and goes on where it stopped: files are renamed when they are whole, and what is there as it
should be is not made again. Nothing is downloaded. Beside the indices lie marks: ``<archive>.unpacking`` from the begin
of an unpacking to its good end, then ``<archive>.unpacked``, with size and time of the archive.
"""

import fcntl
import filecmp
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from fgbench.data.archives import Archive, DamagedArchiveError, is_plain, unpack
from fgbench.data.files import check_images
from fgbench.data.images import read_image
from fgbench.data.index import read_index, write_index
from fgbench.data.listed import Listed
from fgbench.data.listing import Listing
from fgbench.data.text import DataError

QUALITY = 95  # of copies that are JPEG
BLOCK = 1024  # images that are handed to the threads at once

Say = Callable[[str], None]
Steps = Callable[[str, int], "Tick"]
Tick = Callable[[int], None]
"""Progress: ``steps(what, total)`` gives a function that is called with what was done since."""


def no_progress(what: str, total: int) -> Tick:
    """Shows nothing."""
    return lambda done: None


def prepare(
    data: Listed,
    archives: Path | None = None,
    copies: bool = True,
    threads: int = 4,
    say: Say = print,
    steps: Steps = no_progress,
) -> Listing:
    """Make a dataset ready.

    Args:
        data: the datamodule.
        archives: folder of the official archives; None means ``archives`` in the folder of all datasets.
        copies: whether to make smaller copies where the protocol allows them.
        threads: that decode and write at once.
        say: is told what was done.
        steps: shows progress.

    Returns:
        What is listed now.

    Raises:
        DataError: something is missing, damaged, or does not belong there; names it and the remedy.
    """
    folder = archives or data.root / "archives"
    with _alone(data, folder):
        absent = [archive for archive in data.archives if not _unpacked(data, archive, folder, say, steps)]
        listing = _read(data, folder, absent, copies, say, steps)
        for archive in absent:
            say(f"{archive.name}: not there" + (", and not needed" if archive.optional else ", but its content is"))
        if copies and data.copy_short and not listing.copy_short:
            listing = make_copies(data, listing, threads, say, steps)
        if data.sources():
            cuts = sorted({0.0, data.val_fraction} | (set() if len(listing.rows("val")) else {0.1}))
            write_index(data.index_path(), listing, data.root, data.sources(), _possible(listing, cuts))
            say(f"{data.index_path()}: {len(listing.names):,} images")
        else:
            say(f"{data.name}: needs no index")
    return listing


def _possible(listing: Listing, cuts: Sequence[float]) -> list[float]:
    """Those of some validation cuts that take an image from some class."""
    groups = np.bincount(listing.target[listing.rows("train")]) if listing.target.ndim == 1 else len(listing.names)
    return [cut for cut in cuts if not cut or round(cut * int(np.max(groups)))]


@contextmanager
def _alone(data: Listed, folder: Path) -> Iterator[None]:
    """One preparation at a time in a folder of datasets; the system frees it, however this process ends.

    Raises:
        DataError: there is another one.
    """
    if not data.root.is_dir() and not any((folder / archive.name).is_file() for archive in data.archives):
        yield  # a wrong root stays as empty as it is
        return
    path = data.root / "index/.prepare"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{data.name}: another fgbench data prepare is running in {data.root}: wait for it, or stop it"
            ) from None
        except OSError:  # a disk without locks
            pass
        yield


def _read(data: Listed, folder: Path, absent: list[Archive], copies: bool, say: Say, steps: Steps) -> Listing:
    """The tree; mended from the archives where it is not whole; or the copies where only these were kept."""
    try:
        data.prepare_data()
        return data.read_sized()
    except DataError as error:
        problem = error
    kept = _kept_copies(data) if copies and data.copy_short else None
    if kept is not None:
        say(f"{kept.folder}: all copies are there, and no original")
        return kept
    marked = [archive for archive in data.archives if _is_marked(data, archive, folder)]
    try:
        if not marked:
            raise problem
        say(f"{problem} Unpacking once more what was unpacked before.")
        for archive in marked:
            _unpacked(data, archive, folder, say, steps, again=True)
        data.prepare_data()
        return data.read_sized()
    except DataError as error:
        needed = [archive for archive in absent if not archive.optional]
        raise DataError(f"{error}{_wish(needed, folder)}{_hint(data, copies)}") from None


def _kept_copies(data: Listed) -> Listing | None:
    """The listing of the copies where the originals were deleted; sizes of these are in the index before this one."""
    try:
        data.prepare_data()
        listing = data.read_lists()
        if any(listing.path(row).is_file() for row in range(len(listing.names))):
            return None
        part = _of_copies(data, listing)
        check_images(part)
        before = read_index(data.index_path(), data.root, "")
    except DataError:
        return None
    order = np.argsort(before.names)
    place = order[np.searchsorted(before.names[order], part.names).clip(max=len(order) - 1)]
    if before.sizes is None or (before.names[place] != part.names).any():
        return None
    return replace(part, sizes=before.sizes[place])


def _hint(data: Listed, copies: bool) -> str:
    folder = data.root / f"{data.name}_short{data.copy_short}"
    if not (copies and data.copy_short and folder.is_dir()):
        return ""
    return (
        f" {folder} has copies, but they can stand for the originals only where all are there, no original is, and the "
        f"index that was made with them is in {data.root / 'index'}: unpack the originals again."
    )


def _marks(data: Listed, archive: Archive) -> tuple[Path, Path]:
    """Says that an archive was unpacked, and that it is being unpacked."""
    folder, name = data.root / "index", f"{data.name}-{archive.name}"
    return folder / f"{name}.unpacked", folder / f"{name}.unpacking"


def _found(source: Path) -> str:
    return f"{source.stat().st_size} {source.stat().st_mtime_ns}\n"


def _is_marked(data: Listed, archive: Archive, folder: Path) -> bool:
    """Whether an archive is there and was unpacked before."""
    source, (mark, _) = folder / archive.name, _marks(data, archive)
    there = source.is_file() and (data.root / archive.holds).exists() and not is_plain(archive.name)
    return there and mark.is_file() and mark.read_text() == _found(source)


def _unpacked(data: Listed, archive: Archive, folder: Path, say: Say, steps: Steps, again: bool = False) -> bool:
    """Unpack an archive that is there and was not unpacked before; whether its content is there now."""
    source, (mark, begun) = folder / archive.name, _marks(data, archive)
    if not source.is_file():
        if begun.is_file():
            raise DataError(
                f"{data.name}: {archive.name} was damaged, or its unpacking was stopped, so what it left may be wrong: "
                f"put it whole into {folder} ({archive.url or 'from its home'}) and prepare again; or delete {begun} "
                "if the tree was mended otherwise"
            )
        return (data.root / archive.holds).exists()
    if not again and _is_marked(data, archive, folder):
        say(f"{archive.name}: was unpacked before")
        return True
    found, since = _found(source), None
    if begun.is_file() and begun.read_text() == found:
        since = begun.stat().st_mtime_ns
    else:
        _write_mark(begun, found)
    mark.unlink(missing_ok=True)
    try:
        written = unpack(archive, source, data.root, steps(archive.name, 0), since)
    except DamagedArchiveError as error:
        _write_mark(begun, "damaged\n")  # sizes say nothing of what it left
        raise DataError(f"{data.name}: {error}") from None
    except DataError as error:
        raise DataError(f"{data.name}: {error}") from None
    begun.unlink()
    if not (data.root / archive.holds).exists():
        raise DataError(
            f"{data.name}: {source}: was unpacked, but {data.root / archive.holds} is still not there: is it the "
            f"official archive? Get it again from {archive.url or 'its home'}"
        )
    _write_mark(mark, found)
    say(f"{archive.name}: {written:,} files written")
    return True


def _write_mark(path: Path, text: str) -> None:
    with whole(path) as temporary:
        temporary.write_text(text)


def _wish(archives: list[Archive], folder: Path) -> str:
    if not archives:
        return ""
    names = ", ".join(f"{a.name}{f' ({a.url})' if a.url else ''}" for a in archives)
    return f" fgbench data prepare can unpack it: put into {folder}: {names}."


def make_copies(
    data: Listed, listing: Listing, threads: int = 4, say: Say = print, steps: Steps = no_progress
) -> Listing:
    """Copies whose short side is ``data.copy_short`` at most, beside the originals; smaller images are linked to.

    Returns:
        The same listing, of the copies; boxes and landmarks stay in pixels of the originals.
    """
    part = _of_copies(data, listing)
    stored, tick, written = part.stored_sizes(), steps(f"copies, {data.copy_short} px", len(part.names)), 0
    small = (stored == part.sizes).all(axis=1)

    def copy(row: int) -> bool:
        source, target = listing.path(row), part.path(row)
        if _is_copy(source, target, bool(small[row])):
            return False
        height, width = stored[row].tolist()
        _copy(source, target, (width, height))
        return True

    for folder in {os.path.dirname(part.name(row)) for row in range(len(part.names))}:
        (part.folder / folder).mkdir(parents=True, exist_ok=True)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(part.names), BLOCK):
                rows = range(start, min(start + BLOCK, len(part.names)))
                written += sum(pool.map(copy, rows))
                tick(len(rows))
    except (OSError, ValueError) as error:
        raise DataError(f"{data.name}: {error}") from None
    say(f"{part.folder}: {written:,} copies written, {len(part.names) - written:,} were there")
    return part


def _of_copies(data: Listed, listing: Listing) -> Listing:
    return replace(listing, folder=data.root / f"{data.name}_short{data.copy_short}", copy_short=data.copy_short)


def _is_copy(source: Path, target: Path, small: bool) -> bool:
    """Whether there is a copy of an original as it is now: a small one is the same file, others have its time."""
    if not target.is_file():
        return False
    if small:
        return target.samefile(source) or filecmp.cmp(source, target, shallow=False)
    # a link stays from when the original was small
    return not target.samefile(source) and target.stat().st_mtime_ns == source.stat().st_mtime_ns


def _copy(source: Path, target: Path, size: tuple[int, int]) -> None:
    """One copy of ``size`` (width, height); it gets the time of the original, to be known for its copy."""
    image = read_image(source)
    with whole(target) as temporary:
        if image.shape[1::-1] == size:
            temporary.unlink(missing_ok=True)
            try:
                os.link(source, temporary)
            except OSError:  # another disk, or one without links
                shutil.copyfile(source, temporary)
            return
        small = cv2.resize(image[..., ::-1], size, interpolation=cv2.INTER_AREA)
        done, packed = cv2.imencode(target.suffix, small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        if not done:
            raise OSError(f"{target}: OpenCV could not encode the copy")
        temporary.write_bytes(packed.tobytes())
        found = source.stat()
        os.utime(temporary, ns=(found.st_atime_ns, found.st_mtime_ns))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to be written, which takes its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")  # one name: the next try writes over what a killed one left
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
