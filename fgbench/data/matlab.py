"""MATLAB files of version 5 to 7, read without trust: any damage is a ``DataError``.

scipy.io.loadmat believes what a file says of its own types and sizes; one wrong byte in an annotation file can make it
read beyond its memory, which ends the process without a word. Here every size is checked against what is there. What
the datasets have is read (numbers, text, cells, structs); other classes of variables are refused by name, sparse and
complex numbers among them.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from fgbench.data.text import DataError

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_DOUBLE = 6
_COMPLEX = 0x08  # of the flags of a variable
_DEEPEST = 8  # cells in structs in cells; the datasets have three


class _DamageError(Exception):
    """What is wrong, in words."""


@dataclass(frozen=True)
class _Reader:
    """Elements of one byte order: ``<`` or ``>``."""

    order: str

    def elements(self, data: memoryview, align: bool = True) -> Iterator[tuple[int, memoryview]]:
        """Type and content of the elements that lie one after the other."""
        at = 0
        while at + 8 <= len(data):
            kind, size = struct.unpack_from(f"{self.order}II", data, at)
            start, step = at + 8, size
            if kind >> 16:  # a small element: its size is in the upper half, its content in the place of the size
                kind, size = kind & 0xFFFF, kind >> 16
                start, step = at + 4, 0
                if size > 4:
                    raise _DamageError(f"a small element of {size} bytes")
            if start + size > len(data):
                raise _DamageError(f"an element of {size:,} bytes where {len(data) - start:,} are left")
            yield kind, data[start : start + size]
            at += 8 + (-(-step // 8) * 8 if align else step)

    def variables(self, data: memoryview) -> Iterator[memoryview]:
        """The matrices of a file, unpacked (which compares their checksums)."""
        for kind, content in self.elements(data, align=False):
            if kind == _COMPRESSED:
                try:
                    whole = memoryview(zlib.decompress(content))
                except zlib.error as error:
                    raise _DamageError(f"a compressed variable that cannot be unpacked: {error}") from None
                kind, content = next(self.elements(whole), (0, whole))
            if kind != _MATRIX:
                raise _DamageError(f"an element of type {kind} where a variable is expected")
            yield content

    def head(self, content: memoryview) -> tuple[int, tuple[int, ...], str, list[tuple[int, memoryview]]]:
        """Class, shape and name of a matrix, and its other elements."""
        if not len(content):
            return _DOUBLE, (0, 0), "", []  # how MATLAB writes the empty matrix in a cell
        parts = list(self.elements(content))
        if len(parts) < 3 or parts[0][0] != 6 or len(parts[0][1]) != 8 or parts[1][0] != 5 or parts[2][0] not in (1, 2):
            raise _DamageError("a variable without flags, sizes and name")
        flags = self.numbers(*parts[0]).tolist()[0]
        shape = tuple(self.numbers(*parts[1]).tolist())
        if len(shape) < 2 or min(shape) < 0:
            raise _DamageError(f"a variable of shape {shape}")
        name = bytes(parts[2][1]).decode("latin-1")
        if flags >> 8 & _COMPLEX:
            raise _DamageError(f"complex numbers in {name!r}, which are not read")
        return flags & 0xFF, shape, name, parts[3:]

    def numbers(self, kind: int, content: memoryview) -> ndarray:
        """An element of numbers."""
        if kind not in _NUMBERS:
            raise _DamageError(f"an element of type {kind} where numbers are expected")
        dtype = np.dtype(self.order + _NUMBERS[kind])
        if len(content) % dtype.itemsize:
            raise _DamageError(f"{len(content)} bytes where numbers of {dtype.itemsize} bytes are expected")
        return np.frombuffer(content, dtype)

    def value(self, content: memoryview, deep: int = 0) -> Any:
        """A variable; one-element axes are dropped, single elements are themselves."""
        kind, shape, name, parts = self.head(content)
        if deep > _DEEPEST:
            raise _DamageError(f"variables more than {_DEEPEST} deep in each other")
        if kind == _CHAR:
            return self._text(shape, parts)
        if kind in _CLASSES:
            numbers = self.numbers(*parts[0]) if parts else np.zeros(0)
            return _squeezed(_shaped(numbers.astype(_CLASSES[kind], casting="unsafe"), shape))
        if kind == _CELL:
            return _squeezed(_shaped(self._objects(parts, deep), shape))
        if kind == _STRUCT:
            return _squeezed(self._struct(shape, parts, deep))
        raise _DamageError(f"a variable {name!r} of class {kind}, which is not read")

    def _objects(self, parts: list[tuple[int, memoryview]], deep: int) -> ndarray:
        found = np.empty(len(parts), object)
        for place, (kind, content) in enumerate(parts):
            if kind != _MATRIX:
                raise _DamageError(f"an element of type {kind} in a cell or struct")
            found[place] = self.value(content, deep + 1)
        return found

    def _text(self, shape: tuple[int, ...], parts: list[tuple[int, memoryview]]) -> Any:
        """One line of text as ``str``; several as an array of them."""
        if not parts or not prod(shape):
            return ""
        kind, content = parts[0]
        if kind not in _TEXT:
            raise _DamageError(f"an element of type {kind} where text is expected")
        wide = {"utf-16": "-le", "utf-32": "-le"} if self.order == "<" else {"utf-16": "-be", "utf-32": "-be"}
        try:
            text = bytes(content).decode(_TEXT[kind] + wide.get(_TEXT[kind], ""))
        except UnicodeDecodeError as error:
            raise _DamageError(f"text that is none ({error.reason})") from None
        if len(text) != prod(shape):
            raise _DamageError(f"a text of {len(text)} letters where {prod(shape)} are expected")
        lines = [
            "".join(line).rstrip() for line in np.array(list(text)).reshape(shape, order="F").reshape(-1, shape[-1])
        ]
        return lines[0] if len(lines) == 1 else np.array(lines)

    def _struct(self, shape: tuple[int, ...], parts: list[tuple[int, memoryview]], deep: int) -> ndarray:
        if len(parts) < 2 or parts[0][0] != 5 or len(parts[0][1]) != 4 or parts[1][0] not in (1, 2):
            raise _DamageError("a struct without names of its fields")
        width, raw = int(self.numbers(*parts[0])[0]), bytes(parts[1][1])
        if width < 1 or len(raw) % width:
            raise _DamageError(f"names of fields of {width} letters in {len(raw)} bytes")
        names = [raw[i : i + width].partition(b"\0")[0].decode("latin-1") for i in range(0, len(raw), width)]
        if len(set(names)) < len(names) or "" in names:
            raise _DamageError(f"a struct whose fields are called {names}")
        values = self._objects(parts[2:], deep)
        if len(values) != prod(shape) * len(names):
            raise _DamageError(f"{len(values):,} values in a struct of shape {shape} with {len(names)} fields")
        found = np.empty(prod(shape), [(name, object) for name in names])
        for place, name in enumerate(names):
            found[name] = values[place :: len(names)]
        return found.reshape(shape, order="F")


def read_matlab(path: Path, *names: str) -> tuple[ndarray, ...]:
    """Variables of a MATLAB file, at least one axis each.

    Raises:
        DataError: the file is missing or damaged, or has no such variable.
    """
    try:
        data = memoryview(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    try:
        reader = _Reader(_order(data))
        found, seen = {}, []
        for content in reader.variables(data[128:]):
            name = reader.head(content)[2]
            seen.append(name)
            if name in names:
                found[name] = reader.value(content)
    except _DamageError as error:
        raise DataError(f"{path}: not a MATLAB file, or damaged ({error}); unpack the archive again") from None
    for name in names:
        if name not in found:
            raise DataError(f"{path}: has no variable {name!r}, but {', '.join(filter(None, seen)) or 'nothing'}")
    return tuple(np.atleast_1d(found[name]) for name in names)


def _order(data: memoryview) -> str:
    """Byte order, from the end of the heading."""
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:128]))
    if order is None:
        raise _DamageError("no heading of MATLAB 5, 6 or 7")
    return order


def _shaped(values: ndarray, shape: tuple[int, ...]) -> ndarray:
    if len(values) != prod(shape):
        raise _DamageError(f"{len(values):,} values where the shape is {shape}")
    return values.reshape(shape, order="F")


def _squeezed(values: ndarray) -> Any:
    if not values.size:
        return values.reshape(-1)
    values = values.squeeze()
    return values if values.ndim or values.dtype.names else values[()]


def whole_numbers(path: Path, name: str, values: ndarray) -> Int64[ndarray, " n"]:
    """A variable or a field as whole numbers.

    Raises:
        DataError: an entry is no whole number; names it.
    """
    found = np.zeros(len(values), np.int64)
    for place, value in enumerate(values.tolist()):
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, int | float) or value != value // 1 or not abs(value) < 2**53:
            raise DataError(f"{path}: entry {place + 1} of {name!r} is no whole number, but {str(value)[:40]!r}")
        found[place] = int(value)
    return found


def texts(path: Path, name: str, values: ndarray) -> list[str]:
    """A variable or a field as text.

    Raises:
        DataError: an entry is no text; names it.
    """
    for place, value in enumerate(values.tolist()):
        if not isinstance(value, str) or not value:
            raise DataError(f"{path}: entry {place + 1} of {name!r} is no text, but {str(value)[:40]!r}")
    return [str(value) for value in values.tolist()]
