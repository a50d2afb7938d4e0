"""CelebA's original images and MAFL's lists: sizes and faces of all kinds, one at 30 % exactly, two below."""

from pathlib import Path

from fakes import Fake
from fakes.celeba import COUNT, MARKS, TREE, name, table, write_lists
from fakes.pictures import write_picture

SMALL, EXACT = (4, 18), 6  # positions of faces below, and at, 30 % of their image
FIT = [1, 2, 4, 11, 15, 16]  # MAFL's training list: of train, of validation and of test; one too small
TEST = [9, 12, 17, 18, 19]  # MAFL's test list: one of train, one of validation, one too small


def size(i: int) -> tuple[int, int]:
    """Height and width."""
    return [(100, 60), (60, 100), (80, 70)][i % 3]


def box(i: int) -> list[int]:
    """``x y width height``, at 30 % of the image: 1800 = 36 x 50 of 100 x 60, and smaller or larger."""
    height, width = size(i)
    if i in SMALL:
        return [3, 4, width // 2, height // 2]
    if i == EXACT:
        return [10, 20, 36, 50]
    return [2 + i % 2, 3, 4 * width // 5, 3 * height // 4]


def marks(i: int) -> list[int]:
    x, y, width, height = box(i)
    return [
        *(
            x + width // 4,
            y + height // 3,
            x + 3 * width // 4,
            y + height // 3 + i % 3,
            x + width // 2,
            y + height // 2,
        ),
        *(x + width // 3, y + 3 * height // 4, x + 2 * width // 3, y + 3 * height // 4),
    ]


def write(root: Path) -> None:
    write_lists(root)
    tree = root / TREE
    table(tree / "Anno/list_landmarks_celeba.txt", MARKS, [marks(i) for i in range(COUNT)], 0)
    table(tree / "Anno/list_bbox_celeba.txt", "image_id x_1 y_1 width height", [box(i) for i in range(COUNT)], 3)
    (tree / "MAFL").mkdir()
    for part, members in (("training", FIT), ("testing", TEST)):
        (tree / "MAFL" / f"{part}.txt").write_text("".join(f"{name(i)}\n" for i in members))
    for i in range(COUNT):
        write_picture(tree / "Img/img_celeba" / name(i), size(i), "grey" if i == 7 else "rgb")


def empty(root: Path) -> None:
    (root / TREE / "MAFL/testing.txt").write_text(f"{name(SMALL[0])}\n")


FAKE = Fake(
    write,
    folder=f"{TREE}/Img/img_celeba",
    image=f"{TREE}/Img/img_celeba/000001.jpg",
    annotation=f"{TREE}/Anno/list_bbox_celeba.txt",
    text=f"{TREE}/MAFL/training.txt",
    empty=empty,
    arguments={"images": COUNT},
)
