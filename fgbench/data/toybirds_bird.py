"""One toybird in its own coordinates: a list of polygons, each with the part that it belongs to, and its landmarks.

Units: the body is 68 long; ``x`` towards the head, ``y`` down; the bird faces right. The pose (wings, tail, head,
legs) is chosen here; place, size and direction are the picture's.
"""

from typing import NamedTuple

import numpy as np

from fgbench.data.raster import Dice, IntArray, ellipse, rotate, stroke
from fgbench.data.toybirds_catalogue import COLOURS, Species

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


class Bird:
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
            colour, ankle = self.colour("legs.colour"), (foot * UNIT, 36 * UNIT)
            self._add(part, stroke((x * UNIT, 16 * UNIT), ankle, 4 * UNIT, 3 * UNIT), colour)
            toes = ((foot - 4) * UNIT, 36 * UNIT), ((foot + 8) * UNIT, 37 * UNIT)
            self._add(part, stroke(*toes, 3 * UNIT, 2 * UNIT), colour)
            self.landmarks[part] = (_at(x, 22) + _at(foot, 36)) // 2

    def _tail(self) -> None:
        root = _at(-26, -2)

        def put(points: IntArray) -> IntArray:
            return rotate(points, self._tail_angle) + root

        outlines = {
            "wedge": _poly((6, -8), (-36, -11), (-40, 9), (6, 8)),
            "forked": _poly((6, -8), (-46, -24), (-18, 0), (-46, 24), (6, 8)),
            "round": _poly((6, -6), (-14, -18), (-30, -16), (-40, 0), (-30, 16), (-14, 18), (6, 6)),
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
            self._add("beak", put(_poly((14, -22), (38, -8), (14, -2))), beak)
        else:
            self._add("beak", put(_poly((14, -16), (54, -10), (14, -6))), beak)
        if self._species["crown.shape"] == "crested":
            for tip in ((14, -46), (0, -50), (-14, -47), (-27, -38)):
                self._add("crown", put(_poly((tip[0] // 2 + 8, -20), tip, (tip[0] // 2 - 3, -17))), crown)
        self._add("head", put(_oval(6, -13, 15, 14)), head)
        self._add("throat", put(_oval(11, 0, 12, 9)), throat, "head", "back", "breast")
        self._add("crown", put(_poly((-14, -30), (24, -30), (24, -17), (-2, -16), (-14, -12))), crown, "head")
        self._add("eye", put(_oval(11, -14, 4, 4)), (240, 240, 236))
        self._add(None, put(_oval(12, -14, 2, 2)), (12, 12, 14), "eye")
        at = {
            "beak": (26, -10),
            "crown": (5, -24),
            "forehead": (15, -20),
            "eye": (11, -14),
            "nape": (-8, -8),
            "throat": (11, 0),
        }
        self.landmarks |= {name: put(_at(x, y)) for name, (x, y) in at.items()}
