"""A sheet of the images on which two settings differ most."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fgbench.result import write_atomically

COLUMNS = 4
INCH = 2.4


@dataclass(frozen=True)
class Picture:
    """One image and what two settings make of it.

    Attributes:
        image: ``h w 3`` RGB, 0 to 255.
        boxes: ``n 4``, ``x0 y0 x1 y1`` in pixels of the image.
        caption: the label.
        a: what the first setting says of it, and how good that is.
        b: of the second.
        aspect: height of a pixel over its width in the original file; 1 unless the view squashes images.
    """

    image: UInt8[np.ndarray, "h w 3"]
    boxes: Float[np.ndarray, "n 4"]
    caption: str
    a: str
    b: str
    aspect: float = 1.0


def write_differing(path: Path, pictures: Sequence[Picture], title: str) -> None:
    """Draw them on one PNG.

    Raises:
        ValueError: there is no picture.
    """
    if not pictures:
        raise ValueError(f"{path}: the two do not differ on any image")
    rows = -(-len(pictures) // COLUMNS)
    columns = min(COLUMNS, len(pictures))
    figure = Figure(figsize=(columns * INCH, rows * INCH * 1.35 + 0.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axis in (axes := figure.subplots(rows, columns, squeeze=False)).flat:
        axis.axis("off")
    for axis, picture in zip(axes.flat, pictures, strict=False):
        height, width = picture.image.shape[:2]
        axis.imshow(picture.image)
        for x0, y0, x1, y1 in picture.boxes:
            for colour, line in (("white", "-"), ("black", "--")):
                corner = (x0 - 0.5, y0 - 0.5)  # matplotlib's pixel centres are whole numbers, ours are halves
                axis.add_patch(Rectangle(corner, x1 - x0, y1 - y0, fill=False, edgecolor=colour, linestyle=line))
        axis.set_xlim(-0.5, width - 0.5)
        axis.set_ylim(height - 0.5, -0.5)
        axis.set_aspect(picture.aspect)
        lines = [picture.caption, f"a: {picture.a}", f"b: {picture.b}"]
        axis.set_title("\n".join(line[:44] for line in lines), fontsize=7, loc="left")
    figure.suptitle(title, fontsize=8)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    write_atomically(path, png.getvalue())
