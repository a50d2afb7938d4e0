"""How often patches cover a part that tells species of toybirds apart, beside boxes of the same sizes placed at random.

A part counts for a bird where changing one attribute of it would make another of the species. A box covers a part with
at least half of the part's pixels that can be seen; birds none of whose parts can be seen are left out. Printed for
each extractor, for all boxes of an image and for the first: percent of boxes that cover one such part or more; the
same of boxes of the same width and height, drawn uniformly within the image.

    python benchmarks/patches.py runs/toybirds/<run of focus_longer> [--protopnet <file of fgbench weights --whole>]
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from fgbench import run as phases
from fgbench.config import instantiate
from fgbench.data.toybirds import ToyBirds
from fgbench.data.toybirds_bird import PARTS
from fgbench.data.toybirds_catalogue import catalogue
from fgbench.methods import FocusLonger
from fgbench.methods.focus_patches import Extractor, Kind


def part_of(attribute: str) -> int:
    """The part whose attribute it is; of the legs, which look alike, the near one."""
    name = attribute.split(".")[0]
    return PARTS.index("leg" if name == "legs" else name)


def telling_parts(count: int) -> np.ndarray:
    """``species part``: whether another species differs from this one in one attribute, which is of this part."""
    species = catalogue(count)
    found = np.zeros((count, len(PARTS)), bool)
    for one in range(count):
        for other in range(count):
            differing = [key for key in species[one] if species[one][key] != species[other][key]]
            if len(differing) == 1:
                found[one, part_of(differing[0])] = True
    return found


def covers(mask: np.ndarray, parts: np.ndarray, boxes: np.ndarray) -> np.ndarray | None:
    """For each box whether it covers one of some parts; None where none of them can be seen."""
    seen = [mask == part + 1 for part in np.flatnonzero(parts)]
    seen = [part for part in seen if part.any()]
    if not seen:
        return None
    found = np.zeros(len(boxes), bool)
    for number, (x0, y0, x1, y1) in enumerate(boxes.round().astype(int)):
        found[number] = any(2 * part[y0:y1, x0:x1].sum() >= part.sum() for part in seen)
    return found


def elsewhere(boxes: np.ndarray, size: int, dice: np.random.Generator) -> np.ndarray:
    """Boxes of the same sizes, anywhere in the image."""
    sides = boxes[:, 2:] - boxes[:, :2]
    corner = dice.random(sides.shape) * (size - sides)
    return np.concatenate([corner, corner + sides], 1)


@torch.no_grad()
def measure(method: FocusLonger, data: ToyBirds, most: int) -> str:
    rows, dice = data.listing.rows("test"), np.random.default_rng(0)
    rows = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]
    telling, seen = telling_parts(data.num_outputs), data.dataset(data.test_view)
    hits: list[np.ndarray] = []
    areas = []
    for row in rows:
        item = seen[int(row)]
        batch = item._replace(image=method.normalise(item.image[None]), image_id=item.image_id[None])
        boxes = method._find(batch.image, batch)[2][0].numpy()
        size = item.image.shape[1]
        mask, parts = data.part_mask(int(row)), telling[int(item.target)]
        found = covers(mask, parts, boxes)
        chance = covers(mask, parts, elsewhere(boxes, size, dice))
        if found is not None and chance is not None:
            hits.append(np.array([found.mean(), chance.mean(), found[0], chance[0]]))
            areas.append(np.prod(boxes[:, 2:] - boxes[:, :2], 1).mean() / size**2)
    every, random, first, first_random = 100 * np.mean(hits, 0)
    return (
        f"all boxes {every:.1f} % (random places {random:.1f} %), first box {first:.1f} % (random places "
        f"{first_random:.1f} %), mean area {100 * np.mean(areas):.1f} % of the image, {len(hits)} images"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="run of focus_longer on toybirds, trained to its end")
    parser.add_argument("--protopnet", help="a trained ProtoPNet, which sees images of the run's extractor_size")
    parser.add_argument("--images", type=int, default=1000, help="of the test split, evenly spread")
    options = parser.parse_args()
    if options.folder is None:
        print("needs a run folder: python benchmarks/patches.py runs/toybirds/<run of focus_longer>")
        return
    tree = phases.read_run(options.folder)["tree"]
    data, method = instantiate(tree)
    if not isinstance(data, ToyBirds) or not isinstance(method, FocusLonger) or data.first_class:
        parser.error(f"{options.folder} is no run of focus_longer on toybirds' own species")
    phases.load_weights(method, options.folder / "checkpoints" / "last.ckpt")
    method.eval()
    data.prepare_data()
    data.setup("test")
    kinds: list[tuple[Kind, str | None]] = [("cam", None), ("grid", None), ("random", None)]
    kinds += [("protopnet", options.protopnet)] if options.protopnet else []
    for kind, weights in kinds:
        method.extractor = Extractor(kind, method.extractor.count, weights, method.extractor.size, method.backbone)
        print(f"{kind}: {measure(method, data, options.images)}", flush=True)


if __name__ == "__main__":
    main()
