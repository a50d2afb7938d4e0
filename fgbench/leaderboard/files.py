"""Result files in, results out; the committed tables made from them.

Any number of processes may add results and rebuild at the same time, without a lock: a result is one file that never
changes and appears whole; a table is replaced as a whole, and who has replaced it looks again, so that the last one to
write has seen every file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fgbench.leaderboard.block import BEGIN, refreshed
from fgbench.leaderboard.settings import order
from fgbench.leaderboard.tables import CSV, PUBLISHED, README, RESULTS, published, to_csv, to_markdown
from fgbench.result import Result, ResultError, read_result, write_atomically

__all__ = ["CSV", "PUBLISHED", "README", "RESULTS", "Rebuilt", "read_results", "rebuild"]

PROJECT = "../README.md"  # beside the leaderboard's folder
Stamp = tuple[int, int, int]  # size, time of the last change, number of the file


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild found: the results, and by file what is wrong with the damaged ones."""

    results: tuple[Result, ...]
    damaged: dict[Path, str] = field(default_factory=dict)


def read_results(folder: Path) -> Rebuilt:
    """Every result below ``folder/results``, in the leaderboard's order, and the files that hold none."""
    return _read(_snapshot(folder), {})


def _snapshot(folder: Path) -> dict[Path, Stamp]:
    """The result files, with what changes when somebody replaces one."""
    files = {}
    for path in sorted((folder / RESULTS).glob("*/*.json")):
        if path.name.startswith("."):
            continue
        try:
            status = path.stat()
        except FileNotFoundError:  # taken away in between
            continue
        files[path] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return files


def _read(files: Mapping[Path, Stamp], known: dict[tuple[Path, Stamp], Result]) -> Rebuilt:
    """Read what is not known yet; what is read becomes known."""
    results, damaged = [], {}
    for path, stamp in files.items():
        try:
            if (path, stamp) not in known:
                known[path, stamp] = read_result(path)
            results.append(known[path, stamp])
        except ResultError as error:
            damaged[path] = str(error)
    return Rebuilt(tuple(sorted(results, key=order)), damaged)


def rebuild(folder: Path) -> Rebuilt:
    """Make ``leaderboard.csv`` and ``README.md`` from all result files.

    Args:
        folder: the leaderboard's folder.

    Returns:
        What went in; a verb should end with a failure if ``damaged`` is not empty.
    """
    files, known = _snapshot(folder), dict[tuple[Path, Stamp], Result]()
    while True:
        rebuilt = _read(files, known)
        for name, text in derived(folder, rebuilt.results).items():
            if name != PROJECT or _text(folder / name) != text:  # people edit that file: left alone if all is well
                write_atomically(folder / name, text.encode())
        before, files = files, _snapshot(folder)
        if files == before:  # else somebody has added a result, and perhaps written a newer file than ours before ours
            return rebuilt


def derived(folder: Path, results: Sequence[Result]) -> dict[str, str]:
    """The committed tables, by the names of their files, as they should be.

    The project's README is among them if it lies beside the folder and has a place for a board (``block``).
    """
    found = {CSV: to_csv(results), README: to_markdown(results, published(folder))}
    text = _text(folder / PROJECT)
    if BEGIN.search(text):
        found[PROJECT] = refreshed(text, folder, results, str(folder / PROJECT))
    return found


def _text(path: Path) -> str:
    """A file's text; empty if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""
