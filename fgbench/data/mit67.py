"""MIT Indoor Scenes (MIT67): 6,700 of its 15,620 photographs of 67 kinds of rooms.

*Paper*: A. Quattoni, A. Torralba, Recognizing Indoor Scenes, CVPR 2009. *Home*:
https://web.mit.edu/torralba/www/indoor.html. *Licence*: research only; photographs from the web. *Split*: official
lists, 80 train and 20 test images for each class in the mean, 5,360 and 1,340 together; the other images are unused.

The tree on disk, as distributed (``indoorCVPR_09.tar`` and two lists)::

    <root>/mit67/Images/airport_inside/airport_inside_0001.jpg
    <root>/mit67/{TrainImages,TestImages}.txt               "gameroom/bt_132294gameroom2.jpg"

Everything is called ``.jpg``; some files are CMYK or grey, or hold a GIF or a PNG, and some names have blanks. They
are decoded by what they hold. Classes are the folders in the order of the alphabet. No boxes: the archive of LabelMe
polygons covers only some of the images. torchvision has no parser. Published order: ``TrainImages.txt``, then
``TestImages.txt``.
"""

from pathlib import Path

import numpy as np

from fgbench.data.archives import Archive
from fgbench.data.card import Card
from fgbench.data.files import check_lines
from fgbench.data.listing import Listing
from fgbench.data.published import PublishedClasses, Rows, as_bytes
from fgbench.data.text import read_lines


class MIT67(PublishedClasses):
    """Datamodule of MIT Indoor Scenes."""

    name = "mit67"
    folder, marker = "mit67", "TrainImages.txt"
    card = Card(
        title="MIT Indoor Scenes",
        paper="Quattoni and Torralba, Recognizing Indoor Scenes, CVPR 2009",
        home="https://web.mit.edu/torralba/www/indoor.html",
        licence="research only; photographs from the web",
        disk="2.5 GB",
        outputs=67,
        train=5360,
        test=1340,
        split="official lists, about 80 and 20 a class",
    )
    archives = (
        Archive("indoorCVPR_09.tar", holds="mit67/Images", into="mit67", size_gb=2.6),
        Archive("TrainImages.txt", holds="mit67/TrainImages.txt", into="mit67"),
        Archive("TestImages.txt", holds="mit67/TestImages.txt", into="mit67"),
    )

    def sources(self) -> tuple[Path, ...]:
        """Both lists."""
        return self.tree() / "TrainImages.txt", self.tree() / "TestImages.txt"

    def read_tree(self, tree: Path) -> Listing:
        """Both lists; classes are the folders that train."""
        lists, names = [], ("TrainImages.txt", "TestImages.txt")
        for name in names:
            lines = [line.strip() for line in read_lines(tree / name)]
            good = np.array([line.count("/") == 1 and not line.startswith(("/", ".")) for line in lines], np.bool_)
            check_lines(tree / name, good, "expected <class>/<file>")
            lists.append(lines)
        folders = [[line.partition("/")[0] for line in lines] for lines in lists]
        label_names = sorted(set(folders[0]))
        for of, name in enumerate(names):
            both = np.isin(folders[of], folders[1 - of])
            check_lines(
                tree / name, both, f"no image of this folder is in {names[1 - of]}, though every class is in both"
            )
        index = {name: i for i, name in enumerate(label_names)}
        rows = Rows(
            names=as_bytes(lists[0] + lists[1]),
            target=np.array([index[name] for name in folders[0] + folders[1]], np.int64),
            split=np.repeat([0, 1], [len(lists[0]), len(lists[1])]),
        )
        return self.make_listing(rows, tree / "Images", label_names, tree / "TrainImages.txt")
