"""One picture of a toybird: a pose, a bird, what is behind it, what is before it, and light. NumPy integers only.

A bird is a list of polygons in its own coordinates (units; the body is 68 long; ``x`` towards the head, ``y`` down), each
with the part that it belongs to. It is posed (wing, head, legs), turned, mirrored, scaled and moved, painted back to
front on a canvas of four by four samples a pixel, and averaged down.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fgbench.data.raster import ONE, SUB, TURN, Dice, IntArray, cosine, ellipse, polygon_mask, rotate, sine, stroke
from fgbench.data.toybirds_catalogue import COLOURS, Species

VERSION = 1  # of the pictures: part of the folder's digest, to be raised with every change of a pixel
SAMPLES = 4  # canvas pixels per picture pixel and axis
UNIT = 64  # integers per unit of bird coordinates
LANDMARKS = (
    "back",
    "beak",
    "belly",
    "breast",
    "crown",
    "forehead",
    "left eye",
    "left leg",
    "left wing",
    "nape",
    "right eye",
    "right leg",
    "right wing",
    "tail",
    "throat",
)  # parts.txt of CUB-200-2011
PARTS = (
    "back",
    "beak",
    "belly",
    "breast",
    "crown",
    "eye",
    "head",
    "leg",
    "far leg",
    "wing",
    "far wing",
    "tail",
    "throat",
)
"""Part ``i`` has the value ``i + 1`` in a mask; 0 is background or something in front of the bird."""

Colour = tuple[int, int, int]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Knobs:
    """What decides a picture beside its class and number.

    Attributes:
        image_size: side of the square picture, pixels.
        difficulty: permille; scales clutter, occluders, range of light and noise; at 500 as described in the datamodule.
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


class Shape(NamedTuple):
    """A polygon of a bird. ``clip`` paints only where these parts already are; ``part`` None keeps their labels."""

    part: str | None
    points: IntArray
    colour: Colour
    clip: tuple[str, ...] = ()


def _at(x: int, y: int) -> IntArray:
    return np.array([x, y], np.int64) * UNIT


def _poly(*points: tuple[int, int]) -> IntArray:
    return np.array(points, np.int64) * UNIT


def _oval(cx: int, cy: int, rx: int, ry: int, angle: int = 0) -> IntArray:
    return ellipse(cx * UNIT, cy * UNIT, rx * UNIT, ry * UNIT, angle)


class _Bird:
    """Shapes and landmarks of one posed bird, facing right, in units of ``1 / UNIT``."""

    def __init__(self, species: Species, dice: Dice) -> None:
        jitter = [dice.between(-14, 14) for _ in range(3)]  # one plumage tint for the individual
        self._species, self._jitter = species, jitter
        self.shapes: list[Shape] = []
        self.landmarks: dict[str, IntArray] = {}
        raised = dice.chance(300)
        self._wing_angle = dice.between(120, 260) if raised else dice.between(-40, 50)
        self._tail_angle = dice.between(-70, 70)
        self._head_angle = dice.between(-80, 80)
        self.head_back = dice.chance(180)  # looks over its shoulder
        self._stride = dice.between(-8, 8)
        if raised:
            self._wing("far wing", self._wing_angle - dice.between(30, 90))
        self._legs()
        self._tail()
        self._body()
        self._head()
        self._wing("wing", self._wing_angle)

    def colour(self, attribute: str) -> Colour:
        """The species' colour of a part, with the individual's tint."""
        r, g, b = (
            min(255, max(0, c + j)) for c, j in zip(COLOURS[self._species[attribute]], self._jitter, strict=True)
        )
        return r, g, b

    def _marking(self, base: str) -> Colour:
        """A pattern's colour: dark on light plumage, light on dark plumage."""
        return (236, 232, 220) if sum(COLOURS[self._species[base]]) < 330 else (34, 30, 32)

    def _add(self, part: str | None, points: IntArray, colour: Colour, *clip: str) -> None:
        self.shapes.append(Shape(part, points, colour, clip))

    def _wing(self, part: str, angle: int) -> None:
        shoulder = _at(14, -8)

        def put(points: IntArray) -> IntArray:
            return rotate(points, angle) + shoulder

        outline = _poly((4, -6), (8, 2), (4, 11), (-10, 15), (-28, 14), (-46, 8), (-30, 0), (-12, -6))
        self._add(part, put(outline), self.colour("wing.colour"))
        marking = self._marking("wing.colour")
        if self._species["wing.pattern"] == "barred":
            for x in (-6, -17, -28):
                self._add(None, put(_poly((x, -12), (x + 5, -12), (x + 2, 18), (x - 3, 18))), marking, part)
        elif self._species["wing.pattern"] == "spotted":
            for x, y in ((-2, 2), (-9, 9), (-14, 1), (-21, 9), (-26, 4), (-33, 9)):
                self._add(None, put(_oval(x, y, 3, 3)), marking, part)
        self.landmarks[part] = put(_at(-16, 5))

    def _legs(self) -> None:
        for part, x, sign in (("far leg", 4, -1), ("leg", -3, 1)):
            foot = x + sign * self._stride
            self._add(part, stroke(*_at(x, 16), *_at(foot, 36), 4 * UNIT, 3 * UNIT), self.colour("legs.colour"))
            self._add(
                part, stroke(*_at(foot - 4, 36), *_at(foot + 8, 37), 3 * UNIT, 2 * UNIT), self.colour("legs.colour")
            )
            self.landmarks[part] = (_at(x, 22) + _at(foot, 36)) // 2

    def _tail(self) -> None:
        root = _at(-26, -2)

        def put(points: IntArray) -> IntArray:
            return rotate(points, self._tail_angle) + root

        outlines = {
            "wedge": _poly((6, -7), (-34, -9), (-36, 7), (6, 7)),
            "forked": _poly((6, -7), (-40, -17), (-20, 0), (-40, 17), (6, 7)),
            "round": _poly((6, -6), (-14, -16), (-28, -14), (-36, 0), (-28, 14), (-14, 16), (6, 6)),
        }
        self._add("tail", put(outlines[self._species["tail.shape"]]), self.colour("tail.colour"))
        if self._species["tail.pattern"] == "banded":
            for x in (-10, -20, -30):
                self._add(
                    None, put(_poly((x, -20), (x + 5, -20), (x + 5, 20), (x, 20))), self._marking("tail.colour"), "tail"
                )
        self.landmarks["tail"] = put(_at(-18, 0))

    def _body(self) -> None:
        self._add("back", _oval(0, 0, 34, 21), self.colour("back.colour"))
        self._add("belly", _oval(-2, 14, 30, 16), self.colour("belly.colour"), "back")
        marking = self._marking("belly.colour")
        if self._species["belly.pattern"] == "spotted":
            for x, y in ((-20, 9), (-13, 14), (-6, 9), (1, 15), (-6, 18), (8, 9), (14, 13), (6, 18), (-20, 15)):
                self._add(None, _oval(x, y, 2, 2), marking, "belly")
        elif self._species["belly.pattern"] == "barred":
            for x in (-22, -14, -6, 2, 10):
                self._add(None, _poly((x, 0), (x + 3, 0), (x + 3, 24), (x, 24)), marking, "belly")
        self._add("breast", _oval(26, 6, 16, 14), self.colour("breast.colour"), "back", "belly")
        self.landmarks |= {"back": _at(-6, -17), "belly": _at(-2, 16), "breast": _at(26, 6)}

    def _head(self) -> None:
        neck = _at(28, -12)
        self._add("head", _oval(27, -13, 11, 11), self.colour("head.colour"))

        def put(points: IntArray) -> IntArray:
            turned = points * np.array([-1, 1]) if self.head_back else points
            return rotate(turned, self._head_angle) + neck

        head, crown, throat = (self.colour(f"{part}.colour") for part in ("head", "crown", "throat"))
        beak = self.colour("beak.colour")
        if self._species["beak.shape"] == "cone":
            self._add("beak", put(_poly((16, -20), (31, -9), (16, -4))), beak)
        else:
            self._add("beak", put(_poly((14, -15), (46, -9), (14, -7))), beak)
        if self._species["crown.shape"] == "crested":
            self._add("crown", put(_poly((14, -22), (4, -28), (-18, -40), (-11, -16))), crown)
        self._add("head", put(_oval(6, -13, 15, 14)), head)
        self._add("throat", put(_oval(11, 0, 12, 9)), throat, "head", "back", "breast")
        self._add("crown", put(_poly((-14, -30), (24, -30), (24, -17), (-2, -16), (-14, -12))), crown, "head")
        self._add("eye", put(_oval(11, -14, 4, 4)), (240, 240, 236))
        self._add(None, put(_oval(12, -14, 2, 2)), (12, 12, 14), "eye")
        at = {
            "beak": (24, -10),
            "crown": (5, -24),
            "forehead": (15, -20),
            "eye": (11, -14),
            "nape": (-8, -8),
            "throat": (11, 0),
        }
        self.landmarks |= {name: put(_at(x, y)) for name, (x, y) in at.items()}


class _Placed:
    """Bird coordinates to canvas coordinates: turned, mirrored, scaled, moved."""

    def __init__(self, bird: _Bird, size: int, dice: Dice) -> None:
        self._angle = dice.between(-90, 90)  # up to 32 degrees
        self.left = dice.chance(500)  # faces left: its left side is seen
        # 1.0 means that 100 units are half of the picture's side
        permille = dice.between(640, 1180)
        self._scale = (size * SAMPLES * SUB * permille * ONE) // (200 * UNIT * 1000)
        self._move = np.zeros(2, np.int64)
        every = np.concatenate([self(shape.points) for shape in bird.shapes])
        low, high, side = every.min(axis=0), every.max(axis=0), size * SAMPLES * SUB
        margin = (high - low) // 10  # up to a tenth may lie outside
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
        rows = sum(self.rgb[i::SAMPLES].astype(np.int32) for i in range(SAMPLES))
        total = sum(rows[:, i::SAMPLES] for i in range(SAMPLES))  # type: ignore[index,misc]
        half = SAMPLES // 2
        return (total + SAMPLES * SAMPLES // 2) // (SAMPLES * SAMPLES), self.label[half::SAMPLES, half::SAMPLES].copy()  # type: ignore[operator]


def _mix(dice: Dice, spread: int = 40) -> Colour:
    """A colour like a bird's: a plumage colour, changed a little."""
    base = list(COLOURS.values())[dice.between(0, len(COLOURS) - 1)]
    r, g, b = (min(255, max(0, c + dice.between(-spread, spread))) for c in base)
    return r, g, b


def _leaf(dice: Dice, x: int, y: int, length: int, width: int) -> IntArray:
    turn = np.arange(12) * (TURN // 24)
    upper = np.stack([-(length * cosine(turn)) >> 17, -(width * sine(turn)) >> 17], axis=-1)
    return rotate(np.concatenate([upper, -upper]), dice.between(0, TURN - 1)) + np.array([x, y])


def _clutter(canvas: _Canvas, dice: Dice, count: int) -> None:
    full = canvas.side * SUB
    for _ in range(count):
        x, y, kind = dice.between(0, full), dice.between(0, full), dice.between(0, 2)
        colour = _mix(dice)
        if kind == 0:
            canvas.paint(
                _leaf(dice, x, y, full * dice.between(10, 32) // 100, full * dice.between(4, 12) // 100), colour, None
            )
        elif kind == 1:
            rx, ry = full * dice.between(2, 12) // 100, full * dice.between(2, 9) // 100
            canvas.paint(ellipse(x, y, rx, ry, dice.between(0, TURN - 1)), colour, None)
        else:
            x1, y1 = x + full * dice.between(-60, 60) // 100, y + full * dice.between(-60, 60) // 100
            canvas.paint(stroke(x, y, x1, y1, full * dice.between(1, 4) // 100, full // 100), colour, None)


def _occlude(canvas: _Canvas, dice: Dice, box: tuple[int, int, int, int]) -> None:
    """A twig or a leaf in front of the bird; what it covers is no longer bird."""
    x0, y0, x1, y1 = box
    x, y, full = dice.between(x0, x1), dice.between(y0, y1), canvas.side * SUB
    if dice.chance(500):
        angle = dice.between(0, TURN - 1)
        dx, dy = (int(full * f(angle)) >> 17 for f in (cosine, sine))
        canvas.paint(stroke(x - dx, y - dy, x + dx, y + dy, full * 3 // 100, full // 100), _mix(dice), 0)
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
    ramp = (np.arange(canvas.side) * 256 // canvas.side)[:, None]
    rows = (np.array(first) * (256 - ramp) + np.array(second) * ramp) >> 8
    canvas.rgb[:] = rows[:, None].astype(np.uint8)
    _clutter(canvas, dice, dice.between(4, 4 + knobs.difficulty * 24 // 1000))


def _light(rgb: npt.NDArray[np.int32], dice: Dice, knobs: Knobs) -> Image:
    """Exposure, colour of the light, a shadow across the picture, contrast, and the sensor's noise."""
    size, reach = knobs.image_size, knobs.difficulty
    ramp = np.arange(size) * 2 - size
    slope_x, slope_y = (dice.between(-90, 90) * reach // 500 for _ in range(2))
    shade = (
        256
        + dice.between(-70, 50) * reach // 500
        + (ramp * slope_x)[None, :] // size
        + (ramp * slope_y)[:, None] // size
    )
    tint = np.array([256 + dice.between(-26, 26) * reach // 500 for _ in range(3)])
    contrast = 256 + dice.between(-60, 30) * reach // 500
    lit = (rgb * np.clip(shade, 90, 400)[..., None] * tint) >> 16
    lit = 118 + (((lit - 118) * contrast) >> 8)
    return np.clip(lit + dice.noise(lit.shape, 12 * reach // 1000), 0, 255).astype(np.uint8)


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
    bird = _Bird(species, dice)
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
    if dice.chance(knobs.difficulty * 8 // 10):
        _occlude(canvas, dice, (int(low[0]), int(low[1]), int(high[0]), int(high[1])))
    rgb, mask = canvas.picture()
    image = _light(rgb, dice, knobs)
    landmarks, visible = _landmarks(bird, place, mask)
    per_pixel = SAMPLES * SUB
    x0, y0, x1, y1 = (int(v) / per_pixel for v in (*low, *high))
    return Picture(image, mask, (x0, y0, x1 - x0, y1 - y0), landmarks, visible)


def _landmarks(bird: _Bird, place: _Placed, mask: Image) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
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
