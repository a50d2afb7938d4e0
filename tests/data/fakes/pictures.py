"""Small noise pictures of any shape, in the formats that turn up in the datasets."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((60, 80), (80, 60), (61, 83), (50, 90))  # height, width: no squares


def write_picture(path: Path, size: tuple[int, int], kind: str = "rgb", banner: int = 0) -> None:
    """A picture whose bytes depend on its name only.

    Args:
        path: file to write, whatever its suffix.
        size: height and width.
        kind: ``rgb``, ``grey`` or ``cmyk`` JPEG; ``gif`` or ``png`` under another suffix.
        banner: rows of white at the bottom.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    pixels = rng.integers(0, 200, (*size, 3), dtype=np.uint8)
    pixels[len(pixels) - banner :] = 255
    image = Image.fromarray(pixels)
    mode, form = {
        "rgb": ("RGB", "JPEG"),
        "grey": ("L", "JPEG"),
        "cmyk": ("CMYK", "JPEG"),
        "gif": ("P", "GIF"),
        "png": ("RGBA", "PNG"),
    }[kind]
    image.convert(mode).save(path, form, **({"quality": 95} if form == "JPEG" else {}))


def write_voc(
    path: Path, folder: str, name: str, size: tuple[int, int], boxes: list[tuple[int, ...]], thing: str = "thing"
) -> None:
    """An annotation as in ImageNet and Stanford Dogs: tabs, one object a box, no XML declaration."""
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = "".join(
        f"\t<object>\n\t\t<name>{thing}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        f"\t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>{x0}</xmin>\n\t\t\t<ymin>{y0}</ymin>\n"
        f"\t\t\t<xmax>{x1}</xmax>\n\t\t\t<ymax>{y1}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for x0, y0, x1, y1 in boxes
    )
    head = (
        f"<annotation>\n\t<folder>{folder}</folder>\n\t<filename>{name}</filename>\n\t<source>\n"
        f"\t\t<database>ImageNet database</database>\n\t</source>\n\t<size>\n\t\t<width>{size[1]}</width>\n"
        f"\t\t<height>{size[0]}</height>\n\t\t<depth>3</depth>\n\t</size>\n\t<segment>0</segment>\n"
    )
    path.write_text(f"{head}{objects}</annotation>")


def cell(values: list[str], column: bool = True) -> np.ndarray:
    """A MATLAB cell of strings, as scipy writes one."""
    found = np.empty((len(values), 1) if column else (1, len(values)), object)
    found.flat = values
    return found


def struct(rows: list[dict]) -> np.ndarray:
    """A MATLAB struct array of one row."""
    found = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    for i, row in enumerate(rows):
        found[0, i] = tuple(row.values())
    return found
