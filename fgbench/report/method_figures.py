"""Figures that only some methods have: what a method hands out by name (``Method.figures``), drawn for a few images.

``sampling`` is Figure 4 of Zheng et al., CVPR 2019: the attention, its magnification along each axis, the integrals
(output position over input position), the sampling points, the sampled image. ``channels`` is Figure 5: some
channels of the feature map and the attention maps of the same channels. ``heatmap`` and ``class_parts``: see
``part_figures``.

``prototypes`` is Figure 3 of Chen et al., NeurIPS 2019: where an image is like prototypes, those it is most like, what
is there, and the training patches that these are, with their points for the predicted class: similarity times the last
layer's weight. ``gallery`` shows the prototypes of the predicted class.

``patches`` is Figure 3.2 of Shroff's thesis (2020): the boxes of an image, in the order of their rank, and the patch
that was looked at. ``steps`` is its Figures 5.1, 6.2 and 7.3: the patch, the weight of each step, and Grad-CAM of each
step with what that step says. ``attention`` shows where each step of self-attention looks.

Arrays in, PNG out; no torch.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from fgbench.report.figures import INCH, part_colours, saliency_overlay
from fgbench.report.part_figures import SHOWN, draw_class_parts, draw_heatmap, unsquash
from fgbench.result import write_atomically

Arrays = Mapping[str, np.ndarray]
POINTS = 24  # sampling points drawn along each side
STEPS = 10  # steps drawn at most
RIGHT, WRONG = "#009e73", "#d55e00"


def write_method_figure(
    path: Path,
    name: str,
    images: Sequence[UInt8[np.ndarray, "h w 3"]],
    arrays: Sequence[Arrays],
    title: str = "",
    aspects: Sequence[float] | None = None,
) -> None:
    """Draw one kind of figure for several images, a row (or two) for each.

    Args:
        path: the PNG file.
        name: a key of ``DRAWN``.
        images: what the method was shown.
        arrays: what it handed out for each.
        title: line above the sheet.
        aspects: height over width of each image's pixels; None for square ones.

    Raises:
        ValueError: there is no image, or no such figure.
    """
    if not images:
        raise ValueError(f"{path}: there is no image to draw")
    if name not in DRAWN:
        raise ValueError(f"{path}: there is no figure {name!r}; known: {', '.join(DRAWN)}")
    rows, columns, draw = DRAWN[name]
    if name in LISTED:
        listed, others = LISTED[name]
        columns = min(columns, others + max(len(found.get(listed, ())) for found in arrays))
    height = len(images) * rows * INCH * 1.15 + 0.4
    figure = Figure(figsize=(columns * INCH, height), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(images) * rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, (image, found) in enumerate(zip(images, arrays, strict=True)):
        block = axes[index * rows : (index + 1) * rows].ravel().tolist()
        draw(block, image, found)
        if aspects is not None:
            unsquash(block, aspects[index])
    figure.suptitle(title, fontsize=9, y=1 - 0.1 / height)
    # By hand: the constrained layout of a hundred axes takes half a minute.
    figure.subplots_adjust(0.01, 0.2 / height, 0.99, 1 - 0.5 / height, wspace=0.14, hspace=0.2)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    write_atomically(path, png.getvalue())


def draw_sampling(axes: Sequence[Axes], image: UInt8[np.ndarray, "h w 3"], found: Arrays) -> None:
    """Input, attention, points and sampled image; between them density and integral of each axis, where there are."""
    height, width = image.shape[:2]
    _show(axes[0], image, f"{width} x {height}")
    _show(axes[1], saliency_overlay(image, found["attention"]), "attention")
    if "rows" in found:
        for axis, integral in ((axes[2], False), (axes[3], True)):
            axis.axis("on")
            for name, colour in (("rows", "#d55e00"), ("columns", "#0072b2")):
                curve = found[name].cumsum() / found[name].sum() if integral else found[name]
                place = (np.arange(len(curve)) + 0.5) / len(curve)
                axis.plot(place, curve, color=colour, linewidth=1.2, label={"rows": "y", "columns": "x"}[name])
            _scale(axis)
            axis.set_title("integral" if integral else "magnification", fontsize=7)
            axis.legend(fontsize=7, frameon=False, handlelength=1)
    _show(axes[4], image, "points")
    oh, ow = found["points"].shape[:2]
    some = found["points"][:: max(1, oh // POINTS), :: max(1, ow // POINTS)].reshape(-1, 2) - 0.5
    axes[4].plot(some[:, 0], some[:, 1], linestyle="none", marker=".", markersize=1.5, color="#0072b2")
    axes[4].set_xlim(-0.5, width - 0.5)
    axes[4].set_ylim(height - 0.5, -0.5)
    sampled = np.moveaxis(found["sampled"], 0, -1)
    _show(axes[5], sampled, f"sampled, {sampled.shape[1]} x {sampled.shape[0]}")


def _scale(axis: Axes, whole: bool = False) -> None:
    """A few short numbers along a curve's axes, whole ones below: there is little room between pictures."""
    axis.tick_params(labelsize=7, pad=1)
    axis.xaxis.set_major_locator(MaxNLocator(3, integer=whole))
    axis.yaxis.set_major_locator(MaxNLocator(3))
    axis.yaxis.get_offset_text().set_fontsize(7)
    axis.ticklabel_format(axis="y", scilimits=(-2, 3))


def draw_channels(axes: Sequence[Axes], image: UInt8[np.ndarray, "h w 3"], found: Arrays) -> None:
    """Above some channels of the features, below the attention maps of the same channels."""
    columns = len(axes) // 2
    _show(axes[0], image, "features")
    _show(axes[columns], image, "attention")
    for position, number in enumerate(found["index"][: columns - 1], start=1):
        _show(axes[position], saliency_overlay(image, found["features"][position - 1]), f"channel {number}")
        _show(axes[columns + position], saliency_overlay(image, found["attention"][position - 1]), "")


def draw_prototypes(axes: Sequence[Axes], image: UInt8[np.ndarray, "h w 3"], found: Arrays) -> None:
    """Where the image is like a prototype, and the box around it; what is there; the training patch that it is like."""
    columns = len(axes) // 3
    _show(axes[0], image, f"class {int(found['predicted'][0])} predicted")
    height, width = image.shape[:2]
    for position in range(min(columns - 1, len(found["maps"]))):
        above, middle, below = (axes[row * columns + 1 + position] for row in range(3))
        similarity, weight = found["similarity"][position], found["weight"][position]
        told = f"{similarity:.2f} x {weight:.2f} = {similarity * weight:.2f}"
        _show(above, saliency_overlay(image, found["maps"][position]), told)
        x0, y0, x1, y1 = found["boxes"][position].tolist()
        above.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color="#f0e442", linewidth=1))
        above.set_xlim(-0.5, width - 0.5)
        above.set_ylim(height - 0.5, -0.5)
        _show(middle, np.moveaxis(found["patch"][position], 0, -1), "this looks like")
        _show_patch(below, found, position)


def draw_gallery(axes: Sequence[Axes], image: UInt8[np.ndarray, "h w 3"], found: Arrays) -> None:
    """The image, then the training patches that the prototypes of its predicted class are."""
    _show(axes[0], image, f"class {int(found['predicted'][0])} predicted")
    for position in range(min(len(axes) - 1, len(found["picture"]))):
        _show_patch(axes[1 + position], found, position)


def _show_patch(axis: Axes, found: Arrays, position: int) -> None:
    source = int(found["source"][position])
    told = f"class {int(found['class'][position])}, " + ("not projected" if source < 0 else f"image {source}")
    _show(axis, np.moveaxis(found["picture"][position], 0, -1), told)


def draw_patches(axes: Sequence[Axes], image: UInt8[np.ndarray, "h w 3"], found: Arrays) -> None:
    """All boxes in the image, the first ones strongest; the one that was looked at; its patch."""
    _show(axes[0], image, f"{len(found['boxes'])} patches")
    _show(axes[1], image, "shown")
    colours = part_colours(np.arange(len(found["boxes"]))) / 255
    for rank in reversed(range(len(found["boxes"]))):
        _outline(axes[0], found["boxes"][rank], colours[rank], 1.8 if rank == 0 else 1.0)
    _outline(axes[1], found["shown"], colours[0], 1.8)
    _show(axes[2], np.moveaxis(found["patch"], 0, -1), "patch")


def draw_steps(axes: Sequence[Axes], image: UInt8[np.ndarray, "h w 3"], found: Arrays) -> None:
    """The patch, weights of the steps, and a map of each step; green where its answer is right, else red."""
    patch = np.moveaxis(found["patch"], 0, -1)
    _show(axes[0], patch, str(found.get("label", "patch")))
    if "maps" not in found:
        _show(axes[1], saliency_overlay(patch, found["pooled"]), "evidence")
        return
    count = len(found["maps"])
    if "weights" in found:
        axes[1].axis("on")
        axes[1].bar(np.arange(count) + 1, found["weights"], color="#0072b2")
        _scale(axes[1], whole=True)
        axes[1].set_ylim(0, max(1.0, float(found["weights"].max())))  # rows can be compared; a sum weighs each by 1
        axes[1].set_title("weight of each step", fontsize=7)
    chosen = np.unique(np.linspace(0, count - 1, min(count, STEPS)).round().astype(int))
    for axis, step in zip(axes[2:], chosen, strict=False):
        _show(axis, saliency_overlay(patch, found["maps"][step]), f"t = {step + 1}")
        if "predicted" in found and "target" in found:
            right = int(found["predicted"][step]) == int(found["target"])
            axis.set_title(
                f"t = {step + 1} {'right' if right else 'wrong'}", fontsize=7, color=RIGHT if right else WRONG
            )


def _outline(axis: Axes, box: np.ndarray, colour: np.ndarray, width: float) -> None:
    x0, y0, x1, y1 = box - 0.5  # matplotlib's pixel centres are whole numbers, ours are halves
    axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=tuple(colour), linewidth=width))


def _show(axis: Axes, picture: UInt8[np.ndarray, "h w 3"], title: str) -> None:
    axis.imshow(picture)
    axis.set_title(title, fontsize=7)


DRAWN: dict[str, tuple[int, int, Callable[[Sequence[Axes], np.ndarray, Arrays], None]]] = {
    "sampling": (1, 6, draw_sampling),
    "channels": (2, 10, draw_channels),
    "prototypes": (3, 6, draw_prototypes),
    "gallery": (1, 11, draw_gallery),
    "patches": (1, 3, draw_patches),
    "steps": (1, STEPS + 2, draw_steps),
    "attention": (1, STEPS + 2, draw_steps),
    "heatmap": (1, 3, draw_heatmap),
    "class_parts": (1, 1 + SHOWN**2, draw_class_parts),
}
"""By name: rows and columns of pictures for one image, and what draws them."""

LISTED = {"prototypes": ("maps", 1), "gallery": ("picture", 1), "steps": ("maps", 2), "attention": ("maps", 2)}
"""Figures with a picture for each entry of an array, beside so many others: an image with few has few columns."""
