"""From the archives that the user has to a dataset that opens at once: unpack, copy smaller, index.

Every step can be killed and goes on where it stopped: files are renamed when they are whole, and what is there is not
made again. Nothing is downloaded.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2

from fgbench.data.archives import Archive, unpack
from fgbench.data.base import BenchDataModule
from fgbench.data.images import read_image
from fgbench.data.index import write_index
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
    data: BenchDataModule,
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
    absent = [archive for archive in data.archives if not _unpacked(data, archive, folder, say, steps)]
    try:
        data.prepare_data()
        listing = data.read_sized()
    except DataError as error:
        needed = [archive for archive in absent if not archive.optional]
        raise DataError(f"{error}{_wish(needed, folder)}") from None
    for archive in absent:
        say(f"{archive.name}: not there" + (", and not needed" if archive.optional else ", but its content is"))
    if copies and data.copy_short:
        listing = make_copies(data, listing, threads, say, steps)
    if data.sources():
        write_index(data.index_path(), listing, data.root, data.sources())
        say(f"{data.index_path()}: {len(listing.names):,} images")
    else:
        say(f"{data.name}: needs no index")
    return listing


def _unpacked(data: BenchDataModule, archive: Archive, folder: Path, say: Say, steps: Steps) -> bool:
    """Unpack an archive that is there and was not unpacked before; whether its content is there now."""
    source = folder / archive.name
    mark = data.root / "index" / f"{data.name}-{archive.name}.unpacked"
    if not source.is_file():
        return (data.root / archive.holds).exists()
    found = f"{source.stat().st_size} {source.stat().st_mtime_ns}\n"
    if mark.is_file() and mark.read_text() == found and (data.root / archive.holds).exists():
        say(f"{archive.name}: was unpacked before")
        return True
    try:
        written = unpack(archive, source, data.root, steps(archive.name, 0))
    except DataError as error:
        raise DataError(f"{data.name}: {error}") from None
    if not (data.root / archive.holds).exists():
        raise DataError(
            f"{data.name}: {source}: was unpacked, but {data.root / archive.holds} is still not there: is it the "
            f"official archive? Get it again from {archive.url or 'its home'}"
        )
    with whole(mark) as temporary:
        temporary.write_text(found)
    say(f"{archive.name}: {written:,} files written")
    return True


def _wish(archives: list[Archive], folder: Path) -> str:
    if not archives:
        return ""
    names = ", ".join(f"{a.name}{f' ({a.url})' if a.url else ''}" for a in archives)
    return f" fgbench data prepare can unpack it: put into {folder}: {names}."


def make_copies(
    data: BenchDataModule, listing: Listing, threads: int = 4, say: Say = print, steps: Steps = no_progress
) -> Listing:
    """Copies whose short side is ``data.copy_short`` at most, beside the originals; smaller images are linked to.

    Returns:
        The same listing, of the copies; boxes and landmarks stay in pixels of the originals.
    """
    part = replace(listing, folder=data.root / f"{data.name}_short{data.copy_short}", copy_short=data.copy_short)
    stored, tick, written = part.stored_sizes(), steps(f"copies, {data.copy_short} px", len(part.names)), 0

    def copy(row: int) -> bool:
        target = part.path(row)
        if target.exists():
            return False
        height, width = stored[row].tolist()
        _copy(listing.path(row), target, (width, height))
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


def _copy(source: Path, target: Path, size: tuple[int, int]) -> None:
    """One copy of ``size`` (width, height)."""
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
