"""ProtoPNet's projection: all prototypes of a batch at once, against a loop over prototypes.

1,000 images of 7 x 7 cells of 128 features, 2,000 prototypes (200 classes), batches of 80. The loop is the obvious one:
distances of a batch to all prototypes, then for each prototype the images of its class and the nearest cell of them.
Run as ``python benchmarks/protopnet.py``.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from fgbench.layers.prototypes import NO_IMAGE, Nearest, nearest_cells, squared_distances

IMAGES, CLASSES, PER_CLASS, CHANNELS, SIDE, BATCH, AT_LEAST = 1000, 200, 10, 128, 7, 80, 20


def batched(cells: Tensor, target: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    nearest = Nearest.start({"latent": prototypes})
    for start in range(0, IMAGES, BATCH):
        part, ids = cells[start : start + BATCH], torch.arange(start, min(start + BATCH, IMAGES))
        own, distance, cell = nearest_cells(part, target[start : start + BATCH], prototypes, PER_CLASS)
        latent = part.flatten(2).transpose(1, 2)[torch.arange(len(part))[:, None], cell]
        nearest.update(own, distance, ids, {"latent": latent})
    return nearest.image_id, nearest.values["latent"]


def looped(cells: Tensor, target: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    best, image_id = torch.full((len(prototypes),), torch.inf), torch.full((len(prototypes),), NO_IMAGE)
    latent = prototypes.clone()
    for start in range(0, IMAGES, BATCH):
        part, labels = cells[start : start + BATCH], target[start : start + BATCH]
        distance = squared_distances(part, prototypes)
        for number in range(len(prototypes)):
            own = (labels == number // PER_CLASS).nonzero()[:, 0]
            if not len(own):
                continue
            found = distance[own, number].flatten()
            place = int(found.argmin())
            if found[place] < best[number]:
                best[number] = found[place]
                image, cell = int(own[place // SIDE**2]), place % SIDE**2
                image_id[number], latent[number] = start + image, part[image].flatten(1)[:, cell]
    return image_id, latent


def seconds(function: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        function()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cells = torch.rand(IMAGES, CHANNELS, SIDE, SIDE)
    target, prototypes = torch.randint(CLASSES, (IMAGES,)), torch.rand(CLASSES * PER_CLASS, CHANNELS)
    one, two = batched(cells, target, prototypes), looped(cells, target, prototypes)
    if not all(torch.equal(a, b) for a, b in zip(one, two, strict=True)):
        raise SystemExit("the two projections differ")
    fast = seconds(lambda: batched(cells, target, prototypes), 5)
    slow = seconds(lambda: looped(cells, target, prototypes), 3)
    print(f"projection: same result; loop {slow * 1e3:.0f} ms, batched {fast * 1e3:.1f} ms: {slow / fast:.1f} times")
    if slow < AT_LEAST * fast:
        raise SystemExit(f"the goal is {AT_LEAST} times")


if __name__ == "__main__":
    main()
