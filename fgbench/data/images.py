"""Image files: decode, refuse damaged ones by name, read sizes without decoding.

JPEGs are always decoded whole. libjpeg can decode at 1/2, 1/4 or 1/8 for less, but not to the same pixels: on 100
photographs of CUB-200-2011 (short side up to 448) that were then resized down by two or more, values differ by 2.1 of
255 on average where both sides become 160 (6.1 in the worst photograph), 1.8 where the short side becomes 112, and 1.1
where both become 64; by 0.8 at 224, which only six of them are large enough for. More than 1 is another protocol.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from jaxtyping import Int32, UInt8
from numpy import ndarray

# OpenCV's own threads do not survive a fork into loader workers, and several processes share the cores as it is
cv2.setNumThreads(0)

_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # annotations refer to the pixels as stored
_JPEG_END, _PNG_START = b"\xff\xd9", b"\x89PNG\r\n\x1a\n"


def read_image(path: str | os.PathLike[str], torn: bool = False) -> UInt8[ndarray, "h w 3"]:
    """Decode a file as RGB; grey becomes RGB, transparency is dropped, orientation tags are ignored.

    Args:
        path: the file.
        torn: the official file is known to end too early, and is used as far as it goes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, truncated or no image.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: listed, but there is no such file; restore it from the archive") from None
    image, problem = decode(data, torn)
    if image is None:
        raise ValueError(f"{path}: {problem} ({len(data):,} bytes); restore this file from the archive")
    return image


def read_mask(path: str | os.PathLike[str]) -> UInt8[ndarray, "h w"]:
    """Decode a mask, whose values are numbers of parts and not colours.

    Raises:
        ValueError: the file is missing, damaged, or has colours.
    """
    mask = cv2.imread(os.fspath(path), cv2.IMREAD_UNCHANGED)
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f"{path}: missing, damaged, or no mask of one byte a pixel")
    return mask


def read_picture(path: str | os.PathLike[str]) -> UInt8[ndarray, "h w 3"]:
    """Decode anybody's picture as RGB, as its owner sees it: turned as its orientation tag says, grey as RGB, on white.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, truncated or no image; names it.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: this is a folder; name picture files") from None
    problem, raw = _problem(data), np.frombuffer(data, np.uint8)
    image = None if problem else cv2.imdecode(raw, cv2.IMREAD_COLOR_RGB)  # heeds the orientation tag
    if image is None:
        raise ValueError(
            f"{path}: {problem or 'no image that can be decoded'} ({len(data):,} bytes); JPEG or PNG is read"
        )
    stored = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED) if data[:8] == _PNG_START else None
    if stored is not None and stored.ndim == 3 and stored.shape[2] == 4 and stored.shape[:2] == image.shape[:2]:
        alpha = stored[:, :, 3:] / (65535 if stored.dtype == np.uint16 else 255)
        image = (image * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return image


def decode(data: bytes, torn: bool = False) -> tuple[UInt8[ndarray, "h w 3"] | None, str]:
    """The image in a file's bytes; or None, and what is wrong with them."""
    if torn and data[:2] == b"\xff\xd8":
        data += _JPEG_END  # decoders refuse a file without
    problem = "" if torn and data else _problem(data)
    image = None if problem else cv2.imdecode(np.frombuffer(data, np.uint8), _AS_STORED)
    return image, "" if image is not None else problem or "cannot be decoded as an image"


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
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0:  # stray bytes between segments, which libjpeg passes over
            at = data.find(b"\xff", at + 1)
            if at < 0:
                break
        elif marker == 0xFF:  # fill byte
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
        with open(path, "rb", buffering=0) as file:
            data = file.read(32768)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: listed, but there is no such file; restore it from the archive") from None
    if data[:8] == _PNG_START and len(data) >= 24:
        return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    if data[:2] == b"\xff\xd8" and (size := _jpeg_segments(data)[0]):
        return size
    height, width = read_image(path).shape[:2]
    return height, width


def image_sizes(
    paths: Sequence[str | os.PathLike[str]], threads: int = 8, tolerant: bool = False
) -> Int32[ndarray, "n 2"]:
    """Height and width of many files: network disks answer many questions at once.

    Args:
        paths: of the files.
        threads: that ask.
        tolerant: whether a file that is absent or damaged has size 0 x 0 instead of raising.
    """

    def size(path: str | os.PathLike[str]) -> tuple[int, int]:
        try:
            return image_size(path)
        except (OSError, ValueError):
            if tolerant:
                return 0, 0
            raise

    with ThreadPoolExecutor(threads) as pool:
        return np.array(list(pool.map(size, paths)), np.int32).reshape(-1, 2)
