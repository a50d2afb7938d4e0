"""CelebA: a count, a line of names with a blank at its end, numbers set in columns of two or more; 20 faces."""

from pathlib import Path

import numpy as np

from fakes import Fake, edit_lines
from fakes.pictures import write_picture

TREE = "celeba"
COUNT = 20
ATTRIBUTES = ["5_o_Clock_Shadow", "Arched_Eyebrows", *(f"Attribute_{i}" for i in range(3, 40)), "Young"]
PARTITION = [0] * 10 + [1] * 4 + [2] * 6
MARKS = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"


def name(i: int) -> str:
    return f"{i + 1:06d}.jpg"


def attributes(i: int) -> np.ndarray:
    return np.where((np.arange(40) + i) % 3 == 0, 1, -1)


def aligned(i: int) -> list[int]:
    return [69 + i % 3, 109, 106, 113 + i % 2, 77, 142, 73, 152, 108, 154]


def table(path: Path, heading: str, rows: list[list[int]], width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [" ".join([name(i), *(f"{value:{width}d}" for value in row)]) for i, row in enumerate(rows)]
    path.write_text("".join(f"{line}\n" for line in [str(len(rows)), heading, *lines]))


def write_lists(root: Path) -> None:
    tree = root / TREE
    table(
        tree / "Anno/list_attr_celeba.txt",
        " ".join(ATTRIBUTES) + " ",
        [attributes(i).tolist() for i in range(COUNT)],
        2,
    )
    (tree / "Eval").mkdir(exist_ok=True)
    lines = [f"{name(i)} {part}\n" for i, part in enumerate(PARTITION)]
    (tree / "Eval/list_eval_partition.txt").write_text("".join(lines))


def write(root: Path) -> None:
    write_lists(root)
    table(root / TREE / "Anno/list_landmarks_align_celeba.txt", MARKS, [aligned(i) for i in range(COUNT)], 3)
    for i in range(COUNT):
        write_picture(root / TREE / "Img/img_align_celeba" / name(i), (218, 178))


def empty(root: Path) -> None:
    edit_lines(
        root / TREE / "Eval/list_eval_partition.txt",
        lambda lines: [line[:-1] + line[-1].replace("2", "0") for line in lines],
    )


FAKE = Fake(
    write,
    folder=f"{TREE}/Img/img_align_celeba",
    image=f"{TREE}/Img/img_align_celeba/000001.jpg",
    annotation=f"{TREE}/Anno/list_landmarks_align_celeba.txt",
    text=f"{TREE}/Eval/list_eval_partition.txt",
    empty=empty,
    arguments={"images": COUNT},
)
