"""CUB-200-2011: 3 classes of 4 JPEG images, the third of each grey; 15 parts; a box may leave its image."""

from pathlib import Path

from fakes import Fake, edit_lines
from fakes.pictures import SIZES, write_picture

PARTS = [
    *("back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape"),
    *("right eye", "right leg", "right wing", "tail", "throat"),
]
TREE = "CUB_200_2011"


def write(root: Path) -> None:
    tree, names = root / TREE, []
    for label in range(3):
        for i, size in enumerate(SIZES):
            names.append(f"{label + 1:03d}.Bird_{label}/Bird_{label}_{i}.jpg")
            write_picture(tree / "images" / names[-1], size, "grey" if i == 2 else "rgb")
    (tree / "parts").mkdir()
    tables = {
        "classes.txt": [f"{i + 1:03d}.Bird_{i}" for i in range(3)],
        "images.txt": names,
        "image_class_labels.txt": [i // 4 + 1 for i in range(12)],
        "train_test_split.txt": [int(i % 4 < 2) for i in range(12)],
        "bounding_boxes.txt": [f"{5 + i}.0 {7 + i}.0 30.0 20.5" for i in range(12)],
        "parts/parts.txt": PARTS,
    }
    for name, values in tables.items():
        (tree / name).write_text("".join(f"{i} {value}\n" for i, value in enumerate(values, start=1)))
    locations = [f"{i} {p} {10 + i + p}.0 {12 + i}.5 {int(p % 5 > 0)}\n" for i in range(1, 13) for p in range(1, 16)]
    (tree / "parts/part_locs.txt").write_text("".join(locations))


def empty(root: Path) -> None:
    edit_lines(root / TREE / "train_test_split.txt", lambda lines: [f"{line.split()[0]} 1" for line in lines])


FAKE = Fake(
    write,
    folder=f"{TREE}/images",
    image=f"{TREE}/images/001.Bird_0/Bird_0_0.jpg",
    annotation=f"{TREE}/bounding_boxes.txt",
    text=f"{TREE}/images.txt",
    empty=empty,
    arguments={"classes": 3},
)
