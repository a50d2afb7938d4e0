"""What Focus Longer's explanations and its recurrent part cost, as ratios within this process.

1. Grad-CAM of all steps and of the pooled logit, with the logits, over one forward pass of both streams without any
explanation (goal: at most 1.3), and the same maps by a backward pass through the trunk for each step. 2. The recurrent
part of a training step (LSTM, attention over time, both of its classifier's passes) over the whole step (goal: at most
5 %).

Times are of the process's own clock on a CPU, which other processes of the machine do not change.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from fgbench.layers.boxes import cut
from fgbench.methods import FocusLonger, Optim
from fgbench.types import Batch


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one call; on a CPU those that this process computed."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - began
    started = time.process_time()
    run()
    return time.process_time() - started


def compare_evidence(method: FocusLonger, image: torch.Tensor, turns: int) -> None:
    method.eval()
    device = image.device

    def plain() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            found = method._find(image, None)
            features = method.local.trunk(cut(image, found.boxes[:, :1], method.patch_size))
            return found.logits + method.local.logits(features, method.local(features).states), features

    def explained() -> torch.Tensor:
        with torch.no_grad():
            found = method._find(image, None)
            features = method.local.trunk(cut(image, found.boxes[:, :1], method.patch_size))
            steps = method.local.explain(features, lambda local: (found.logits + local).argmax(1))[2].steps
            return torch.empty(0) if steps is None else steps

    def by_hooks() -> None:
        found = method._find(image, None)
        features = method.local.trunk(cut(image, found.boxes[:, :1], method.patch_size))
        scores = method.local.classifier(method.local.train()(features).states).amax(2)
        for step in range(method.steps):
            method.zero_grad()
            scores[:, step].sum().backward(retain_graph=True)
        method.eval()

    for run in (plain, explained, by_hooks):
        run()
    ratios, hooked = [], []
    for _ in range(turns):
        base, ours, theirs = (seconds(run, device) for run in (plain, explained, by_hooks))
        ratios.append(ours / base)
        hooked.append(theirs / base)
    print(
        f"Grad-CAM of {method.steps} steps over one forward pass: {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}); "
        f"by backward passes through the trunk {statistics.median(hooked):.2f}",
        flush=True,
    )


def compare_step(method: FocusLonger, image: torch.Tensor, turns: int) -> None:
    method.train()
    labels = torch.arange(len(image), device=image.device) % method.num_outputs
    batch = Batch(image, labels, torch.arange(len(image), device=image.device), *[torch.empty(0)] * 5)
    with torch.no_grad():
        features = method.local.trunk(image[:, :, : method.patch_size, : method.patch_size])

    def step() -> None:
        method.zero_grad()
        method.loss(batch)[0].backward()

    def recurrent() -> None:
        method.zero_grad()
        leaf = features.detach().requires_grad_()
        logits = method.local.logits(leaf, method.local(leaf).states)
        method.classification_loss(logits, batch).backward()

    for run in (step, recurrent):
        run()
    ratios = []
    for _ in range(turns):
        whole, part = (seconds(run, image.device) for run in (step, recurrent))
        ratios.append(100 * part / whole)
    print(
        f"recurrent part of a training step: {statistics.median(ratios):.2f} % "
        f"({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", default="vgg19,resnet34" if gpu else "mobilenet_v2,resnet18")
    parser.add_argument("--batch", type=int, default=32 if gpu else 2)
    parser.add_argument("--turns", type=int, default=5 if gpu else 3)
    options = parser.parse_args()
    device = torch.device("cuda" if gpu else "cpu")
    torch.manual_seed(0)
    for backbone in options.backbones.split(","):
        for local in ("lstm", "self_attention"):
            print(f"{backbone}, {local}, batch {options.batch}")
            method = FocusLonger(200, "class", Optim(), backbone=backbone, weights=None, local=local).to(device)
            image = torch.randn(options.batch, 3, 448, 448, device=device).contiguous(memory_format=torch.channels_last)
            compare_evidence(method, image, options.turns)
            compare_step(method, image, options.turns)


if __name__ == "__main__":
    main()
