"""MIT Indoor Scenes: lists in no order, no end of the last line, blanks in names; CMYK, grey, GIF, all named .jpg."""

from pathlib import Path

from fakes import Fake
from fakes.pictures import SIZES, write_picture

TREE = "mit67"
TRAIN = [
    *("mall/shopping mall.jpg", "bar/bar_0026.jpg", "airport_inside/airport_inside_0148.jpg"),
    *("bar/concert.hall.jpg", "mall/larcomar_shopping.jpg", "airport_inside/bodega_(2).jpg"),
]
TEST = [
    *("bar/bar_0118.jpg", "mall/4984307.jpg", "airport_inside/wine_cellar_floor_stone_gif.jpg"),
    *("airport_inside/airport_inside_0029.jpg", "mall/mall13.jpg", "bar/bar_0528.jpg"),
]


def write(root: Path) -> None:
    tree = root / TREE
    for i, name in enumerate([*TRAIN, *TEST, "bar/in_no_list.jpg"]):
        kind = "gif" if "gif" in name else {1: "cmyk", 2: "grey", 4: "png"}.get(i, "rgb")
        write_picture(tree / "Images" / name, SIZES[i % 4], kind)
    (tree / "TrainImages.txt").write_text("\n".join(TRAIN))
    (tree / "TestImages.txt").write_text("\n".join(TEST))


def empty(root: Path) -> None:
    (root / TREE / "TestImages.txt").write_text("")


FAKE = Fake(
    write,
    folder=f"{TREE}/Images",
    image=f"{TREE}/Images/bar/bar_0026.jpg",
    annotation=f"{TREE}/TestImages.txt",
    text=f"{TREE}/TrainImages.txt",
    empty=empty,
    arguments={"classes": 3},
)
