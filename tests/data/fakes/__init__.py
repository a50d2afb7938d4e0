"""Tiny trees exactly as the authors distribute them: file names, formats, encodings, quirks. The only source of fakes.

A new dataset adds a module of its name with ``FAKE``, and so is under every contract test.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from fgbench.data import DATASETS


@dataclass(frozen=True)
class Fake:
    """A tree, and where to hurt it. Paths are relative to the root of all datasets.

    Attributes:
        write: makes the tree in a root.
        arguments: of the datamodule, for a tree as small as this.
        folder: of images: renamed, all images are absent.
        image: of a train or test split.
        annotation: a file that a half-unpacked archive lacks.
        text: a text list, None where there is none.
        empty: takes every test image off the lists.
        rewritten: whether a damaged tree is made anew, not complained of.
    """

    write: Callable[[Path], None]
    folder: str = ""
    image: str = ""
    annotation: str = ""
    text: str | None = None
    empty: Callable[[Path], None] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    rewritten: bool = False


class _Fakes(Mapping[str, Fake]):
    """The fake of every dataset of the suite; one without a fake is a failing test."""

    def __getitem__(self, name: str) -> Fake:
        found: Fake = import_module(f"fakes.{name}").FAKE
        return found

    def __iter__(self):
        return iter(DATASETS)

    def __len__(self) -> int:
        return len(DATASETS)


FAKES = _Fakes()


def edit_lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Rewrite a text file."""
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
