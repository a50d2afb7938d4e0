"""Other people's results: read with every check, added where they belong, nothing overwritten."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgbench.leaderboard.audit import Protocol, read_checked
from fgbench.leaderboard.comparison import predictions_path
from fgbench.leaderboard.files import RESULTS, read_results
from fgbench.leaderboard.settings import order
from fgbench.result import Result, ResultError, write_atomically


@dataclass
class Merged:
    """What became of the results of other folders.

    Attributes:
        added: new rows.
        same: results that were there already, the very same.
        conflicts: by file, in what it differs from the row that is there, which stays.
        refused: by file, why it cannot be a row.
    """

    added: list[Path] = field(default_factory=list)
    same: list[Path] = field(default_factory=list)
    conflicts: dict[Path, str] = field(default_factory=dict)
    refused: dict[Path, str] = field(default_factory=dict)


class _Rows:
    """The rows of a leaderboard, by what a new one is compared with."""

    def __init__(self, results: Iterable[Result]) -> None:
        self.by_name: dict[tuple[str, str], Result] = {}
        self.by_setting: dict[tuple[Any, ...], list[Result]] = {}
        self.protocol = Protocol()
        for result in results:
            self.add(result)

    def add(self, result: Result) -> None:
        self.by_name[result.dataset, result.name] = result
        self.by_setting.setdefault(order(result)[:-1], []).append(result)
        self.protocol.add(result)


def merge(folder: Path, others: Sequence[Path], *, dry_run: bool = False) -> Merged:
    """Add the results of other folders to a leaderboard; its tables are not rebuilt.

    Args:
        folder: the leaderboard's.
        others: leaderboard folders, or their ``results``.
        dry_run: look, but add nothing.

    Raises:
        ResultError: a folder holds no results.
    """
    merged, rows = Merged(), _Rows(read_results(folder).results)
    for other in others:
        inner = other / RESULTS
        results = inner if inner.is_dir() else other.resolve()
        paths = [path for path in sorted(results.glob("*/*.json")) if not path.name.startswith(".")]
        if not paths:
            raise ResultError(f"{other}: no results below; name a leaderboard's folder, or its results folder")
        for path in paths:
            _merge_one(path, folder, rows, merged, dry_run)
    return merged


def _merge_one(path: Path, folder: Path, rows: _Rows, merged: Merged, dry_run: bool) -> None:
    try:
        result = read_checked(path)
    except ResultError as error:
        merged.refused[path] = str(error)
        return
    there = rows.by_name.get((result.dataset, result.name))
    theirs, ours = path.with_suffix(".parquet"), predictions_path(folder, result)
    if there is not None:
        differ = [
            one.name for one in dataclasses.fields(Result) if getattr(there, one.name) != getattr(result, one.name)
        ]
        if not differ and ours.is_file() and ours.read_bytes() != theirs.read_bytes():
            differ = ["predictions"]
        if differ:
            merged.conflicts[path] = f"the row that is there differs in {', '.join(differ)}"
        else:
            merged.same.append(path)
        return
    if twin := _copied(theirs, result, rows, folder):
        merged.refused[path] = f"{path}: has the same predictions as {twin.name}: a copy is no second seed"
        return
    if mixed := rows.protocol.broken_by(result):
        merged.refused[path] = f"{path}: {'; '.join(mixed)}"
        return
    if not dry_run:
        try:
            _add(path, theirs, ours)
        except FileExistsError:
            merged.conflicts[path] = "another file of its name was there, or came at this moment"
            return
    rows.add(result)
    merged.added.append(path)


def _copied(theirs: Path, result: Result, rows: _Rows, folder: Path) -> Result | None:
    """The run of the same setting, of another seed, that said the very same of every image."""
    data = theirs.read_bytes()
    for row in rows.by_setting.get(order(result)[:-1], ()):
        there = predictions_path(folder, row)
        if there.is_file() and there.read_bytes() == data:
            return row
    return None


def _add(path: Path, theirs: Path, ours: Path) -> None:
    """The predictions first, for the JSON is the row's birth; its bytes stay in the schema they were written in."""
    data = theirs.read_bytes()
    try:
        write_atomically(ours, data, replace=False)
    except FileExistsError:
        if ours.read_bytes() != data:
            raise
    write_atomically(ours.with_suffix(".json"), path.read_bytes(), replace=False)
