"""What explanations cost: Grad-CAM and Guided Grad-CAM over the training passes that they are made of.

Three ratios, measured in one run, alternating, so that a busy machine slows all alike; medians are compared:

* what Grad-CAM adds to the forward pass that gives the logits, and the whole of it, over forward and backward (with
  gradients of parameters) of the backbone's last stage alone, without what follows it;
* Guided Grad-CAM over forward and backward of the whole network.

``python benchmarks/explain.py [--device cuda] [--backbone resnet50] [--method baseline] ...``
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from clock import seconds

from fgbench.explain import gradients
from fgbench.methods import METHODS, Optim


def passes(method: torch.nn.Module, image: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The works that are compared."""
    with torch.no_grad():
        before = image
        for stage in method.backbone.stages[:-1]:
            before = stage(before)

    def last_stage() -> None:
        method.zero_grad()
        start = before.detach().requires_grad_()
        maps = method.backbone.stages[-1](start)
        maps.sum().backward()

    def whole() -> None:
        method.zero_grad()
        method(image.clone().requires_grad_()).logits.amax(1).sum().backward()

    def forward() -> None:
        with torch.no_grad():
            method(image)

    return {
        "forward": forward,
        "last stage": last_stage,
        "whole": whole,
        "grad_cam": lambda: gradients.grad_cam(method, image),
        "guided": lambda: gradients.guided_grad_cam(method, image),
        "integrated": lambda: gradients.integrated(method, image),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--method", default="baseline", choices=sorted(METHODS))
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--precision", default="32", choices=("32", "bf16"))
    options = parser.parse_args()
    device = torch.device(options.device)
    method = METHODS[options.method](200, "class", Optim(), backbone=options.backbone, weights=None).eval().to(device)
    image = torch.randn(options.batch, 3, options.size, options.size, device=device)
    image = image.contiguous(memory_format=torch.channels_last)
    times: dict[str, list[float]] = {}
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        works = passes(method, image)
        for turn in range(options.repeat + 2):
            for name, work in works.items():
                if name == "integrated" and turn != 2:  # 33 passes: once is enough
                    continue
                taken = 1000 * seconds(work, device)
                if turn >= 2:
                    times.setdefault(name, []).append(taken)
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"{options.method} on {options.backbone}, {options.batch} x {options.size} px, {device}, {options.precision}")
    print("ms: " + ", ".join(f"{name} {value:.1f}" for name, value in median.items()))
    added = (median["grad_cam"] - median["forward"]) / median["last stage"]
    print(f"Grad-CAM beyond the forward pass, over forward and backward of the last stage: {added:.2f} (at most 1.5)")
    print(f"Grad-CAM, forward pass and all, over the same: {median['grad_cam'] / median['last stage']:.2f}")
    print(f"Guided Grad-CAM over forward and backward: {median['guided'] / median['whole']:.2f} (at most 2.2)")


if __name__ == "__main__":
    main()
