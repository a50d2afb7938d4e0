"""Accuracy against cost, coloured by interpretability, as SVG: a mark for each row of a table, a link to the row."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fgbench.leaderboard import Entry

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 24, 52
LABELLED = 8  # marks of the front that have their names beside them
NAME_HEIGHT, LETTER = 16, 7.0  # of a name, and the width of one of its letters
REACH = 9  # of a mark from its middle
STEPS = 5  # shades, from good to bad
ERRORS = {"landmark_error": "landmark error", "pointing_error": "pointing error"}  # the first that rows have counts


@dataclass(frozen=True)
class Mark:
    """One row in the plot.

    ``shade`` is from 0 (good) to ``STEPS - 1``, -1 where it has no such error; ``name`` is where its name stands: x and
    y of the text's foot, and which end or middle of it (SVG's text-anchor).
    """

    href: str
    title: str
    label: str
    x: float
    y: float
    on_front: bool
    shade: int
    name: tuple[float, float, str] = (0.0, 0.0, "start")


@dataclass(frozen=True)
class Plot:
    """What the template draws; places in SVG units.

    Attributes:
        marks: the front last, so that it is on top.
        xs: ticks of the GMACs: place and text.
        ys: of the accuracy.
        error: what the shades are of; empty without one.
        bounds: the errors between which the shades change.
        left_out: rows without accuracy or cost.
    """

    marks: tuple[Mark, ...]
    xs: tuple[tuple[float, str], ...]
    ys: tuple[tuple[float, str], ...]
    error: str
    bounds: tuple[str, ...]
    left_out: int


def plot(rows: Sequence[Entry], anchors: Sequence[str], on_front: Sequence[bool]) -> Plot | None:
    """The plot of a table; None where no row has both numbers.

    Args:
        rows: entries of one table.
        anchors: by row, the name of its place in the page.
        on_front: by row.
    """
    known = [(row, at, mark) for row, at, mark in zip(rows, anchors, on_front, strict=True) if _point(row) is not None]
    points = [point for row, _, _ in known if (point := _point(row)) is not None]
    if not points:
        return None
    costs = _padded([math.log10(cost) for cost, _ in points], 0.15)
    heights = _padded([accuracy for _, accuracy in points], 1.0)
    heights = heights[0], min(heights[1], 100.5)

    def x(cost: float) -> float:
        return _place(math.log10(cost), costs, LEFT, WIDTH - RIGHT)

    def y(accuracy: float) -> float:
        return _place(accuracy, heights, HEIGHT - BOTTOM, TOP)

    error = next((name for name in ERRORS if sum(row.mean(name) is not None for row, _, _ in known) > 1), "")
    errors = [row.mean(error) if error else None for row, _, _ in known]
    bounds = _bounds([value for value in errors if value is not None])
    labelled = sum(mark for _, _, mark in known) <= LABELLED
    marks = [
        Mark(
            f"#{at}", _title(row, error), row.label if mark and labelled else "", x(cost), y(accuracy), mark,
            -1 if value is None else sum(value > bound for bound in bounds),
        )
        for (row, at, mark), (cost, accuracy), value in zip(known, points, errors, strict=True)
    ]  # fmt: skip
    marks = sorted(_named(marks), key=lambda mark: mark.on_front)
    xs = tuple((x(tick), f"{tick:g}") for tick in _log_ticks(10 ** costs[0], 10 ** costs[1]))
    ys = tuple((y(tick), f"{tick:g}") for tick in _ticks(*heights))
    said = tuple(f"{bound:.1f}" for bound in bounds)
    return Plot(tuple(marks), xs, ys, ERRORS.get(error, ""), said, len(rows) - len(known))


Box = tuple[float, float, float, float]


def _named(marks: Sequence[Mark]) -> list[Mark]:
    """Each name at that of a few places beside its mark which lies least on marks and earlier names."""
    taken: list[Box] = [(mark.x - REACH, mark.y - REACH, mark.x + REACH, mark.y + REACH) for mark in marks]
    found = []
    for mark in marks:
        if mark.label:
            width, beside, above = LETTER * len(mark.label), REACH + 2.0, NAME_HEIGHT + 2.0
            places = [
                (mark.x + way * beside * (anchor != "middle"), mark.y + 4 + lift, anchor)
                for lift in (0.0, -above, above)
                for way, anchor in ((1, "start"), (-1, "end"), (0, "middle"))
                if lift or way
            ]
            boxes = [_box(place, width) for place in places]
            hidden = [sum(_shared(box, other) for other in taken) + 4 * _outside(box) for box in boxes]
            best = hidden.index(min(hidden))
            taken.append(boxes[best])
            mark = replace(mark, name=places[best])
        found.append(mark)
    return found


def _box(place: tuple[float, float, str], width: float) -> Box:
    x, y, anchor = place
    left = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
    return left, y - NAME_HEIGHT + 4, left + width, y + 4


def _shared(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box) -> float:
    """How much of a box is not within the plot."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _shared(
        box, (float(LEFT), 0.0, float(WIDTH), float(HEIGHT - BOTTOM))
    )


def _point(row: Entry) -> tuple[float, float] | None:
    cost, accuracy = row.mean("gmacs"), row.mean("accuracy")
    return (cost, accuracy) if cost and accuracy is not None else None


def _title(row: Entry, error: str) -> str:
    parts = [row.label, f"accuracy {row.cell('accuracy')} %", f"{row.cell('gmacs')} GMACs"]
    return ", ".join(parts + ([f"{ERRORS[error]} {row.cell(error)} %"] if error and row.cell(error) else []))


def _padded(values: Sequence[float], least: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = max(0.08 * (high - low), least)
    return low - pad, high + pad


def _place(value: float, bounds: tuple[float, float], start: int, end: int) -> float:
    return round(start + (value - bounds[0]) / (bounds[1] - bounds[0]) * (end - start), 1)


def _bounds(errors: Sequence[float]) -> list[float]:
    """Between which the shades change: steps of the same size."""
    if not errors or max(errors) == min(errors):
        return []
    low, high = min(errors), max(errors)
    return [low + (high - low) * step / STEPS for step in range(1, STEPS)]


def _ticks(low: float, high: float) -> list[float]:
    size = (high - low) / 5
    power = 10 ** math.floor(math.log10(size))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= size)
    first = math.ceil(low / step)
    return [round(float(index * step), 6) for index in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; more where too few of these fit; evenly apart where the range is small."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        found = [float(f"{factor * 10.0**power:.6g}") for power in powers for factor in factors]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) >= 3:
            return found[:: -(-len(found) // 9)]
    return _ticks(low, high)
