"""Figures 2 and 3 of DP-Net (Sicre et al., ICIP 2023): a class's most important parts, and where an image shows them.

Arrays in, axes drawn on; no torch.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fgbench.report.figures import INCH, plain_text, saliency_overlay
from fgbench.result import write_atomically

SHOWN = 3  # parts of a class, and training images of each
LEFT = 0.25  # inches for the name of a row
OWN = "own proportions"  # marks axes whose picture is of another file than the row's
MOST = 20  # classes that share a part, in a histogram; more are put together


def draw_heatmap(axes: Sequence[Axes], image: UInt8[np.ndarray, "h w 3"], found: Mapping[str, np.ndarray]) -> None:
    """The image, the heatmap of the predicted class, and the most discriminative region."""
    for axis, picture, title in (
        (axes[0], image, f"class {int(found['class'][0])}"),
        (axes[1], saliency_overlay(image, found["heatmap"]), "its parts' best regions"),
        (axes[2], image, "most discriminative region"),
    ):
        axis.imshow(picture)
        axis.set_title(title, fontsize=7)
    axes[2].add_patch(frame_of(found["box"], image))


def draw_class_parts(axes: Sequence[Axes], image: UInt8[np.ndarray, "h w 3"], found: Mapping[str, np.ndarray]) -> None:
    """The image, and for each of its class's most important parts the training images with its best regions."""
    axes[0].imshow(image)
    axes[0].set_title(f"predicted: class {int(found['class'][0])}", fontsize=7)
    if "part" not in found:
        axes[1].set_title("no training image was shown to the parts yet", fontsize=7, loc="left")
        return
    _draw_parts(axes[1:], found)


def _draw_parts(axes: Sequence[Axes], found: Mapping[str, np.ndarray]) -> None:
    for place, part in enumerate(found["part"][:SHOWN]):
        for rank in range(min(SHOWN, len(found["shown"][place]))):
            axis, picture = axes[place * SHOWN + rank], found["shown"][place][rank]
            axis.imshow(picture, aspect=found["aspects"][place, rank])
            axis.set_gid(OWN)
            axis.add_patch(frame_of(found["boxes"][place, rank], picture))
            axis.set_title(f"part {part}: {found['scores'][place, rank]:.2f}", fontsize=7)


def unsquash(axes: Sequence[Axes], aspect: float) -> None:
    """Give pictures the proportions of the original file; not those that were drawn in their own."""
    for axis in axes:
        if axis.images and axis.get_gid() != OWN:
            axis.set_aspect(aspect)


def write_class_parts(path: Path, rows: Sequence[tuple[str, Mapping[str, np.ndarray]]], title: str) -> None:
    """Figure 2: for each run its class's most important parts, by their best training regions.

    Args:
        path: the PNG file.
        rows: name of a run; ``part``, ``boxes`` and ``scores``, see ``PartEvidence.class_parts``; ``shown`` and
            ``aspects``, see ``BenchDataModule.pictures``.
        title: line above the sheet.
    """
    figure, axes = _sheet(len(rows), SHOWN**2, title, [name for name, _ in rows])
    for row, (_, found) in zip(axes, rows, strict=True):
        _draw_parts(row.tolist(), found)
    _write(figure, path)


@plain_text()
def write_heatmaps(
    path: Path,
    images: Sequence[UInt8[np.ndarray, "h w 3"]],
    aspects: Sequence[float],
    captions: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Mapping[str, np.ndarray]], Sequence[str]]],
) -> None:
    """Figure 3: images, and for each run their heatmaps with the most discriminative region.

    Args:
        path: the PNG file.
        images: as the runs saw them.
        aspects: height over width of their pixels.
        captions: of each image.
        rows: name of a run; ``heatmap`` and ``box`` of each image; a line above each.
    """
    figure, axes = _sheet(1 + len(rows), len(images), "", ["", *(name for name, _, _ in rows)])
    for axis, image, caption in zip(axes[0], images, captions, strict=True):
        axis.imshow(image)
        axis.set_title(caption, fontsize=7)
    for row, (_, looked, titles) in zip(axes[1:], rows, strict=True):
        for axis, image, found, title in zip(row, images, looked, titles, strict=True):
            axis.imshow(saliency_overlay(image, found["heatmap"]))
            axis.add_patch(frame_of(found["box"], image))
            axis.set_title(title, fontsize=7)
    for column, aspect in zip(axes.T, aspects, strict=True):
        unsquash(column.tolist(), aspect)
    _write(figure, path)


def write_histograms(path: Path, rows: Sequence[tuple[str, Mapping[str, np.ndarray]]]) -> None:
    """For each run: regions per part, classes per part, and pairs of parts by their cosine.

    Args:
        path: the PNG file.
        rows: name of a run; ``regions`` and ``classes`` of each part, and ``cosines``: pairs in even bins from -1 to 1.
    """
    figure, axes = _sheet(len(rows), 3, "", [name for name, _ in rows], wide=1.8, left=0.75, gap=0.3)
    for row, (_, found) in zip(axes, rows, strict=True):
        for axis in row:
            axis.axis("on")
            axis.tick_params(labelsize=7, pad=1)
        regions = np.sort(found["regions"])[::-1]
        row[0].plot(np.arange(len(regions)) + 1, regions / max(1, regions.sum()), linewidth=1)
        row[0].set_title(f"regions of each part; {(regions == 0).sum()} of {len(regions)} parts have none", fontsize=7)
        _label(row[0], "parts, most used first", "share of all regions")
        classes = np.bincount(np.minimum(found["classes"], MOST), minlength=MOST + 1)
        row[1].bar(np.arange(MOST + 1), classes)
        row[1].set_title("how many classes share a part", fontsize=7)
        _label(row[1], f"classes with it among their parts of most power ({MOST}: or more)", "parts")
        edges = np.linspace(-1, 1, len(found["cosines"]) + 1)
        row[2].stairs(found["cosines"], edges, fill=True)
        row[2].set_title("how alike parts are", fontsize=7)
        _label(row[2], "cosine", "pairs of parts")
    _write(figure, path)


def _label(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=7, labelpad=2)
    axis.set_ylabel(y, fontsize=7, labelpad=2)


def _sheet(
    rows: int,
    columns: int,
    title: str,
    names: Sequence[str],
    wide: float = 1.0,
    left: float = LEFT,
    gap: float = 0.14,
) -> tuple[Figure, np.ndarray]:
    """Empty axes, with a name on the left of each row; ``left`` is in inches, ``gap`` a share of an axis."""
    width, height = left + columns * INCH * wide, rows * INCH * 1.15 + 0.4
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    figure.subplots_adjust(left / width, 0.35 / height, 0.99, 1 - 0.5 / height, wspace=gap, hspace=gap + 0.06)
    for row, name in zip(axes, names, strict=True):
        place = row[0].get_position()
        figure.text(0.03 / width, (place.y0 + place.y1) / 2, name, rotation=90, fontsize=7, va="center")
    figure.suptitle(title, fontsize=9, y=1 - 0.1 / height)
    return figure, axes


def _write(figure: Figure, path: Path) -> None:
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    write_atomically(path, png.getvalue())


def frame_of(box: Float[np.ndarray, " 4"], image: UInt8[np.ndarray, "h w 3"]) -> Rectangle:
    """The outline of ``y0 x0 y1 x1``, shares of the image's height and width, as imshow counts pixels."""
    height, width = image.shape[:2]
    y0, x0, y1, x1 = np.asarray(box) * (height, width, height, width)
    return Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="#ffd400", linewidth=1.5)
