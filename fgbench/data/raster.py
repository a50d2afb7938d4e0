"""Filled polygons in integers only, so that a picture is the same on every machine.

OpenCV's ``fillPoly`` changed its treatment of borders between releases, and ``sin`` differs in the last bit between
maths libraries. Here coordinates are integers in sixteenths of a canvas pixel, angles are integers in 1/1024 of a turn,
and random numbers are raw 64-bit draws of PCG64, whose stream NumPy guarantees.
"""

import math

import numpy as np
import numpy.typing as npt

SUB = 16  # coordinates per canvas pixel
TURN = 1024  # angle units of a full turn
ONE = 1 << 16  # fixed-point one of sines and scales

IntArray = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def _sine_table() -> IntArray:
    """``round(2^16 sin(2 pi k / 1024))`` for all k, by the Taylor series in 80-bit fixed point."""
    one, pi = 1 << 80, 3797952473636338580787993  # pi * 2^80
    values = []
    for k in range(TURN // 4 + 1):
        x = 2 * pi * k // TURN
        term, total, n = x, x, 1
        while term:
            term = -(term * x // one * x // one) // ((n + 1) * (n + 2))
            total, n = total + term, n + 2
            if abs(term) < 2:
                break
        values.append((total + (1 << 63)) >> 64)
    quarter = values + values[-2:0:-1]
    return np.array(quarter + [-v for v in quarter], np.int64)


SINE = _sine_table()


def sine(angle: int | IntArray) -> IntArray:
    """``2^16 sin`` of an angle in 1/1024 turns."""
    found: IntArray = np.asarray(SINE[np.asarray(angle) % TURN])
    return found


def cosine(angle: int | IntArray) -> IntArray:
    """``2^16 cos`` of an angle in 1/1024 turns."""
    found: IntArray = np.asarray(SINE[(np.asarray(angle) + TURN // 4) % TURN])
    return found


def rotate(points: IntArray, angle: int) -> IntArray:
    """Turn ``x y`` rows about the origin; positive turns ``x`` towards ``y`` (clockwise on a screen)."""
    c, s = cosine(angle), sine(angle)
    x, y = points[..., 0], points[..., 1]
    return np.stack([(c * x - s * y) >> 16, (s * x + c * y) >> 16], axis=-1)


def ellipse(cx: int, cy: int, rx: int, ry: int, angle: int = 0, corners: int = 32) -> IntArray:
    """The corners of an ellipse, ``corners 2``."""
    turn = np.arange(corners) * (TURN // corners)
    points = np.stack([(rx * cosine(turn)) >> 16, (ry * sine(turn)) >> 16], axis=-1)
    return rotate(points, angle) + np.array([cx, cy], np.int64)


def stroke(start: tuple[int, int], end: tuple[int, int], width0: int, width1: int) -> IntArray:
    """A straight branch from one point to another with its thickness at both ends, ``4 2``."""
    (x0, y0), (x1, y1) = start, end
    dx, dy = x1 - x0, y1 - y0
    length = max(1, math.isqrt(dx * dx + dy * dy))
    (ax, ay), (bx, by) = (((-dy * w) // (2 * length), (dx * w) // (2 * length)) for w in (width0, width1))
    return np.array([[x0 + ax, y0 + ay], [x1 + bx, y1 + by], [x1 - bx, y1 - by], [x0 - ax, y0 - ay]], np.int64)


def polygon_mask(points: IntArray, height: int, width: int) -> tuple[slice, slice, Mask]:
    """Which pixel centres lie inside of a polygon (even-odd rule).

    Returns:
        Rows and columns of the polygon's bounding rectangle on the canvas, and the mask inside of it.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    top, bottom = max(0, int(low[1]) // SUB), min(height, int(high[1]) // SUB + 1)
    left, right = max(0, int(low[0]) // SUB), min(width, int(high[0]) // SUB + 1)
    if top >= bottom or left >= right:
        return slice(0, 0), slice(0, 0), np.zeros((0, 0), np.bool_)
    x0, y0 = points[:, 0, None], points[:, 1, None]
    x1, y1 = np.roll(points[:, 0], -1)[:, None], np.roll(points[:, 1], -1)[:, None]
    centre = np.arange(top, bottom) * SUB + SUB // 2
    crosses = (y0 <= centre) != (y1 <= centre)
    where = x0 + (centre - y0) * (x1 - x0) // np.where(y1 == y0, 1, y1 - y0)
    column = np.clip(-((SUB // 2 - where) // SUB), left, right) - left  # first pixel whose centre is not left of it
    edge, row = np.nonzero(crosses)
    flat = row * (right - left + 1) + column[edge, row]
    toggles = np.bincount(flat, minlength=(bottom - top) * (right - left + 1)).reshape(bottom - top, -1)
    inside = (np.cumsum(toggles, axis=1)[:, :-1] & 1).astype(np.bool_)
    return slice(top, bottom), slice(left, right), inside


class Dice:
    """Integers from a stable random stream, keyed by any number of integers."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def between(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        return low + ((int(self._bits.random_raw()) * (high - low + 1)) >> 64)

    def chance(self, permille: int) -> bool:
        """True in ``permille`` of 1,000 cases."""
        return self.between(0, 999) < permille

    def noise(self, shape: tuple[int, ...], amplitude: int) -> npt.NDArray[np.int16]:
        """Integers from ``-amplitude`` to ``amplitude``, uniform."""
        count = int(np.prod(shape))
        raw = self._bits.random_raw((count + 7) // 8).astype("<u8").view(np.uint8)[:count]
        return ((raw.astype(np.int16) * (2 * amplitude + 1)) >> 8).reshape(shape) - amplitude
