"""Insertion and deletion: images per second with batched perturbation, over those of one image at a time.

Both in one run, alternating, on the same images and saliency, in the same precision, on as many threads. One at a time
is how the method's authors evaluate: each step of each image is perturbed on the CPU and is a forward pass of its own.

Both make the same number of forward passes. A CPU is busy with one image already, unless the network is small; a GPU
waits for the launches of its kernels.

``--compile`` compiles the batched side, as ``fgbench probe --compile`` does; the compilation is not timed.

Measured at 224 px, compiled, two threads; the machines are shared with others, so rounds differ:

* AVX2, in 32 bits, as the code is now: resnet_nano 5.5, 5.0, 5.3 times (runs; rounds 4.2 to 7.9). In 24 steps
  MobileNetV2 2.5, resnet50 1.9, squeezenet1_1 1.6, resnet_tiny 1.6: of these one image keeps the cores busy.
* AMX, bf16, before perturbation was compiled too: MobileNetV2 3.5 to 4.0 (eager 1.5), squeezenet1_1 2.0,
  resnet_tiny 1.0.
* Not yet run on a GPU.

``python benchmarks/part_metrics.py [--device cuda] [--threads 2] [--precision bf16] [--compile] ...``
"""

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from clock import seconds
from torch import Tensor, nn

from fgbench.backbones import Backbone
from fgbench.machine import keep_memory
from fgbench.metrics.perturbation import STEPS, Perturbed, blurred, curves, images_at_once, ranks
from fgbench.probing import compiled


class Classifier(nn.Module):
    """A backbone and a linear layer."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.backbone = Backbone(arch)
        self.linear = nn.Linear(self.backbone.channels[-1], 200)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        maps = image
        for stage in self.backbone.stages:
            maps = stage(maps)
        logits: Tensor = self.linear(maps.mean((2, 3)))
        return logits


def answer(network: nn.Module, shown: Perturbed) -> Tensor:
    """As a probe asks a method."""
    logits: Tensor = network(shown.image())
    return logits


def settle(network: nn.Module, image: Tensor) -> None:
    """Means and variances of batch norm from these images: without, an untrained network says the same of all."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(image)
    network.eval()


def one_at_a_time(network: nn.Module, image: Tensor, saliency: Tensor, steps: int, device: torch.device) -> np.ndarray:
    """The curves of one image, as a loop over steps."""
    height, width = image.shape[2:]
    order = ranks(saliency[None], height, width).flatten().argsort().cpu().numpy()
    index, fuzzy = int(network(image.to(device)).argmax()), blurred(image)
    found = []
    for start, end in ((image, torch.zeros_like(image)), (fuzzy, image)):
        shown, full = start.clone().flatten(2).numpy(), end.flatten(2).numpy()
        row = []
        for step in range(steps + 1):
            chances = network(torch.from_numpy(shown).view_as(image).to(device)).softmax(1)
            row.append(float(chances[0, index]))
            changed = order[step * height * width // steps : (step + 1) * height * width // steps]
            shown[..., changed] = full[..., changed]
        found.append(row)
    return np.array(found)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--at-once", type=int, help="most perturbed images in a pass; default: what probes take")
    parser.add_argument("--alone", type=int, default=1, help="how many images of the batch one at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of the CPU, for both sides; default: torch's own choice")
    parser.add_argument("--precision", default="32", choices=("32", "bf16"), help="autocast, for both sides")
    parser.add_argument("--compile", action="store_true", help="the batched side's network")
    options = parser.parse_args()
    keep_memory()  # as every run does
    if options.alone > options.batch:
        parser.error(f"--alone {options.alone} of a batch of {options.batch}")
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    network = Classifier(options.arch).eval().to(device)
    image = torch.randn(options.batch, 3, options.size, options.size)
    settle(network, image.to(device))
    saliency = torch.rand(options.batch, 14, 14)
    ask = compiled(answer) if options.compile else answer
    found: dict[str, np.ndarray] = {}

    def alone() -> None:
        loops = [
            one_at_a_time(network, image[row : row + 1], saliency[row], options.steps, device)
            for row in range(options.alone)
        ]
        found["one"] = np.stack(loops, 1)

    def together() -> None:
        there = image.to(device)
        index = network(there).argmax(1)
        rank = ranks(saliency.to(device), options.size, options.size)
        chances = curves(lambda shown, row: ask(network, shown), there, index, rank, options.steps, options.at_once)
        found["many"] = chances.cpu().numpy()

    works: list[tuple[Callable[[], object], int]] = [(alone, options.alone), (together, options.batch)]
    taken: list[list[float]] = [[] for _ in works]
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        for _ in range(options.rounds + 1):
            for times, (work, images) in zip(taken, works, strict=True):
                times.append(seconds(work, device) / images)
    one, batched = (statistics.median(times[1:]) for times in taken)
    ratios = sorted(first / second for first, second in list(zip(*taken, strict=True))[1:])
    passes = 2 * (options.steps + 1)
    threads = f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name()
    print(f"{options.arch}, {options.size} px, {options.steps} steps, {options.precision}, "
          f"{'compiled' if options.compile else 'eager'}, on {device} ({threads})")  # fmt: skip
    print(f"one at a time {1 / one:.3f} images/s, batched {1 / batched:.3f} images/s: "
          f"{statistics.median(ratios):.1f} times (at least 5); rounds: {ratios[0]:.1f} to {ratios[-1]:.1f}"
    )  # fmt: skip
    at_once = options.at_once or images_at_once(image.to(device))
    print(f"a forward pass with its perturbation, per image: {1000 * one / passes:.2f} ms of one, "
          f"{1000 * batched / passes:.2f} ms of {at_once} at most")  # fmt: skip
    print(f"curves from {found['one'].min():.4f} to {found['one'].max():.4f}, differ by "
          f"{np.abs(found['many'][:, : options.alone] - found['one']).max():.1e}")  # fmt: skip


if __name__ == "__main__":
    main()
