"""What TASN's sampling, attention and training step cost, as ratios within this process.

1. The sampler (28 x 28 attention to sampled images, 512 to 224 px) against literal implementations of the authors'
   algorithm, sample by sample and row by row, in torch and in numpy; the sampling positions, in pixels, ``official``.
   All have the same threads; those of loops over rows have nothing to do. Beside it the floors: the bare
   ``grid_sample`` of the same positions, and a bare copy of the sampled images.
   On a CPU of two cores, nothing beside it: 24.2 times faster than the one in torch and 15.8 than numpy with two
   threads, 11.2 and 7.7 with one, where the bare ``grid_sample`` of whole batches leaves no room for 20.
2. Memory: the peak over the size of what goes in and what comes out, of making all attention maps, and of what TASN
   does in a training step between the attention net and the backbone.
3. A training step against the sum of its parts timed alone: the attention net's forward and backward, and the
   backbone's on 2 N sampled images. The three take turns; the median of the ratios counts.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import interpolate

from fgbench.layers import attention_sampler as sampler
from fgbench.layers.trilinear import trilinear
from fgbench.methods import TASN, Optim
from fgbench.types import Batch


def literal_positions(attention: np.ndarray, out: int, dense: float = 4.0, rounds: int = 5) -> list[np.ndarray]:
    """Rows and columns at which one square map (as large as the image) samples: the operator, step by step."""
    size = len(attention)
    r = np.array([attention[y].max() for y in range(size)], np.float64)
    c = np.array([attention[:, x].max() for x in range(size)], np.float64)
    r, c = r / r.sum() * out, c / c.sum() * out
    cap = dense * out / size
    for j in range(rounds):
        m = min(r.max(), c.max())
        t = min(cap, m) if j == 0 else m
        r, c = np.minimum(r, t), np.minimum(c, t)
        r += (out - r.sum()) / size
        c += (out - c.sum()) / size
    found = []
    for density in (r, c):
        integral = np.zeros(size)
        for i in range(1, size):
            integral[i] = integral[i - 1] + density[i]
        step, j, positions = integral[-1] / out, 1, np.zeros(out)
        for i in range(out):
            while j < size - 1 and integral[j] < i * step:
                j += 1
            positions[i] = j + (i * step - integral[j]) / (integral[j] - integral[j - 1])
        found.append(positions)
    return found


def literal_sample(image: np.ndarray, attention: np.ndarray, out: int) -> np.ndarray:
    """One image (3 h w) sampled row by row; zeros outside."""
    rows, columns = literal_positions(attention, out)
    height, width = image.shape[1:]
    padded = np.pad(image, ((0, 0), (0, 1), (0, 1)))
    x0 = np.clip(np.floor(columns).astype(int), 0, width - 1)
    fx = columns - x0
    sampled = np.zeros((3, out, out), np.float32)
    for i in range(out):
        y0 = min(max(int(np.floor(rows[i])), 0), height - 1)
        fy = rows[i] - y0
        upper = padded[:, y0, x0] * (1 - fx) + padded[:, y0, x0 + 1] * fx
        lower = padded[:, y0 + 1, x0] * (1 - fx) + padded[:, y0 + 1, x0 + 1] * fx
        sampled[:, i] = upper * (1 - fy) + lower * fy
    return sampled


def literal_sample_torch(image: torch.Tensor, attention: torch.Tensor, out: int) -> torch.Tensor:
    """The same in torch on the image's device, as a port of the operator's loop over rows would be."""
    rows, columns = literal_positions(attention.cpu().numpy(), out)
    x = torch.from_numpy(columns).to(image.device, image.dtype)
    sampled = image.new_zeros(3, out, out)
    padded = torch.nn.functional.pad(image, (0, 1, 0, 1))
    x0 = x.floor().long()
    fx = x - x0
    for i in range(out):
        y0 = int(rows[i])
        fy = float(rows[i]) - y0
        upper = padded[:, y0, x0] * (1 - fx) + padded[:, y0, x0 + 1] * fx
        lower = padded[:, y0 + 1, x0] * (1 - fx) + padded[:, y0 + 1, x0 + 1] * fx
        sampled[:, i] = upper * (1 - fy) + lower * fy
    return sampled


def seconds(run: Callable[[], object], device: torch.device, least: int = 1) -> float:
    """Of the fastest of some calls, after one to warm up."""
    times = []
    for _ in range(least + 1):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Most memory that a call holds beyond what is there before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    held = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def compare_sampler(batch: int, size: int, out: int, device: torch.device) -> None:
    attention = torch.rand(batch, 28, 28, device=device) ** 4
    image = torch.rand(batch, 3, size, size, device=device)

    def ours() -> torch.Tensor:
        return sampler.sample(image, attention, (out, out), "official")

    def literal() -> np.ndarray:
        large = interpolate(attention[:, None], (size, size), mode="bilinear", align_corners=True)[:, 0].cpu().numpy()
        pixels = image.cpu().numpy()
        return np.stack([literal_sample(pixels[i], large[i], out) for i in range(batch)])

    def port() -> list[torch.Tensor]:
        large = interpolate(attention[:, None], (size, size), mode="bilinear", align_corners=True)[:, 0]
        return [literal_sample_torch(image[i], large[i], out) for i in range(batch)]

    positions = sampler.sampling_positions(attention, (size, size), (out, out), "official")
    grid = sampler.grid_of(*positions, (size, size), "official")
    sampled = ours().contiguous()

    def bare() -> torch.Tensor:
        return torch.nn.functional.grid_sample(image, grid, "bilinear", "zeros", align_corners=True)

    fast, slow, torchs = seconds(ours, device, 10), seconds(literal, device, 3), seconds(port, device, 3)
    least, copy = seconds(bare, device, 10), seconds(sampled.clone, device, 10)
    large = interpolate(attention[:, None].double(), (size, size), mode="bilinear", align_corners=True)[:, 0].cpu()
    rows, columns = sampler.sampling_positions(attention, (size, size), (out, out), "official")
    apart = 0.0
    for i in range(batch):
        expected = literal_positions(large[i].numpy(), out)
        for found, right in zip((rows[i], columns[i]), expected, strict=True):
            apart = max(apart, float(np.abs(found.cpu().numpy() - right).max()))
    pixels = float(np.abs(ours().cpu().numpy() - literal()).max())
    print(
        f"sampler, {batch} images, {torch.get_num_threads()} threads: {1000 * fast:.1f} ms; literal in torch "
        f"{1000 * torchs:.0f} ms ({torchs / fast:.1f} times ours), in numpy, a row at once, {1000 * slow:.0f} ms "
        f"({slow / fast:.1f} times ours)"
    )
    print(
        f"sampler, floors: a bare grid_sample {1000 * least:.1f} ms (the literal ones {torchs / least:.1f} and "
        f"{slow / least:.1f} times that), a bare copy of the sampled images {1000 * copy:.1f} ms"
    )
    print(f"sampler: largest difference of a position {apart:.1e} px, of a value in [0, 1] {pixels:.1e}")


def memory_ratio(method: TASN, features: torch.Tensor, image: torch.Tensor) -> float:
    """Peak of all that a training step does between its two networks, over the size of what goes in and comes out."""

    def between() -> torch.Tensor:
        maps = method._maps(features)
        method._remember(maps)
        guides = method._guides(maps)
        del maps
        return method._sample(image, *guides)

    given, made = features.nbytes + image.nbytes, between().nbytes
    return (given + peak_bytes(between, image.device)) / (given + made)


def compare_memory(batch: int, size: int, out: int, device: torch.device) -> None:
    features = torch.rand(batch, 512, 28, 28, device=device).contiguous(memory_format=torch.channels_last)
    image = torch.rand(batch, 3, size, size, device=device)
    peak = peak_bytes(lambda: trilinear(features, gain=7.0).all(), device)
    print(f"memory, all maps of the attention: {(features.nbytes + peak) / (2 * features.nbytes):.2f} times in and out")
    tiny = {"backbone": "resnet_nano", "weights": None, "attention_channels": 512, "sampled": out}
    ratio = memory_ratio(TASN(200, "class", Optim(), **tiny).to(device).train(), features, image)
    print(f"memory, attention and sampling in a training step: {ratio:.2f} times in and out")


def compare_step(batch: int, size: int, turns: int, backbone: str, attention: str, device: torch.device) -> None:
    method = TASN(200, "class", Optim(), backbone=backbone, weights=None, attention_backbone=attention)
    method.to(device).train()
    image = torch.rand(batch, 3, size, size, device=device)
    small = torch.rand(batch, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    sampled = torch.rand(2 * batch, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(200, (batch,), device=device)
    twice = labels.repeat(2)
    filled = Batch(image, labels, *[torch.empty(0, device=device)] * 6)

    def step() -> None:
        method.zero_grad()
        method.loss(filled)[0].backward()

    def attention_alone() -> None:
        method.zero_grad()
        logits = method.attention.classify(method.attention(small))
        torch.nn.functional.cross_entropy(logits, labels).backward()

    def backbone_alone() -> None:
        method.zero_grad()
        logits = method.classifiers["shared"](method.pool(method.backbone(sampled)))
        torch.nn.functional.cross_entropy(logits, twice).backward()

    ratios = []
    for turn in range(turns):
        whole, first, second = (seconds(run, device) for run in (step, attention_alone, backbone_alone))
        ratios.append(whole / (first + second))
        print(
            f"step turn {turn}: {1000 * whole:.0f} ms, attention net {1000 * first:.0f} ms, backbone on {2 * batch} "
            f"images {1000 * second:.0f} ms",
            flush=True,
        )
    print(
        f"step ({attention} and {backbone}, batch {batch}) over the sum of its parts: {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32, help="of sampler and memory")
    parser.add_argument("--step-batch", type=int, default=32 if gpu else 2, help="of the training step")
    parser.add_argument("--turns", type=int, default=5 if gpu else 3)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--attention", default="resnet18")
    parser.add_argument("--threads", type=int, help="of all that is timed; default: torch's, which is all cores")
    parser.add_argument("--only", choices=("sampler", "memory", "step"), help="default: all three")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if gpu else "cpu")
    torch.manual_seed(0)
    if options.only in (None, "sampler"):
        compare_sampler(options.batch, 512, 224, device)
    if options.only in (None, "memory"):
        compare_memory(options.batch, 512, 224, device)
    if options.only in (None, "step"):
        compare_step(options.step_batch, 512, options.turns, options.backbone, options.attention, device)


if __name__ == "__main__":
    main()
