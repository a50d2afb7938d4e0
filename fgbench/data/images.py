"""Image files: decode, refuse damaged ones by name, read sizes without decoding."""

import os
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

# OpenCV's own threads do not survive a fork into loader workers, and several processes share the cores as it is
cv2.setNumThreads(0)

_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # annotations refer to the pixels as stored
_JPEG_END, _PNG_START = b"\xff\xd9", b"\x89PNG\r\n\x1a\n"


def read_image(path: str | os.PathLike[str]) -> UInt8[ndarray, "h w 3"]:
    """Decode a file as RGB; grey becomes RGB, transparency is dropped, orientation tags are ignored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, truncated or no image.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: listed, but there is no such file; restore it from the archive") from None
    problem = _problem(data)
    image = None if problem else cv2.imdecode(np.frombuffer(data, np.uint8), _AS_STORED)
    if image is None:
        raise ValueError(
            f"{path}: {problem or 'cannot be decoded as an image'} ({len(data):,} bytes); "
            "restore this file from the archive"
        )
    return image


def _problem(data: bytes) -> str:
    """What is wrong with a file that a decoder might still answer with a half-grey picture; empty if nothing."""
    if not data:
        return "the file is empty"
    if data[:2] == b"\xff\xd8":
        scan = _jpeg_segments(data)[1]
        # inside of a scan the end marker cannot occur, before it a thumbnail may hold one
        if scan < 0 or data.rfind(_JPEG_END) < scan:
            return "the JPEG file is truncated"
    elif data[:8] == _PNG_START and data.rfind(b"IEND") < 0:
        return "the PNG file is truncated"
    return ""


def _jpeg_segments(data: bytes) -> tuple[tuple[int, int] | None, int]:
    """Height and width from the frame header, and where the first scan starts (-1: not in these bytes)."""
    size, at = None, 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return size, -1
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0xDA:
            return size, at
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a segment
            at += 2
        else:
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                size = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return size, -1


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width, from the header where the format is JPEG or PNG."""
    try:
        with open(path, "rb") as file:
            data = file.read(32768)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: listed, but there is no such file; restore it from the archive") from None
    if data[:8] == _PNG_START and len(data) >= 24:
        return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    if data[:2] == b"\xff\xd8" and (size := _jpeg_segments(data)[0]):
        return size
    height, width = read_image(path).shape[:2]
    return height, width
