"""Insertion and deletion: images per second with batched perturbation, over those of one image at a time.

Both in one run, alternating, on the same images and saliency. One at a time is how the method's authors evaluate: each
step of each image is perturbed on the CPU and is a forward pass of its own. ``python benchmarks/part_metrics.py``
"""

import argparse
import statistics
import time

import numpy as np
import torch
from torch import Tensor, nn

from fgbench.backbones import Backbone
from fgbench.metrics.perturbation import STEPS, blurred, curves, ranks


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


def one_at_a_time(network: nn.Module, image: Tensor, saliency: Tensor, steps: int, device: torch.device) -> np.ndarray:
    """The curves of one image, as a loop over steps."""
    height, width = image.shape[2:]
    order = ranks(saliency, height, width).flatten().argsort().cpu().numpy()
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
    parser.add_argument("--at-once", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = torch.device(options.device)
    network = Classifier(options.arch).eval().to(device)
    image = torch.randn(options.batch, 3, options.size, options.size)
    saliency = torch.rand(options.batch, 14, 14)
    rates: dict[str, list[float]] = {"one": [], "batched": []}
    for _ in range(options.rounds + 1):
        started = time.perf_counter()
        alone = one_at_a_time(network, image[:1], saliency[:1], options.steps, device)
        rates["one"].append(1 / (time.perf_counter() - started))
        started = time.perf_counter()
        there = image.to(device)
        index = network(there).argmax(1)
        rank = ranks(saliency.to(device), options.size, options.size)
        found = curves(network, there, index, rank, options.steps, options.at_once).cpu().numpy()
        rates["batched"].append(options.batch / (time.perf_counter() - started))
    one, batched = (statistics.median(times[1:]) for times in rates.values())
    print(f"{options.arch}, {options.size} px, {options.steps} steps on {device}: one at a time {one:.3f} images/s, "
          f"batched {batched:.3f} images/s, {batched / one:.1f} times; curves differ by "
          f"{np.abs(found[:, 0] - alone).max():.1e}")  # fmt: skip


if __name__ == "__main__":
    main()
