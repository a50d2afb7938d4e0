"""Pictures of run folders as small JPEGs inside the page, within a limit of bytes."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from fgbench.leaderboard import Entry
from fgbench.result import Result

WIDTH = 720  # pixels; what is smaller stays as it is
QUALITIES = (75, 55, 35)
LARGEST = 300_000  # bytes of one picture; what is larger at the lowest quality is left out


@dataclass(frozen=True)
class Picture:
    """A picture inside the page."""

    caption: str
    uri: str
    width: int
    height: int


def pictures(rows: Sequence[Entry], runs: Path, budget: int) -> tuple[list[Picture], int, int]:
    """The figures of each setting's first run that has some.

    Args:
        rows: settings.
        runs: the folder of run folders: ``<runs>/<dataset>/<name>/figures/*.png``.
        budget: bytes that all pictures together may take.

    Returns:
        The pictures, the bytes that they took, and how many there was no room for.
    """
    found: list[Picture] = []
    used = left_out = 0
    for entry in rows:
        run, files = _files(entry, runs)
        for path in files:
            made = small(path)
            if made is None or used + len(made[0]) > budget:
                left_out += 1
                continue
            used += len(made[0])
            uri = f"data:image/jpeg;base64,{base64.b64encode(made[0]).decode()}"
            found.append(Picture(f"{entry.label}, seed {run.seed}: {path.stem.replace('_', ' ')}", uri, *made[1:]))
    return found, used, left_out


def _files(entry: Entry, runs: Path) -> tuple[Result, list[Path]]:
    for run in entry.runs:
        if files := sorted((runs / run.dataset / run.name / "figures").glob("*.png")):
            return run, files
    return entry.run, []


def small(path: Path) -> tuple[bytes, int, int] | None:
    """A picture as a JPEG, its width and height; None if it cannot be read or does not become small enough."""
    image = cv2.imread(str(path))
    if image is None:
        return None
    if image.shape[1] > WIDTH:
        height = round(image.shape[0] * WIDTH / image.shape[1])
        image = cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA)
    for quality in QUALITIES:
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if done and len(data) <= LARGEST:
            return data.tobytes(), image.shape[1], image.shape[0]
    return None
