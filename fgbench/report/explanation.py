"""One image and why a method decided as it did, on one picture: prediction, saliency, parts, contributions, neighbours.

Arrays in, PNG out; no torch. A part has the colour and the number that it has in every other picture.
"""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fgbench.report.figures import (
    Example,
    _draw_annotations,
    _draw_centres,
    left_out,
    part_colours,
    part_overlay,
    plain_text,
    saliency_overlay,
    short,
    shown_parts,
)
from fgbench.result import write_atomically

PANEL = 3.0  # inches
BLUE = "#0072b2"
ELSE = (0.7, 0.7, 0.7)


@dataclass(frozen=True)
class Neighbour:
    """A training image that is near.

    Attributes:
        image: ``h w 3`` RGB.
        label: what it shows.
        distance: one minus the cosine of the embeddings' angle.
        aspect: see ``Example``.
    """

    image: UInt8[np.ndarray, "h w 3"]
    label: str
    distance: float
    aspect: float = 1.0


@dataclass(frozen=True)
class Contributions:
    """What each part adds to the decision, or why that is not known.

    Attributes:
        values: of each part; None where it cannot be said.
        unit: what they are.
        whole: what they and all else add up to; None where there is nothing else.
        reason: why there are no values.
    """

    values: Float[np.ndarray, " p"] | None = None
    unit: str = ""
    whole: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Explanation:
    """All that is said of one image.

    Attributes:
        example: image, saliency and parts.
        answers: the most probable classes or attributes with their probabilities, the first one first.
        contributions: of each part to the decision.
        neighbours: training images, the nearest first.
        true: the class, or the attributes that are there; None where nobody says.
    """

    example: Example
    answers: Sequence[tuple[str, float]]
    contributions: Contributions
    neighbours: Sequence[Neighbour] = ()
    true: Sequence[str] | None = None


@plain_text()
def write_explanation(path: Path, found: Explanation, title: str = "") -> None:
    """Draw one image's explanation; maps that there are not take no room."""
    example = found.example
    panels = ["image", "answers"]
    panels += ["saliency"] if example.saliency is not None else []
    panels += ["parts"] if example.parts is not None else []
    panels += ["contributions"]
    rows, columns = (2 if found.neighbours else 1), max(len(panels), len(found.neighbours))
    figure = Figure(figsize=(columns * PANEL, rows * PANEL * 1.15 + 0.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    halves = figure.subfigures(rows, 1, squeeze=False)[:, 0]  # long names above must not move the pictures below
    axes = [half.subplots(1, n, squeeze=False)[0] for half, n in zip(halves, (len(panels), columns), strict=False)]
    for axis in np.concatenate(axes):
        axis.axis("off")
    for axis, panel in zip(axes[0], panels, strict=True):
        DRAWN[panel](axis, found)
    for axis, neighbour in zip(axes[-1], found.neighbours, strict=False):
        axis.imshow(neighbour.image)
        axis.set_aspect(neighbour.aspect)
        axis.set_title(f"near in training, {neighbour.distance:.3f}\n{short(neighbour.label)}", fontsize=9)
    figure.suptitle(title, fontsize=10)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    write_atomically(path, png.getvalue())


def _picture(axis: Axes, example: Example, pixels: UInt8[np.ndarray, "h w 3"], title: str) -> None:
    axis.imshow(pixels)
    axis.set_title(title, fontsize=10)
    axis.set_aspect(example.aspect)


def _draw_image(axis: Axes, found: Explanation) -> None:
    example = found.example
    _picture(axis, example, example.image, short(example.name or f"image {example.image_id}"))
    _draw_annotations(axis, example)
    height, width = example.image.shape[:2]
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)


def _draw_answers(axis: Axes, found: Explanation) -> None:
    example, true = found.example, found.true
    title = "says, with probability"
    if true is not None:
        right = example.target == example.predicted
        said = short(example.target or "nothing of all that")
        title += "\n" + (f"right: {said}" if right else f"WRONG, it is {said}")
    axis.set_title(title, fontsize=10)
    lies = [true is not None and name not in true for name, _ in found.answers]
    names = [f"\u2717 {short(name, 24)}" if lie else short(name)
             for lie, (name, _) in zip(lies, found.answers, strict=True)]  # fmt: skip
    colours = ["#d55e00" if lie else BLUE for lie in lies]
    _bars(axis, names, [value for _, value in found.answers], colours, 1.0)


def _draw_saliency(axis: Axes, found: Explanation) -> None:
    if found.example.saliency is not None:
        pixels = saliency_overlay(found.example.image, found.example.saliency)
        _picture(axis, found.example, pixels, "saliency: bright is most")


def _draw_parts(axis: Axes, found: Explanation) -> None:
    parts = found.example.parts
    if parts is not None:
        _picture(axis, found.example, part_overlay(found.example.image, parts), f"parts {left_out(parts)}".rstrip())
        _draw_centres(axis, parts, *found.example.image.shape[:2])


def _draw_contributions(axis: Axes, found: Explanation) -> None:
    values, parts = found.contributions.values, found.example.parts
    axis.set_title("what each part adds" + (f",\n{found.contributions.unit}" if found.contributions.unit else ""),
                   fontsize=10)  # fmt: skip
    if values is None:
        reason = textwrap.fill(f"not known: {found.contributions.reason}", 30)
        axis.text(0.02, 0.95, reason, va="top", fontsize=9, transform=axis.transAxes)
        return
    shown = shown_parts(parts) if parts is not None and len(parts) == len(values) else np.arange(len(values))
    names, colours = [f"part {part}" for part in shown], [tuple(colour) for colour in part_colours(shown) / 255]
    numbers = values[shown].tolist()
    if found.contributions.whole is not None:
        rest = found.contributions.whole - sum(numbers)
        if abs(rest) > 1e-3 * max(map(abs, [found.contributions.whole, *numbers])):
            names, numbers, colours = [*names, "all else"], [*numbers, rest], [*colours, ELSE]
    _bars(axis, names, numbers, colours, None)


def _bars(
    axis: Axes,
    names: Sequence[str],
    values: Sequence[float],
    colours: Sequence[str | tuple[float, ...]],
    top: float | None,
) -> None:
    """Horizontal bars, the first on top, each with its number."""
    axis.axis("on")
    place = np.arange(len(values))
    axis.barh(place, values, color=list(colours), edgecolor="#555555", linewidth=0.5)
    axis.set_yticks(place, names, fontsize=9)
    axis.set_ylim(max(len(values), 5) - 0.5, -0.5)
    most = top or max(max(values), 1e-9)
    axis.set_xlim(min(0.0, *values) * 1.25, most * 1.25)
    axis.set_xticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    for y, value in zip(place.tolist(), values, strict=True):
        axis.text(max(value, 0) + 0.02 * most, y, f"{value:.3f}", va="center", fontsize=9)


DRAWN = {
    "image": _draw_image,
    "answers": _draw_answers,
    "saliency": _draw_saliency,
    "parts": _draw_parts,
    "contributions": _draw_contributions,
}
