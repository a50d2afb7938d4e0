"""What reading images costs a training from scratch: its loop with each cache over the same loop on random tensors.

ResNet-18 with cross-entropy at 224 pixels, the cheapest network of the recipe, so the one that reading slows most. The
first pass, which fills a cache, is not timed. The loops take turns within this process, and the median of the ratios of
their images per second is the result; float32. On a CPU one thread of this process does all, and its own time counts.

``python benchmarks/cached_training.py [--device cuda] [--images 2000] [--turns 5] [--workers 8] [--backbone resnet18]``
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence

import torch

from fgbench.cells import Cell
from fgbench.config import instantiate, resolve
from fgbench.data import BenchDataModule
from fgbench.methods import Method
from fgbench.types import Batch

CACHES = ("none", "ram", "device")


def now(device: torch.device) -> float:
    """Seconds: of this process on a CPU, so that others do not count."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def images_per_s(
    batches: Iterable[Batch],
    data: BenchDataModule,
    method: Method,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> float:
    """The whole loop: load, augment, move, normalise, train."""
    began, images = now(device), 0
    for batch in batches:
        batch = data.transfer_batch_to_device(batch, device, 0)
        loss = method.loss(batch._replace(image=method.normalise(batch.image)))[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        images += len(batch.target)
    return images / (now(device) - began)


def make(caches: Sequence[str], overrides: Sequence[str]) -> tuple[dict[str, BenchDataModule], Method]:
    """The data of each cache, and a network of the recipe."""
    found: dict[str, BenchDataModule] = {}
    for cache in caches:
        wanted = (*overrides, "--data.init_args.cache", cache)
        data, method = instantiate(
            resolve(Cell("baseline", "toybirds", track="scratch+resnet18", overrides=wanted)).tree
        )
        with contextlib.redirect_stderr(io.StringIO()):
            data.prepare_data()
        data.setup("fit")
        found[cache] = data
    return found, method


def compare(found: dict[str, BenchDataModule], method: Method, turns: int, device: torch.device) -> None:
    """Print the ratios."""
    method = method.to(device).train()
    optimizer = torch.optim.SGD(method.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    loaders = {cache: data.train_dataloader() for cache, data in found.items()}
    for cache, loader in loaders.items():
        for batch in loader:
            batch = found[cache].transfer_batch_to_device(batch, device, 0)
    random, steps = batch._replace(image=torch.randint_like(batch.image, 256)), len(loaders["none"])
    images_per_s([random] * 2, found["none"], method, optimizer, device)
    ratios: dict[str, list[float]] = {cache: [] for cache in found}
    plain: list[float] = []
    for turn in range(turns):
        plain.append(images_per_s([random] * steps, found["none"], method, optimizer, device))
        for cache, loader in loaders.items():
            loader.batch_sampler.set_epoch(turn + 1)
            ratios[cache].append(images_per_s(loader, found[cache], method, optimizer, device) / plain[-1])
    shape = f"{method.backbone.arch}, {steps} steps of {len(random.target)} images on {device}"
    second = "CPU second" if device.type == "cpu" else "second"
    print(f"{shape}: {statistics.median(plain):.1f} images a {second} on random ones")
    for cache, values in ratios.items():
        told = f"{statistics.median(values):.3f} of that ({min(values):.3f} to {max(values):.3f})"
        print(f"cache {cache}: {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--images", type=int, default=None, help="that train, a multiple of 10; 2,000 on a GPU, else 70"
    )
    parser.add_argument("--size", type=int, default=256, help="pixels of the files; default: %(default)s")
    parser.add_argument("--turns", type=int, default=None, help="5 on a GPU, else 3")
    parser.add_argument("--workers", type=int, default=None, help="loading processes, on a GPU only; default: 8")
    parser.add_argument("--backbone", default="resnet18", help="default: %(default)s")
    options = parser.parse_args()
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    if not gpu:
        if options.workers:
            parser.error("--workers: on a CPU the time of other processes would not be counted")
        torch.set_num_threads(1)
    images = options.images or (2000 if gpu else 70)
    turns = options.turns or (5 if gpu else 3)
    workers = (8 if gpu else 0) if options.workers is None else options.workers
    with tempfile.TemporaryDirectory() as folder:
        overrides = ("--machine.data_root", folder, "--machine.workers", str(workers))
        overrides += ("--data.init_args.num_images", str(2 * images), "--data.init_args.image_size", str(options.size))
        overrides += ("--method.init_args.backbone", options.backbone)
        compare(*make(CACHES, overrides), turns, device)


if __name__ == "__main__":
    main()
