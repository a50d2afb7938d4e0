"""Pictures of channels that belong to classes: arrays in, PNG out; no torch.

After Chang et al., arXiv 2102.00367: ``write_channels`` is Figure 6, ``write_before_after`` Figure 3a. A map is shown
as it is, without Grad-CAM: resized bilinearly to the image, its own minimum to maximum through a colour map. Finer maps
are shown before the gate, which would put a part of the coarser map into the picture. Unlike the paper's, colours are
such as colour-blind people can tell apart: its frames are red and green, its colour map runs from blue to red.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fgbench.report.figures import INCH, Example, plain_text, resize, short
from fgbench.result import write_atomically

COARSE, FINE = "#d55e00", "#0072b2"  # frames of the last stage's maps and of the earlier one's
MOST = 4  # channels of a class that a sheet shows
LINE = 30  # characters above a picture
FINER = 5  # maps within one of them: the paper's largest xi


def map_overlay(image: UInt8[np.ndarray, "h w 3"], values: Float[np.ndarray, "u v"]) -> UInt8[np.ndarray, "h w 3"]:
    """The image under the map's colours, from the map's minimum (blue) to its maximum (yellow)."""
    strength = resize(values[None], *image.shape[:2])[0]
    low, high = float(strength.min()), float(strength.max())
    strength = (strength - low) / max(high - low, 1e-12)
    colours = colormaps["cividis"](strength)[..., :3] * 255
    blended: np.ndarray = (0.5 * image + 0.5 * colours).round().astype(np.uint8)
    return blended


@plain_text()
def write_channels(path: Path, examples: Sequence[Example], title: str = "") -> None:
    """A row per channel of the shown class: the image, the channel in vermilion, the finer maps within it in blue.

    A place stays empty where a finer map is zero everywhere, as it is where a smaller group has none.

    Args:
        path: the PNG file.
        examples: with ``parts``, and ``finer`` where the method has it.
        title: line above.

    Raises:
        ValueError: there is nothing to draw.
    """
    shown = [example for example in examples if example.parts is not None]
    if not shown:
        raise ValueError(f"{path}: no example has channels to draw")
    rows = [(example, p) for example in shown for p in range(min(MOST, len(_parts(example))))]
    finer = max((example.finer.shape[1] for example in shown if example.finer is not None), default=0)
    figure, axes = _grid(len(rows), 2 + min(FINER, finer))
    for line, (example, p) in zip(axes, rows, strict=True):
        if p == 0:
            line[0].imshow(example.image)
            line[0].set_aspect(example.aspect)
            _said(line[0], example.target or example.name, f"as {example.predicted}")
        _framed(line[1], example, _parts(example)[p], COARSE)
        if example.finer is not None:
            for axis, values in zip(line[2:], example.finer[p], strict=False):
                if values.any():
                    _framed(axis, example, values, FINE)
    _save(figure, path, title)


def write_before_after(path: Path, before: Sequence[Example], after: Sequence[Example], title: str = "") -> None:
    """A row per image: the image, the channels of one class without the loss, the same channels with it.

    Args:
        path: the PNG file.
        before: with ``parts``, of a network that was trained without the loss on channels.
        after: the same images and classes, of one that was trained with it.
        title: line above.

    Raises:
        ValueError: the two are not of the same images.
    """
    if not after or [one.image_id for one in before] != [one.image_id for one in after]:
        raise ValueError(f"{path}: before and after must be of the same images, at least one")
    count = min(MOST, *(len(_parts(example)) for example in (*before, *after)))
    figure, axes = _grid(len(after), 1 + 2 * count)
    for line, first, second in zip(axes, before, after, strict=True):
        line[0].imshow(second.image)
        line[0].set_aspect(second.aspect)
        _said(line[0], second.target, "channels of", second.predicted)
        for p in range(count):
            _framed(line[1 + p], first, _parts(first)[p], "black")
            _framed(line[1 + count + p], second, _parts(second)[p], COARSE)
    axes[0, 1].set_title("without\n\n", fontsize=7)
    axes[0, 1 + count].set_title("with the loss\n\n", fontsize=7)
    _save(figure, path, title)


def _parts(example: Example) -> Float[np.ndarray, "p u v"]:
    if example.parts is None:
        raise ValueError(f"image {example.image_id}: the method showed no channels")
    return example.parts


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(columns * INCH * 0.8, rows * INCH * 0.85 + 0.4), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes: np.ndarray = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    return figure, axes


def _said(axis: Axes, *lines: str) -> None:
    """Above the first picture of a row; names go on to the right, where nothing stands, not out of the sheet."""
    axis.set_title("\n".join(short(line, LINE) for line in lines), fontsize=7, loc="left")


def _framed(axis: Axes, example: Example, values: Float[np.ndarray, "u v"], colour: str) -> None:
    axis.imshow(map_overlay(example.image, values))
    axis.set_aspect(example.aspect)
    axis.set_frame_on(True)
    for spine in axis.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(2.5)


def _save(figure: Figure, path: Path, title: str) -> None:
    figure.suptitle(title, fontsize=9)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    write_atomically(path, png.getvalue())
