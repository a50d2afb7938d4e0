"""Decoded images kept in memory that all worker processes of a loader share, filled as they are asked for.

What is kept is what comes before the first random choice: the image after the view's resize. A kept image is, byte for
byte, what reading it again would give.

The memory is anonymous and shared: workers that are forked later see what any of them has filled in, pages that nobody
has filled cost nothing, and no limit on files in memory applies. Two workers may fill in one image at the same time,
with the same bytes. The mark that an image is there is written after its bytes; between two looks at an image lies
an exchange of messages between processes, so no one can see the mark without the bytes.
"""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from numpy import ndarray


class PixelCache:
    """Room for some images of a listing.

    A pickled copy (workers that are spawned, not forked) has the same room, empty and of its own.

    Args:
        rows: the images to have room for.
        shapes: height and width of each of them, as they are kept.
        count: images of the listing.
    """

    def __init__(self, rows: Int[ndarray, " r"], shapes: Int[ndarray, "r 2"], count: int) -> None:
        self._place = np.full(count, -1, np.int64)
        self._place[rows] = np.arange(len(rows))
        self._shapes = shapes.astype(np.int64)
        self._start = np.concatenate([[0], np.cumsum(3 * self._shapes.prod(axis=1))])
        self._allocate()

    def _allocate(self) -> None:
        self._pixels = np.frombuffer(mmap.mmap(-1, max(1, int(self._start[-1]))), np.uint8)
        self._there = np.frombuffer(mmap.mmap(-1, max(1, len(self._shapes))), np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_pixels", "_there")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._allocate()

    def get(self, row: int) -> UInt8[ndarray, "h w 3"] | None:
        """The image, not to be written to; None if it is not there yet."""
        place = self._place[row]
        if place < 0 or not self._there[place]:
            return None
        kept: ndarray = self._pixels[self._start[place] : self._start[place + 1]]
        kept.flags.writeable = False
        return kept.reshape(*self._shapes[place], 3)

    def put(self, row: int, image: UInt8[ndarray, "h w 3"]) -> None:
        """Keep an image of the announced shape; one without room is left out."""
        place = self._place[row]
        if place < 0:
            return
        self._pixels[self._start[place] : self._start[place + 1]] = image.reshape(-1)
        self._there[place] = 1


def free_memory() -> int:
    """Bytes that can still be had: of the machine, or of the container if it allows less."""
    found = []
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(1024 * int(line.split()[1]))
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        most, now = _read(limit).strip(), _read(used).strip()
        if most.isdecimal() and now.isdecimal():
            found.append(max(0, int(most) - int(now)))
    return min(found, default=2**63 - 1)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
