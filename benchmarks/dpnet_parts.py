"""Does the best region of the part that matters most cover the part of the bird that tells its species?

On toybirds, where every species differs from its nearest neighbour in one part, and masks say where parts are:

    python benchmarks/dpnet_parts.py runs/toybirds/dpnet.<digest>.s0

For each test image, whether it is classified rightly or not: the part of the predicted class with the largest d(p, c),
and its best region; and the most discriminative region, of the part that adds most here (v_cp b_p) among those that
matter most. A telling part is one in which the true species
differs from a species at distance one in the catalogue; a species may have up to three. *Covered* means that at least
half of the visible pixels of one telling part lie in the region; *touched* that one pixel does. A region that is large
covers by chance, so the same is said of a random region, of the same size at a random place, and of the centre of the
region alone (it lies on a telling part). Images in which no telling part can be seen do not count.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from fgbench import config, prepare, run
from fgbench.data.toybirds_bird import PARTS


def main(folder: Path) -> None:
    tree = run.read_run(folder)["tree"]
    data, method = config.instantiate(tree)
    run.load_weights(method, folder / "checkpoints" / "last.ckpt")
    prepare.attach(data, method)
    method.eval()
    differs, random = distinguishing(data), np.random.default_rng(0)
    covered, shares, correct, classes, centred = [], [], [], [], []
    for batch in data.test_dataloader():
        with torch.no_grad():
            found = method.look(batch)
            first = top_regions(method, batch, found["predicted"])
        for image, row in enumerate(data.rows_of(batch.image_id.numpy()).tolist()):
            mask = data.part_mask(row)
            parts = [mask == value for value in differs[int(batch.target[image])] if (mask == value).any()]
            if not parts:
                continue
            sides = np.array([*mask.shape, *mask.shape])
            both = [(place[image].numpy() * sides).round().astype(int) for place in (first, found["box"])]
            box = both[0]
            tall, wide = box[2] - box[0], box[3] - box[1]
            y, x = random.integers(sides[0] - tall + 1), random.integers(sides[1] - wide + 1)
            boxes = [*both, (y, x, y + tall, x + wide)]
            covered.append([max(part[y0:y1, x0:x1].sum() / part.sum() for part in parts) for y0, x0, y1, x1 in boxes])
            centred.append(any(part[(box[0] + box[2]) // 2, (box[1] + box[3]) // 2] for part in parts))
            shares.append(tall * wide / mask.size)
            classes.append(int(batch.target[image]))
            correct.append(int(found["predicted"][image]) == classes[-1])
    table = np.array(covered)
    print(f"{len(table)} images, accuracy {100 * np.mean(correct):.1f} %, region {100 * np.mean(shares):.1f} % of the "
          f"image, its centre on a telling part in {100 * np.mean(centred):.1f} %")  # fmt: skip
    for column, name in enumerate(
        ("the top region of the top part", "the most discriminative region", "a random place")
    ):
        touched, half = (table[:, column] > 0).mean(), (table[:, column] >= 0.5).mean()
        print(f"  a telling part is covered by {name} in {100 * half:.1f} %, touched in {100 * touched:.1f} %")
    for index, name in enumerate(data.label_names):
        half = (table[np.array(classes) == index, 0] >= 0.5).mean()
        print(f"  {name}: covered in {100 * half:.1f} %")


def top_regions(method, batch, index):
    """The best region of the part with the largest d(p, c): ``b 4``, ``y0 x0 y1 x1`` as shares of the input's sides."""
    maps = method.maps(batch)
    bag, _, places = method.bag(method.areas(maps, batch.image_id))
    part = method.importance(bag, index).argmax(1, keepdim=True)
    size = (maps.shape[2], maps.shape[3])
    boxes = method.boxes(batch.image_id, size).expand(len(maps), -1, -1)
    return boxes[torch.arange(len(maps)), places.gather(1, part)[:, 0]] / torch.tensor([*size, *size])


def distinguishing(data) -> list[list[int]]:
    """For each class the mask values of the parts in which it differs from the species at distance one."""
    differences: list[set[int]] = [set() for _ in range(data.num_outputs)]
    for step in json.loads((data.tree() / "catalogue.json").read_text())["steps"]:
        [part] = {key.partition(".")[0].removesuffix("s") for key in step if "." in key}  # legs: leg
        values = {1 + PARTS.index(name) for name in (part, f"far {part}") if name in PARTS}
        for species in (step["class"], step["differs_from"]):
            differences[species - 1 - data.first_class] |= values
    return [sorted(values) for values in differences]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
