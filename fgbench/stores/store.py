"""Rows on disk that are whole or not there: written by several processes, killed at any moment, read by many.

A row is written, then forced to disk, then entered in the journal with its check sum; so what the journal names is
there, and what a killed process left half-way is not named. A reader looks at each row's check sum once, when it
first reads it: a file that was torn later (a copy that broke off, a bad disk) is refused by name, never used.

One run at a time fills a store (``hold``); the processes of that run each write rows of their own, and each has a
journal of its own, so that no two ever write to one place.
"""

import contextlib
import fcntl
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped
from numpy import ndarray
from numpy.lib import format as npy

from fgbench.result import digest, write_atomically

FORMAT = 1  # of the files below; part of every key
RECORD = np.dtype([("row", "<i8"), ("sum", "<u4"), ("mark", "<u4")])
MARK = 0xF96B5701  # ends each record: half of one is no record
GB = 1e9


class StoreError(RuntimeError):
    """A store that cannot be made or used; the message names the file and what to do."""


def name_of(name: str, key: Mapping[str, Any]) -> str:
    """The folder of a store: ``maps-0123456789ab``."""
    return f"{name}-{digest({**key, 'format': FORMAT})}"


def _again(folder: Path) -> str:
    return f"remove the folder {folder}: it is made again"


class StoreReader:
    """Finished rows, by number.

    A pickled copy (for a worker process) opens the files anew.

    Args:
        folder: of the store.

    Raises:
        StoreError: there is none, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "rows.npy"
        if not (folder / "key.json").is_file():
            raise StoreError(f"{folder}: there is no such store; the phase `prepare` makes it: give the run's command")
        try:
            with path.open("rb") as file:
                version = npy.read_magic(file)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = read(file)
                self.offset = file.tell()
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: not the rows of a store ({error}); {_again(folder)}") from None
        self.count, self.shape, self.dtype = int(shape[0]), tuple(shape[1:]), dtype
        self.row_bytes = int(np.prod(self.shape, dtype=np.int64)) * dtype.itemsize
        expected, found = self.offset + self.count * self.row_bytes, path.stat().st_size
        if found != expected:
            raise StoreError(f"{path}: {found:,} bytes where {expected:,} are expected: torn; {_again(folder)}")
        self._open()

    def _open(self) -> None:
        self._rows = np.memmap(self.folder / "rows.npy", self.dtype, "r", self.offset, (self.count, *self.shape))
        self._done = np.zeros(self.count, np.bool_)
        self._sums = np.zeros(self.count, np.uint32)
        self._seen = np.zeros(self.count, np.bool_)
        for path in sorted(self.folder.glob("done-*.bin")):
            raw = path.read_bytes()
            records = np.frombuffer(raw[: len(raw) // RECORD.itemsize * RECORD.itemsize], RECORD)
            rows = records["row"]
            if (records["mark"] != MARK).any() or (rows < 0).any() or (rows >= self.count).any():
                raise StoreError(f"{path}: damaged; {_again(self.folder)}")
            self._done[rows] = True
            self._sums[rows] = records["sum"]  # of a row that was written twice, the last

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def missing(self, rows: Int[ndarray, " n"]) -> Int[ndarray, " m"]:
        """Those of the rows that are not finished."""
        left: ndarray = rows[~self._done[rows]]
        return left

    def read(self, row: int) -> Shaped[ndarray, "..."]:
        """One finished row, a view of the file; not to be written to.

        Raises:
            StoreError: it is not finished, or its bytes are not those that were written.
        """
        found: ndarray = np.asarray(self._rows[row])
        if not self._seen[row]:
            if not self._done[row]:
                raise StoreError(f"{self.folder}: row {row} is not there; give the run's command: `prepare` goes on")
            if zlib.crc32(np.ascontiguousarray(found).data) != self._sums[row]:
                raise StoreError(f"{self.folder / 'rows.npy'}: row {row} is damaged; {_again(self.folder)}")
            self._seen[row] = True
        return found


class StoreWriter:
    """What one process writes to a store that it, or its run, holds.

    Args:
        folder: of the store, made by ``create``.
        process: number of this process; each has a journal of its own.
    """

    def __init__(self, folder: Path, process: int = 0) -> None:
        self.reader = StoreReader(folder)
        self._rows = os.open(folder / "rows.npy", os.O_WRONLY)
        journal = folder / f"done-{process}.bin"
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT)
        whole = journal.stat().st_size // RECORD.itemsize * RECORD.itemsize
        os.ftruncate(self._journal, whole)  # a kill may have left half a record
        os.lseek(self._journal, whole, os.SEEK_SET)

    @staticmethod
    def create(
        folder: Path,
        key: Mapping[str, Any],
        count: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        cap_gb: float,
        advice: str = "",
    ) -> None:
        """Make an empty store, or leave the one that is there.

        Args:
            folder: to be made, as ``name_of`` names it.
            key: everything that can change a value; written beside the rows.
            count: rows to have room for; those that are never written take no room on disk.
            shape: of a row.
            dtype: of a row.
            cap_gb: most that all stores beside this one, and this one, may take; 10^9 bytes.
            advice: what else than a higher cap or fewer stores helps; only who fills the store knows its options.

        Raises:
            StoreError: that is too much for the cap or for the disk.
        """
        if (folder / "key.json").exists():
            return
        need = count * int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        _check_room(folder, need, cap_gb, advice)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("done-*.bin"):
            old.unlink()
        rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", dtype, (count, *shape))
        del rows
        text = json.dumps({**key, "format": FORMAT}, indent=1, sort_keys=True)
        write_atomically(folder / "key.json", text.encode())  # last: with it the store is there

    def write(self, rows: Int[ndarray, " n"], values: Shaped[ndarray, "n ..."]) -> None:
        """Write rows and enter them in the journal.

        Raises:
            StoreError: the disk is full, a value does not fit the store, or the rows are of another shape.
        """
        reader = self.reader
        if values.shape[1:] != reader.shape or values.dtype != reader.dtype:
            raise StoreError(
                f"{reader.folder}: rows of {values.shape[1:]} {values.dtype} where it has {reader.shape} {reader.dtype}"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise StoreError(f"{reader.folder}: a value is not finite in {values.dtype}; the network is at fault")
        records = np.zeros(len(rows), RECORD)
        records["row"], records["mark"] = rows, MARK
        try:
            for place, (row, value) in enumerate(zip(rows.tolist(), np.ascontiguousarray(values), strict=True)):
                _write_all(self._rows, value.data.cast("B"), reader.offset + row * reader.row_bytes)
                records["sum"][place] = zlib.crc32(value.data)
            os.fdatasync(self._rows)
            _append_all(self._journal, memoryview(records.tobytes()))
        except OSError as error:
            raise StoreError(
                f"{reader.folder}: could not be written ({error.strerror}); free space and give the same command: "
                "finished rows stay"
            ) from None

    def close(self) -> None:
        """Force the journal to disk."""
        os.fsync(self._journal)
        os.close(self._journal)
        os.close(self._rows)


def _write_all(handle: int, data: memoryview, place: int) -> None:
    while len(data):
        written = os.pwrite(handle, data, place)
        data, place = data[written:], place + written


def _append_all(handle: int, data: memoryview) -> None:
    while len(data):  # half a record would make all later ones unreadable
        data = data[os.write(handle, data) :]


def _check_room(folder: Path, need: int, cap_gb: float, advice: str) -> None:
    """Refuse a store that is too large before the first image is looked at."""
    stores = folder.parent
    stores.mkdir(parents=True, exist_ok=True)
    others = {store.name: _used(store) for store in sorted(stores.iterdir()) if store.is_dir() and store != folder}
    used, free = sum(others.values()), shutil.disk_usage(stores).free
    listed = "".join(f"\n  {size / GB:8.2f} GB  {stores / name}" for name, size in others.items())
    if used + need > cap_gb * GB:
        raise StoreError(
            f"{folder}: needs {need / GB:.2f} GB; with the {used / GB:.2f} GB of other stores that is more than "
            f"machine.store_gb, {cap_gb:g}. Raise it (--machine.store_gb)"
            f"{f', {advice},' if advice else ''} or remove stores that no run needs{listed}"
        )
    if need > free:
        raise StoreError(f"{folder}: needs {need / GB:.2f} GB and the disk has {free / GB:.2f} GB left{listed}")


def _used(folder: Path) -> int:
    """Bytes on disk, and those that a store which is being filled will take: rows not yet written take none now."""
    return sum(max(512 * (of := file.stat()).st_blocks, of.st_size) for file in folder.iterdir() if file.is_file())


@contextlib.contextmanager
def hold(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Fill a store alone: another run that wants the same one waits here, and then finds it filled."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{folder}: another run fills it; waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough: a forked worker has a copy of the handle
