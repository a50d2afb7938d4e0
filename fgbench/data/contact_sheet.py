"""A page of images as a method will see them, with boxes and landmarks where the numbers say: look before training."""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from fgbench.data.base import BenchDataModule
from fgbench.data.listing import Split
from fgbench.types import Batch

_BOX, _LEFT, _RIGHT, _MIDDLE = (0, 255, 0), (255, 60, 60), (80, 160, 255), (255, 255, 0)


def contact_sheet(
    data: BenchDataModule,
    path: Path,
    split: Split = "train",
    view: Literal["train", "test", "locate"] = "train",
    rows: int = 6,
    columns: int = 8,
    cell: int = 192,
    marks: bool = True,
) -> list[int]:
    """Write a PNG of ``rows`` x ``columns`` images, spread evenly over a split.

    Left landmarks are red, right ones blue, others yellow; boxes are green.

    Args:
        data: a datamodule that has been set up.
        path: the file to write; its folder is made.
        split: which images.
        view: through which of the protocol's views.
        rows: of the page.
        columns: of the page.
        cell: side of one image on the page, pixels.
        marks: whether to draw boxes and landmarks.

    Returns:
        ``image_id`` of the images shown, row by row.

    Raises:
        ValueError: the split is empty, an image is damaged, or the file is to be no PNG.
        OSError: an image is missing, or the file cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the picture is a PNG, so its name must end in .png")
    chosen = {"train": data.train_view, "test": data.test_view, "locate": data.seen_view}[view]
    dataset, names = data.dataset(chosen), data.landmark_names
    available = data.listing.rows(split)
    if not len(available):
        raise ValueError(f"there is no {split} image" + (": set val_fraction, e.g. to 0.1" if split == "val" else ""))
    picked = available[np.linspace(0, len(available) - 1, min(rows * columns, len(available))).round().astype(int)]
    page = np.full((rows * cell, columns * cell, 3), 255, np.uint8)
    shown = []
    for place, row in enumerate(picked.tolist()):
        item = dataset[row, 0]
        top, left = place // columns * cell, place % columns * cell
        caption = "" if item.target.ndim else data.label_names[int(item.target)]
        page[top : top + cell, left : left + cell] = _cell(item, names, cell, caption, marks)
        shown.append(int(item.image_id))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), page[..., ::-1]):
        raise OSError(f"{path}: OpenCV could not write the picture")
    return shown


def _cell(item: Batch, names: tuple[str, ...], cell: int, caption: str, marks: bool) -> UInt8[ndarray, "cell cell 3"]:
    """One image, scaled into a square with its aspect kept."""
    image = item.image.permute(1, 2, 0).numpy()
    scale = cell / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    square = np.zeros((cell, cell, 3), np.uint8)
    square[: size[1], : size[0]] = small
    if marks:
        for x0, y0, x1, y1 in (item.boxes[item.box_valid].numpy() * scale).round().astype(int).tolist():
            cv2.rectangle(square, (x0, y0), (x1, y1), _BOX, 1)
        for name, seen, point in zip(names, item.visible.tolist(), item.landmarks.numpy() * scale, strict=True):
            colour = _LEFT if name.startswith("left") else _RIGHT if name.startswith("right") else _MIDDLE
            if seen:
                cv2.circle(square, (int(point[0]), int(point[1])), max(1, cell // 90), colour, -1)
    if caption:
        square[-cell // 12 :] //= 3
        at, font = (3, cell - cell // 40), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(square, caption, at, font, cell / 500, (255, 255, 255), 1, cv2.LINE_AA)
    return square
