"""Does the best region of the part that matters most cover the part of the bird that tells its species?

On toybirds, where every species differs from its nearest neighbour in one part, and masks say where parts are:

    python benchmarks/dpnet_parts.py runs/toybirds/dpnet.<digest>.s0

For each test image: of the parts of the predicted class that matter most (d(p, c)) the one with the largest
contribution v_cp b_p here, its best region, and whether that region touches, or covers half of the visible pixels of, a
part in which the true species differs from one at distance one in the catalogue; beside it the same for a random region
of the image, and how large both are. Images in which those parts are hidden do not count.
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
    differs = distinguishing(data)
    covered, shares, correct = [], [], []
    for batch in data.test_dataloader():
        with torch.no_grad():
            regions, predicted, places = best_regions(method, batch)
        for image, row in enumerate(data.rows_of(batch.image_id.numpy()).tolist()):
            mask = data.part_mask(row)
            scale = np.array([*mask.shape, *mask.shape])
            boxes = [(place[image].numpy() * scale).round().astype(int) for place in (regions, places)]
            parts = [mask == value for value in differs[int(batch.target[image])] if (mask == value).any()]
            if not parts:
                continue
            covered.append([max(part[y0:y1, x0:x1].sum() / part.sum() for part in parts) for y0, x0, y1, x1 in boxes])
            shares.append([(y1 - y0) * (x1 - x0) / mask.size for y0, x0, y1, x1 in boxes])
            correct.append(bool(predicted[image] == batch.target[image]))
    found, area = np.array(covered), np.mean(shares, axis=0)
    print(f"{len(found)} images, accuracy {100 * np.mean(correct):.1f} %. A part that tells the species is")
    for column, name in enumerate(("the top region of the top part", "a random region")):
        touched, half = (found[:, column] > 0).mean(), (found[:, column] >= 0.5).mean()
        print(
            f"  touched by {name} in {100 * touched:.1f} %, covered by half or more in {100 * half:.1f} % of the "
            f"images; it is {100 * area[column]:.1f} % of the image"
        )


def best_regions(method, batch):
    """Shares of the input, ``y0 x0 y1 x1``, of each image's best region and of a random one; and the predictions."""
    maps = method.maps(batch)
    bag, _, index = method.bag(method.areas(maps, batch.image_id))
    predicted = method.classifier(bag).argmax(1)
    most = method.importance(bag, predicted).topk(method.top_parts, dim=1).indices
    part = most.gather(1, method.contributions(bag, predicted).gather(1, most).argmax(1, keepdim=True))
    size = (maps.shape[2], maps.shape[3])
    boxes = method.boxes(batch.image_id, size) / torch.tensor([*size, *size])
    images = torch.arange(len(maps))
    return boxes[images, index.gather(1, part)[:, 0]], predicted, boxes[images, 0]


def distinguishing(data) -> list[list[int]]:
    """For each class the mask values of the parts in which it differs from the species at distance one."""
    differences: list[set[int]] = [set() for _ in range(data.num_outputs)]
    for step in json.loads((data.tree() / "catalogue.json").read_text())["steps"]:
        [part] = {key.partition(".")[0].removesuffix("s") for key in step if "." in key}  # legs: leg
        values = {1 + PARTS.index(name) for name in (part, f"far {part}") if name in PARTS}
        for species in (step["species"], step["differs_from"]):
            differences[species - 1 - data.first_class] |= values
    return [sorted(values) for values in differences]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
