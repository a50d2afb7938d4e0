"""The kinds of values that a result may hold: each is checked, and has one form.

A column of ``Result`` names its kind ("count", "percent", "digest"); ``checked`` is what every value passes, when a
result is made and when one is read.

May import: the standard library. Must not import: anything else of the suite. Reads and writes: nothing.
"""

import contextlib
import datetime
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

PLAIN = frozenset({str, bool, int, type(None)})  # JSON's values with nothing to check
SELECTIONS = ("last", "validation", "legacy_best_on_test")


class ResultError(ValueError):
    """A result that is not one; the message names the file, the key and what is wrong."""


def checked(key: str, kind: str, value: object) -> Any:
    """The value in its one form, or ResultError."""
    match kind:
        case "name":
            return _text(key, value, r"[a-z0-9][a-z0-9_+-]*", "name_of_small_letters")
        case "variant":
            return _text(key, value, r"[A-Za-z0-9_+-]*", "name-without-dots-and-slashes")
        case "text" | "commit":
            return _text(key, value)
        case "digest":
            return _text(key, value, r"[0-9a-f]{12}", "12 hexadecimal digits")
        case "selection":
            return _text(key, value, "|".join(SELECTIONS), " or ".join(SELECTIONS))
        case "date":
            _text(key, value, r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "2026-01-31T23:59:59Z")
            with contextlib.suppress(ValueError):
                return datetime.datetime.fromisoformat(str(value)).strftime("%Y-%m-%dT%H:%M:%SZ")
            _refuse(key, f"{value!r} is no date")
        case "count":
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                _refuse(key, f"{value!r} is not a whole number from 0")
            return value
        case "percent":
            return None if value is None else _number(key, value, 0.0, 100.0)
        case "number" | "error":  # an error in units of the object's size can exceed 100 %
            return None if value is None else _number(key, value, 0.0)
        case "texts":
            return {name: _text(f"{key}.{name}", item) for name, item in table(key, value).items()}
        case "numbers":
            return {name: _number(f"{key}.{name}", item) for name, item in table(key, value).items()}
        case "nested":
            return {name: checked(f"{key}.{name}", "numbers", item) for name, item in table(key, value).items()}
        case "history":
            return {name: _series(f"{key}.{name}", item) for name, item in table(key, value).items()}
        case "tree":
            return tree(key, table(key, value))
    raise AssertionError(kind)


def _refuse(key: str, problem: str) -> NoReturn:
    raise ResultError(f"{key}: {problem}")


def _number(key: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    if type(value) is float and math.isfinite(value) and low <= value <= high:
        return value  # nearly all: ten thousand results are read before each rebuild
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(key, f"{value!r} is not a number")
    if not math.isfinite(value) or not low <= value <= high:
        _refuse(
            key, f"{value} is not within {low:g} ... {high:g}" if math.isfinite(value) else f"{value} is not finite"
        )
    return float(value)


def _text(key: str, value: object, pattern: str = "", example: str = "") -> str:
    if not isinstance(value, str):
        _refuse(key, f"{value!r} is not a text")
    if pattern and not re.fullmatch(pattern, value):
        _refuse(key, f"{value!r} is not of the form {example}")
    return value


def table(key: str, value: object) -> dict[str, Any]:
    """Names and values, of any kind."""
    if not isinstance(value, Mapping):
        _refuse(key, f"{value!r} is not a table of names and values")
    if not set(map(type, value)) <= {str}:
        for name in value:
            if not isinstance(name, str):
                _refuse(f"{key}.{name}", f"{name!r} is not a text")
    return dict(value)


def tree(key: str, value: object) -> Any:
    """JSON values all the way down; tuples become lists, so that what is read equals what was written."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {
            name: item if type(item) in PLAIN else tree(f"{key}.{name}", item)
            for name, item in table(key, value).items()
        }
    if isinstance(value, list | tuple):
        return [tree(f"{key}[{index}]", item) for index, item in enumerate(value)]
    return _number(key, value)


def _series(key: str, value: object) -> list[float]:
    if not isinstance(value, list | tuple):
        _refuse(key, f"{value!r} is not a list of numbers")
    if all(type(item) is float and math.isfinite(item) for item in value):
        return list(value)
    return [_number(f"{key}[{index}]", item) for index, item in enumerate(value)]
