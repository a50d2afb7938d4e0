"""DP-Net: pooling 500 regions against a loop over them, and a pass over cub-sized maps.

A pass is measured on a slice of images and multiplied up: it is a sum of equal batches. Ratios are taken within one
run. Peak memory is that of this process.
"""

import resource
import time

import numpy as np
import torch

from fgbench.layers.regions import draw_boxes, max_scores, regions_of

IMAGES, CLASSES, PARTS, REGIONS = 5994, 200, 4000, 500


def seconds(work, repeats: int = 5) -> float:
    """Median time of a call; the first is not counted."""
    times = []
    for _ in range(repeats + 1):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def pooling() -> None:
    """500 regions of one map of 17 x 17 x 2048."""
    maps = torch.randn(1, 2048, 17, 17)
    boxes = draw_boxes("uniform_corners", REGIONS, (17, 17), 0, torch.arange(1))
    corners = boxes[0].tolist()

    def loop():
        return torch.stack([maps[0, :, y0:y1, x0:x1].mean((1, 2)) for y0, x0, y1, x1 in corners])

    regions = regions_of(maps, boxes)
    slow, whole, fast = seconds(loop), seconds(lambda: regions_of(maps, boxes).features()), seconds(regions.features)
    error = (regions.features()[0] - loop()).abs().max().item()
    print(f"pooling {REGIONS} regions of 17 x 17 x 2048, {torch.get_num_threads()} threads: loop {1e3 * slow:.1f} ms, "
          f"blocks of sums {1e3 * fast:.2f} ms ({slow / fast:.0f} times faster; {slow / whole:.0f} from the map), "
          f"largest error {error:.1e}")  # fmt: skip


def training_pass(channels: int = 1280, images: int = 32) -> None:
    """A step on float16 maps: forward, backward, Adam; as one of a pass over 5,994 images."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = 256 if device == "cuda" else images
    maps = torch.randn(images, channels, 17, 17, dtype=torch.float16, device=device).abs()
    ids, target = torch.arange(images, device=device), torch.randint(CLASSES, (images,), device=device)
    parts = torch.nn.Parameter(torch.randn(PARTS, channels, device=device) * channels**-0.5)
    weights = torch.nn.Parameter(0.01 * torch.randn(CLASSES, PARTS, device=device))
    optimizer = torch.optim.AdamW([parts, weights], 1e-3)

    def step():
        regions = regions_of(maps, draw_boxes("uniform_corners", REGIONS, (17, 17), 0, ids))
        bag = torch.nn.functional.normalize(max_scores(parts, regions)[0], dim=1)
        loss = torch.nn.functional.cross_entropy(bag @ weights.T, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    took = seconds(step, 2)
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6 * 1.024
    if device == "cuda":
        gigabytes = torch.cuda.max_memory_allocated() / 1e9
    print(f"step on {images} maps of 17 x 17 x {channels}, {PARTS} parts, {REGIONS} regions, on {device} with "
          f"{torch.get_num_threads()} threads: {took:.2f} s, so {took * IMAGES / images / 60:.2f} min for a pass over "
          f"{IMAGES} images (extrapolated); peak memory {gigabytes:.1f} GB, maps on disk "
          f"{IMAGES * 289 * channels * 2 / 1e9:.1f} GB")  # fmt: skip


if __name__ == "__main__":
    pooling()
    training_pass()
