"""Figures 2 and 3 of DP-Net (Sicre et al., ICIP 2023): a class's most important parts, and where an image shows them.

Arrays in, axes drawn on; no torch.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from fgbench.report.figures import saliency_overlay

SHOWN = 3  # parts of a class, and training images of each


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
    for place, part in enumerate(found["part"][:SHOWN]):
        for rank in range(SHOWN):
            axis, picture = axes[1 + place * SHOWN + rank], found["shown"][place][rank]
            axis.imshow(picture)
            axis.add_patch(frame_of(found["boxes"][place, rank], picture))
            axis.set_title(f"part {part}: {found['scores'][place, rank]:.2f}", fontsize=7)


def frame_of(box: Float[np.ndarray, " 4"], image: UInt8[np.ndarray, "h w 3"]) -> Rectangle:
    """The outline of ``y0 x0 y1 x1``, shares of the image's height and width, as imshow counts pixels."""
    height, width = image.shape[:2]
    y0, x0, y1, x1 = np.asarray(box) * (height, width, height, width)
    return Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="#ffd400", linewidth=1.5)
