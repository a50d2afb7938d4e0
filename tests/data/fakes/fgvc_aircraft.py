"""FGVC-Aircraft: numbers with leading zeros, names with blanks and slashes, boxes from 1, a banner of 20 pixels."""

from pathlib import Path

from fakes import Fake
from fakes.pictures import SIZES, write_picture

TREE = "fgvc-aircraft-2013b"
VARIANTS = [
    ("707-320", "Boeing 707", "Boeing"),
    ("BAE 146-200", "BAE 146", "British Aerospace"),
    ("F-16A/B", "F-16", "GD"),
]


def box(i: int) -> tuple[int, int, int, int]:
    """Pixels from 1, both ends included."""
    return 1, 4, 40 + i, 30


def write(root: Path) -> None:
    data = root / TREE / "data"
    lists: dict[str, list[str]] = {"images_box.txt": []}
    for i in range(12):
        number, part = f"{34309 + 777 * i:07d}", ("train", "val", "test", "test")[i % 4]
        height, width = SIZES[i % 4]
        write_picture(data / "images" / f"{number}.jpg", (height + 20, width), banner=20)
        lists["images_box.txt"].append(" ".join(map(str, (number, *box(i)))))
        for level, name in zip(("variant", "family", "manufacturer"), VARIANTS[i // 4], strict=True):
            for file in (part, "trainval") if part != "test" else (part,):
                lists.setdefault(f"images_{level}_{file}.txt", []).append(f"{number} {name}")
                lists.setdefault(f"images_{file}.txt", []).append(number)
    for file, level in (("variants", 0), ("families", 1), ("manufacturers", 2)):
        lists[f"{file}.txt"] = [names[level] for names in VARIANTS]
    for file, lines in lists.items():
        (data / file).write_text("".join(f"{line}\n" for line in lines))


def empty(root: Path) -> None:
    (root / TREE / "data/images_variant_test.txt").write_text("")


FAKE = Fake(
    write,
    folder=f"{TREE}/data/images",
    image=f"{TREE}/data/images/0034309.jpg",
    annotation=f"{TREE}/data/images_box.txt",
    text=f"{TREE}/data/images_variant_trainval.txt",
    empty=empty,
    arguments={"classes": 3},
)
