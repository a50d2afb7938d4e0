"""Pictures of what a method looked at: input, saliency and parts of a fixed set of images on one sheet.

Arrays in, PNG out; no torch. A part has one colour in every picture, taken from a palette that colour-blind people can
tell apart, and its number at its centre.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fgbench.result import write_atomically

# Okabe and Ito's palette without black; then each hue darker, then lighter.
HUES = np.array(
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]]
)
PALETTE = np.concatenate([HUES, HUES * 0.55, 255 - (255 - HUES) * 0.45]).round().astype(np.uint8)
# Of lines, on white, where its yellow is not seen: the palette's other hues and black, then the same dashed, and so on.
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
STYLES = ("-", "--", "-.", ":")
MOST_PARTS = 12  # that one picture can show; those with the highest peaks
ROWS = 6  # examples below each other, before a second block stands beside the first
INCH = 2.0  # side of a picture
LINE = 38  # characters that fit above it


@dataclass(frozen=True)
class Example:
    """One image and what a method says of it.

    Attributes:
        image_id: position in the dataset's published order.
        image: ``h w 3`` RGB, 0 to 255.
        target: what it shows; empty where nobody says.
        predicted: what the method says.
        saliency: ``u v``, non-negative, over the whole image; None where the method has none.
        parts: ``p u v``, non-negative; None where the method has none.
        boxes: ``n 4``, ``x0 y0 x1 y1`` in pixels of the image; only the valid ones.
        landmarks: ``l 2``, ``x y`` in pixels of the image; only the visible ones.
        finer: ``p s u v``, non-negative: the maps of an earlier stage within each part; None where the method has none.
        aspect: height of a pixel over its width in the original file; 1 unless the view squashes images.
        name: of the file, where that is how people know it.
    """

    image_id: int
    image: UInt8[np.ndarray, "h w 3"]
    target: str
    predicted: str
    saliency: Float[np.ndarray, "u v"] | None = None
    parts: Float[np.ndarray, "p u2 v2"] | None = None
    boxes: Float[np.ndarray, "n 4"] | None = None
    landmarks: Float[np.ndarray, "l 2"] | None = None
    finer: Float[np.ndarray, "p s u3 v3"] | None = None
    aspect: float = 1.0
    name: str = ""


@contextmanager
def plain_text() -> Iterator[None]:
    """Text is drawn as it is: the name of a file may hold a $, which begins no formula."""
    with rc_context({"text.parse_math": False}):
        yield


def short(name: str, most: int = 26) -> str:
    """A name that fits above a picture.

    >>> short("a_rather_long_name_of_a_bird_001.Somewhere", 12)
    'a_rather_lo…'
    """
    return name if len(name) <= most else name[: most - 1] + "…"


def part_colours(parts: Int[np.ndarray, " p"]) -> UInt8[np.ndarray, "p 3"]:
    """RGB of part numbers; they repeat after 21."""
    colours: np.ndarray = PALETTE[parts % len(PALETTE)]
    return colours


def resize(maps: Float[np.ndarray, "p u v"], height: int, width: int) -> Float[np.ndarray, "p h w"]:
    """Bilinear, cell centres at half pixels, constant beyond the outermost centres."""
    rows, columns = _interpolation(maps.shape[1], height), _interpolation(maps.shape[2], width)
    resized: np.ndarray = rows @ maps.astype(np.float32) @ columns.T
    return resized


def _interpolation(cells: int, pixels: int) -> Float[np.ndarray, "pixels cells"]:
    position = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    low = np.minimum(position.astype(int), max(cells - 2, 0))
    weights = np.zeros((pixels, cells), np.float32)
    weights[np.arange(pixels), np.minimum(low + 1, cells - 1)] = position - low
    weights[np.arange(pixels), low] += 1 - (position - low)
    return weights


def saliency_overlay(
    image: UInt8[np.ndarray, "h w 3"], saliency: Float[np.ndarray, "u v"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The image, dark where the saliency is least, through a colour map where it is more; dark if it is flat."""
    strength = resize(saliency[None], *image.shape[:2])[0]
    most = float(strength.max())
    strength = strength - float(strength.min())  # some methods' maps vary little above a high floor
    spread = float(strength.max())
    flat = spread <= 1e-6 * abs(most)  # what resizing makes of a constant
    strength = (np.zeros_like(strength) if flat else strength / spread)[..., None]
    heat = colormaps["inferno"](strength[..., 0])[..., :3] * 255
    grey = image.mean(axis=2, keepdims=True) * 0.6
    alpha = 0.75 * strength
    blended: np.ndarray = (grey * (1 - alpha) + heat * alpha).round().astype(np.uint8)
    return blended


def part_overlay(image: UInt8[np.ndarray, "h w 3"], parts: Float[np.ndarray, "p u v"]) -> UInt8[np.ndarray, "h w 3"]:
    """Each pixel in the colour of its strongest part, as strongly as that part is there."""
    shown = shown_parts(parts)
    maps = resize(parts[shown], *image.shape[:2])
    strongest = maps.argmax(axis=0)
    strength = np.take_along_axis(maps, strongest[None], axis=0)[0]
    alpha = 0.7 * np.clip(strength / max(float(strength.max()), 1e-12), 0, 1)[..., None]
    grey = image.mean(axis=2, keepdims=True)
    blended: np.ndarray = (grey * (1 - alpha) + part_colours(shown)[strongest] * alpha).round().astype(np.uint8)
    return blended


def shown_parts(parts: Float[np.ndarray, "p u v"]) -> Int[np.ndarray, " shown"]:
    """Numbers of the parts that a picture shows, in their order."""
    shown: np.ndarray = np.sort(np.argsort(-parts.max(axis=(1, 2)), kind="stable")[:MOST_PARTS])
    return shown


def left_out(parts: Float[np.ndarray, "p u v"]) -> str:
    """That a picture does not show all parts, if so."""
    return f"{MOST_PARTS} of {len(parts)}, highest peaks" if len(parts) > MOST_PARTS else ""


def centroids(parts: Float[np.ndarray, "p u v"], height: int, width: int) -> Float[np.ndarray, "p 2"]:
    """Centre of mass of each part, ``x y`` in pixels; the image's centre for a part that is nowhere."""
    _, rows, columns = parts.shape
    maps = parts.astype(np.float64)
    maps = np.where(maps.sum(axis=(1, 2), keepdims=True) > 0, maps, 1.0)
    mass = maps.sum(axis=(1, 2))
    x = (maps.sum(axis=1) @ (np.arange(columns) + 0.5)) * width / columns / mass
    y = (maps.sum(axis=2) @ (np.arange(rows) + 0.5)) * height / rows / mass
    return np.stack([x, y], axis=1)


@plain_text()
def write_sheet(path: Path, examples: Sequence[Example], title: str = "") -> None:
    """Draw all examples on one sheet; what no example has takes no room.

    Args:
        path: the PNG file.
        examples: at least one.
        title: line above the sheet.
    """
    if not examples:
        raise ValueError(f"{path}: there is no example to draw")
    kinds = ["image"]
    kinds += ["saliency"] if any(example.saliency is not None for example in examples) else []
    kinds += ["parts"] if any(example.parts is not None for example in examples) else []
    blocks = -(-len(examples) // ROWS)
    rows, columns = -(-len(examples) // blocks), len(kinds) * blocks
    figure = Figure(figsize=(columns * INCH, rows * INCH * 1.2 + 0.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, example in enumerate(examples):
        block, row = divmod(index, rows)
        for offset, kind in enumerate(kinds):
            _draw(axes[row, block * len(kinds) + offset], kind, example)
    figure.suptitle(title, fontsize=9)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    write_atomically(path, png.getvalue())


def _draw(axis: Axes, kind: str, example: Example) -> None:
    height, width = example.image.shape[:2]
    if kind == "image":
        axis.imshow(example.image)
        _draw_annotations(axis, example)
        right = example.target in (example.predicted, "")
        verdict = "right" if right else f"WRONG: {example.predicted}"
        verdict = verdict if example.target else f"says {example.predicted}"
        lines = [short(line, LINE) for line in (example.target or example.name, verdict)]
        axis.set_title("\n".join(lines), fontsize=7, loc="left", color="black" if right else "#d55e00")
    elif kind == "saliency" and example.saliency is not None:
        axis.imshow(saliency_overlay(example.image, example.saliency))
        axis.set_title("saliency,\nleast to most", fontsize=7, loc="left")
    elif kind == "parts" and example.parts is not None:
        axis.imshow(part_overlay(example.image, example.parts))
        _draw_centres(axis, example.parts, height, width)
        axis.set_title(f"parts\n{left_out(example.parts)}", fontsize=7, loc="left")
    axis.set_aspect(example.aspect)
    axis.set_xlim(-0.5, width - 0.5)  # annotations outside of the image must not shrink it
    axis.set_ylim(height - 0.5, -0.5)


def _draw_annotations(axis: Axes, example: Example) -> None:
    style: dict[str, Any] = {"fill": False, "linewidth": 1.2}
    for x0, y0, x1, y1 in example.boxes if example.boxes is not None else ():
        corner = (x0 - 0.5, y0 - 0.5)  # matplotlib's pixel centres are whole numbers, ours are halves
        axis.add_patch(Rectangle(corner, x1 - x0, y1 - y0, edgecolor="white", **style))
        axis.add_patch(Rectangle(corner, x1 - x0, y1 - y0, edgecolor="black", linestyle="--", **style))
    if example.landmarks is not None and len(example.landmarks):
        x, y = example.landmarks.T - 0.5
        axis.plot(x, y, linestyle="none", marker="+", markersize=5, color="white", markeredgewidth=1.5)
        axis.plot(x, y, linestyle="none", marker="+", markersize=4, color="black", markeredgewidth=0.6)


def _draw_centres(axis: Axes, parts: Float[np.ndarray, "p u v"], height: int, width: int) -> None:
    centres = centroids(parts, height, width) - 0.5
    shown = shown_parts(parts)
    for part, colour in zip(shown, part_colours(shown) / 255, strict=True):
        x, y = centres[part]
        axis.plot(x, y, marker="o", markersize=11, color=colour, markeredgecolor="white", markeredgewidth=0.8)
        dark = colour @ (0.299, 0.587, 0.114) < 0.5
        axis.text(x, y, str(part), fontsize=7, ha="center", va="center_baseline", color="white" if dark else "black")
