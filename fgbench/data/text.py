"""Text files of datasets, as they arrive: with Windows line ends, with a byte order mark, or not text at all."""

import json
from pathlib import Path
from typing import Any


class DataError(Exception):
    """Data on disk is missing, damaged or not what it should be; the message names file, line and what to do."""


def read_text(path: Path) -> str:
    """A text file without its byte order mark, and with one kind of line end.

    Raises:
        DataError: the file is missing, empty, or no text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error.reason} at byte {error.start})") from None
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; line ``i`` of the file is number ``i - 1``, empty lines at the end are left out.

    Raises:
        DataError: the file is missing, empty, or no text.
    """
    return read_text(path).rstrip("\n").split("\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file whose top is an object.

    Raises:
        DataError: the file is missing, empty, or not such a file; names the line.
    """
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}); unpack the archive again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object at the top, found {type(content).__name__}")
    return content
