"""One picture of a toybird: a pose, a bird, what is behind it, what is before it, and light. NumPy integers only.

A bird (``toybirds_bird``) is turned, mirrored, scaled and moved, painted back to front on a canvas of four by four
samples a pixel, and averaged down.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fgbench.data.raster import ONE, SUB, TURN, Dice, IntArray, cosine, ellipse, polygon_mask, rotate, sine, stroke
from fgbench.data.toybirds_bird import LANDMARKS, PARTS, UNIT, Bird, Colour
from fgbench.data.toybirds_catalogue import COLOURS, Species

VERSION = 6  # of the pictures: part of the folder's digest, to be raised with every change of a pixel
SAMPLES = 4  # canvas pixels per picture pixel and axis

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Knobs:
    """What decides a picture beside its class and number.

    Attributes:
        image_size: side of the square picture, pixels.
        difficulty: permille; scales clutter, occluders, range of light and noise; the default protocol has 500.
        background_bias: permille of pictures whose background has the colour of their class.
        seed: of the pictures (not of the species).
    """

    image_size: int = 128
    difficulty: int = 500
    background_bias: int = 0
    seed: int = 0


class Picture(NamedTuple):
    """A picture with everything that is known about it; coordinates as in ``fgbench.types``."""

    image: Image  # h w 3
    mask: Image  # h w, 0 or 1 + index into PARTS
    box: tuple[float, float, float, float]  # x y width height, of the whole bird, cut at the border
    landmarks: npt.NDArray[np.float64]  # 15 2
    visible: npt.NDArray[np.bool_]  # 15


class _Placed:
    """Bird coordinates to canvas coordinates: turned, mirrored, scaled, moved."""

    def __init__(self, bird: Bird, size: int, dice: Dice) -> None:
        self._angle = dice.between(-90, 90)  # up to 32 degrees
        self.left = dice.chance(500)  # faces left: its left side is seen
        # 1.0 means that 100 units are half of the picture's side
        permille = dice.between(760, 1200)
        self._scale = (size * SAMPLES * SUB * permille * ONE) // (200 * UNIT * 1000)
        self._move = np.zeros(2, np.int64)
        every = np.concatenate([self(shape.points) for shape in bird.shapes])
        low, high, side = every.min(axis=0), every.max(axis=0), size * SAMPLES * SUB
        margin = (high - low) // 7  # up to a seventh may lie outside
        start = [
            dice.between(-int(m), max(-int(m), side - int(e) + int(m))) for m, e in zip(margin, high - low, strict=True)
        ]
        self._move = np.array(start, np.int64) - low

    def __call__(self, points: IntArray) -> IntArray:
        turned = rotate(points, self._angle)
        mirrored = turned * np.array([-1, 1]) if self.left else turned
        return ((mirrored * self._scale) >> 16) + self._move


class _Canvas:
    """Colours and labels, painted back to front."""

    def __init__(self, size: int) -> None:
        self.side = size * SAMPLES
        self.rgb = np.zeros((self.side, self.side, 3), np.uint8)
        self.label = np.zeros((self.side, self.side), np.uint8)

    def paint(self, points: IntArray, colour: Colour, label: int | None, clip: tuple[int, ...] = ()) -> None:
        rows, columns, inside = polygon_mask(points, self.side, self.side)
        if not inside.size:
            return
        labels = self.label[rows, columns]
        if clip:
            under = labels == clip[0]
            for value in clip[1:]:
                under |= labels == value
            inside = inside & under
        self.rgb[rows, columns][inside] = colour
        if label is not None:
            labels[inside] = label

    def picture(self) -> tuple[npt.NDArray[np.int32], Image]:
        """Averages of the samples, and the label of the sample right of and below each pixel's centre."""
        size, half = self.side // SAMPLES, SAMPLES // 2
        rows, total = np.zeros((size, self.side, 3), np.int32), np.zeros((size, size, 3), np.int32)
        for i in range(SAMPLES):
            rows += self.rgb[i::SAMPLES]
        for i in range(SAMPLES):
            total += rows[:, i::SAMPLES]
        mean = (total + SAMPLES * SAMPLES // 2) // (SAMPLES * SAMPLES)
        return mean, self.label[half::SAMPLES, half::SAMPLES].copy()


def _mix(dice: Dice, spread: int = 40) -> Colour:
    """A colour like a bird's: a plumage colour, changed a little."""
    base = list(COLOURS.values())[dice.between(0, len(COLOURS) - 1)]
    r, g, b = (min(255, max(0, c + dice.between(-spread, spread))) for c in base)
    return r, g, b


def _leaf(dice: Dice, x: int, y: int, length: int, width: int) -> IntArray:
    turn = np.arange(12) * (TURN // 24)
    upper = np.stack([-(length * cosine(turn)) >> 17, -(width * sine(turn)) >> 17], axis=-1)
    return rotate(np.concatenate([upper, -upper]), dice.between(0, TURN - 1)) + np.array([x, y], np.int64)


def _clutter(canvas: _Canvas, dice: Dice, count: int) -> None:
    full = canvas.side * SUB
    for _ in range(count):
        x, y, kind = dice.between(0, full), dice.between(0, full), dice.between(0, 2)
        colour = _mix(dice)
        if kind == 0:
            canvas.paint(
                _leaf(dice, x, y, full * dice.between(8, 24) // 100, full * dice.between(3, 9) // 100), colour, None
            )
        elif kind == 1:
            rx, ry = full * dice.between(2, 9) // 100, full * dice.between(2, 7) // 100
            canvas.paint(ellipse(x, y, rx, ry, dice.between(0, TURN - 1)), colour, None)
        else:
            x1, y1 = x + full * dice.between(-60, 60) // 100, y + full * dice.between(-60, 60) // 100
            canvas.paint(stroke((x, y), (x1, y1), full * dice.between(1, 4) // 100, full // 100), colour, None)


def _occlude(canvas: _Canvas, dice: Dice, box: tuple[int, int, int, int]) -> None:
    """A twig or a leaf in front of the bird; what it covers is no longer bird."""
    x0, y0, x1, y1 = box
    x, y, full = dice.between(x0, x1), dice.between(y0, y1), canvas.side * SUB
    if dice.chance(500):
        angle = dice.between(0, TURN - 1)
        dx, dy = (int(full * f(angle)) >> 17 for f in (cosine, sine))
        canvas.paint(stroke((x - dx, y - dy), (x + dx, y + dy), full * 3 // 100, full // 100), _mix(dice), 0)
    else:
        canvas.paint(
            _leaf(dice, x, y, full * dice.between(10, 18) // 100, full * dice.between(4, 7) // 100), _mix(dice), 0
        )


def _background(canvas: _Canvas, dice: Dice, knobs: Knobs, label: int) -> None:
    """Two colours from top to bottom, then blobs. The biased colour is a function of the class alone."""
    first, second = _mix(dice), _mix(dice)
    if dice.chance(knobs.background_bias):
        own = Dice(77, label)
        first = second = (own.between(20, 235), own.between(20, 235), own.between(20, 235))
    ramp = (np.arange(canvas.side, dtype=np.int64) * 256 // canvas.side)[:, None]
    rows: IntArray = np.array(first, np.int64) * (256 - ramp) + np.array(second, np.int64) * ramp
    canvas.rgb[:] = (rows >> 8)[:, None].astype(np.uint8)
    _clutter(canvas, dice, dice.between(3, 4 + knobs.difficulty * 12 // 1000))


def _light(rgb: npt.NDArray[np.int32], dice: Dice, knobs: Knobs) -> Image:
    """Exposure, colour of the light, a shadow across the picture, contrast, and the sensor's noise."""
    size, reach = knobs.image_size, knobs.difficulty
    ramp = np.arange(size, dtype=np.int64) * 2 - size
    slope_x, slope_y = (dice.between(-60, 60) * reach // 500 for _ in range(2))
    exposure = 256 + dice.between(-50, 40) * reach // 500
    shade = exposure + (ramp * slope_x)[None, :] // size + (ramp * slope_y)[:, None] // size
    tint = np.array([256 + dice.between(-18, 18) * reach // 500 for _ in range(3)], np.int64)
    contrast = 256 + dice.between(-40, 20) * reach // 500
    gain: IntArray = np.clip(shade, 90, 400).astype(np.int64)[..., None] * tint
    lit: IntArray = (rgb * gain) >> 16
    lit = 118 + (((lit - 118) * contrast) >> 8)
    image: Image = np.clip(lit + dice.noise(lit.shape, 12 * reach // 1000), 0, 255).astype(np.uint8)
    return image


def _names_in_view(left: bool, head_back: bool) -> dict[str, str | None]:
    """Landmark of CUB to landmark of the bird as drawn. A bird that faces left shows its left side."""
    near, far = ("left", "right") if left else ("right", "left")
    eye = far if head_back else near  # it looks over its shoulder: the other side of the head is seen
    hidden = near if head_back else far
    sides = {f"{near} wing": "wing", f"{far} wing": "far wing", f"{near} leg": "leg", f"{far} leg": "far leg"}
    return sides | {f"{eye} eye": "eye", f"{hidden} eye": None}


def draw(species: Species, label: int, number: int, knobs: Knobs) -> Picture:
    """Picture ``number`` of the class ``label``; a function of its arguments alone."""
    dice, size = Dice(knobs.seed, label, number), knobs.image_size
    canvas = _Canvas(size)
    _background(canvas, dice, knobs, label)
    bird = Bird(species, dice)
    place = _Placed(bird, size, dice)
    low, high = np.full(2, 2**40), np.full(2, -(2**40))
    for shape in bird.shapes:
        points = place(shape.points)
        canvas.paint(
            points,
            shape.colour,
            None if shape.part is None else PARTS.index(shape.part) + 1,
            tuple(PARTS.index(part) + 1 for part in shape.clip),
        )
        if not shape.clip:
            low, high = np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0))
    low, high = np.clip(low, 0, canvas.side * SUB), np.clip(high, 0, canvas.side * SUB)
    if dice.chance(knobs.difficulty * 5 // 10):
        _occlude(canvas, dice, (int(low[0]), int(low[1]), int(high[0]), int(high[1])))
    rgb, mask = canvas.picture()
    image = _light(rgb, dice, knobs)
    landmarks, visible = _landmarks(bird, place, mask)
    per_pixel = SAMPLES * SUB
    x0, y0, x1, y1 = (int(v) / per_pixel for v in (*low, *high))
    return Picture(image, mask, (x0, y0, x1 - x0, y1 - y0), landmarks, visible)


def _landmarks(bird: Bird, place: _Placed, mask: Image) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Where the landmarks are, zero where not visible: hidden by the bird itself, by something else, or outside."""
    side, size = _names_in_view(place.left, bird.head_back), mask.shape[0]
    points, visible = np.zeros((len(LANDMARKS), 2)), np.zeros(len(LANDMARKS), np.bool_)
    for i, name in enumerate(LANDMARKS):
        drawn = side.get(name, name)
        if drawn is None or drawn not in bird.landmarks:
            continue
        x, y = (int(v) for v in place(bird.landmarks[drawn]))
        column, row = x // (SAMPLES * SUB), y // (SAMPLES * SUB)
        if not (0 <= column < size and 0 <= row < size) or not mask[row, column]:
            continue
        seen = PARTS[mask[row, column] - 1]
        # a far limb behind the body is hidden; so is a near part under a raised wing
        if (drawn.startswith("far ") and seen != drawn) or (seen == "wing" and drawn not in ("wing", "back", "belly")):
            continue
        points[i], visible[i] = (x / (SAMPLES * SUB), y / (SAMPLES * SUB)), True
    return points, visible
