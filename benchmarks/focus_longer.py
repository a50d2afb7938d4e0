"""What Focus Longer's explanations and its recurrent part cost, as ratios within this process.

1. Grad-CAM of all steps and of the pooled logit, with the logits, over one forward pass of both streams without any
explanation (goal: at most 1.3); the same over the local stream alone; and the same maps by a backward pass through the
trunk for each step. 2. The recurrent part of a training step (LSTM, attention, classifier: forward, backward, and the
optimiser's step of their weights) over the whole step (goal: at most 5 %), in batches as the recipes have them: 32, and
16 on a CPU, where the networks are those of the track ``cub20_focus``. Self-attention is on a ResNet-34.

Times are of the process's own clock on a CPU, which other processes of the machine hardly change. One thread of a CPU,
LSTM and self-attention: Grad-CAM 1.24 and 1.21 (over the local stream alone 1.74 and 1.32), the recurrent part 0.7 and
1.7 %.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import chain

import torch

from fgbench.layers.boxes import cut
from fgbench.methods import FocusLonger, Optim
from fgbench.types import Batch

MOST_EVIDENCE, MOST_RECURRENT = 1.3, 5.0  # over a forward pass; percent of a training step
LOCAL = {"lstm": None, "self_attention": "resnet34"}  # its trunk; None for that of the whole image


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


def compare_evidence(method: FocusLonger, image: torch.Tensor, turns: int) -> float:
    """Grad-CAM of all steps over a forward pass of both streams."""
    method.eval()
    with torch.no_grad():
        patch = cut(image, method._find(image, None).boxes[:, :1], method.patch_size)

    def local() -> torch.Tensor:
        with torch.no_grad():
            features = method.local.trunk(patch)
            return method.local.logits(features, method.local(features).states)

    def local_explained() -> object:
        with torch.no_grad():
            return method.local.explain(method.local.trunk(patch), lambda logits: logits.argmax(1))

    def plain() -> object:
        with torch.no_grad():
            found = method._find(image, None)
            features = method.local.trunk(cut(image, found.boxes[:, :1], method.patch_size))
            return found.logits + method.local.logits(features, method.local(features).states)

    def explained() -> object:
        with torch.no_grad():
            found = method._find(image, None)
            features = method.local.trunk(cut(image, found.boxes[:, :1], method.patch_size))
            return method.local.explain(features, lambda logits: (found.logits + logits).argmax(1))

    def by_hooks() -> None:
        found = method._find(image, None)
        features = method.local.trunk(cut(image, found.boxes[:, :1], method.patch_size))
        scores = method.local.classifier(method.local.train()(features).states).amax(2)
        for step in range(method.steps):
            method.zero_grad()
            scores[:, step].sum().backward(retain_graph=True)
        method.eval()

    runs = (plain, explained, by_hooks, local, local_explained)
    for run in runs:
        run()
    ratios: list[list[float]] = [[], [], []]
    for _ in range(turns):
        base, ours, theirs, alone, alone_explained = (seconds(run, image.device) for run in runs)
        for found, ratio in zip(ratios, (ours / base, alone_explained / alone, theirs / base), strict=True):
            found.append(ratio)
    whole, stream, hooked = (statistics.median(found) for found in ratios)
    print(
        f"Grad-CAM of {method.steps} steps over one forward pass: {whole:.3f} ({min(ratios[0]):.3f} to "
        f"{max(ratios[0]):.3f}); over the local stream alone {stream:.3f}; by backward passes through the trunk "
        f"{hooked:.2f}",
        flush=True,
    )
    return whole


def compare_step(method: FocusLonger, image: torch.Tensor, turns: int) -> float:
    """Percent of a training step that its recurrent part takes."""
    method.train()
    labels = torch.arange(len(image), device=image.device) % method.num_outputs
    batch = Batch(image, labels, torch.arange(len(image), device=image.device), *[torch.empty(0)] * 5)
    with torch.no_grad():
        features = method.local.trunk(image[:, :, : method.patch_size, : method.patch_size])
    local = method.local
    modules = [module for module in (local.lstm, local.looks, local.classifier) if module is not None]
    weights = [*chain.from_iterable(module.parameters() for module in modules)]
    weights += [] if local.time_weight is None else [local.time_weight]
    of_all, of_recurrent = (
        torch.optim.SGD(some, 1e-6, momentum=0.9, weight_decay=5e-4) for some in (method.parameters(), weights)
    )

    def step() -> None:
        of_all.zero_grad()
        method.loss(batch)[0].backward()
        of_all.step()

    def recurrent() -> None:
        of_recurrent.zero_grad()
        leaf = features.detach().requires_grad_()
        logits = local.logits(leaf, local(leaf).states)
        method.classification_loss(logits, batch).backward()
        of_recurrent.step()

    for run in (step, recurrent):
        run()
    ratios = []
    for _ in range(turns):
        whole, part = (seconds(run, image.device) for run in (step, recurrent))
        ratios.append(100 * part / whole)
    share = statistics.median(ratios)
    print(
        f"recurrent part of a training step, batch {len(image)}: {share:.2f} % ({min(ratios):.2f} to "
        f"{max(ratios):.2f})",
        flush=True,
    )
    return share


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", default="vgg19,resnet34" if gpu else "mobilenet_v2")
    parser.add_argument("--batch", type=int, default=32 if gpu else 2, help="images that are explained at once")
    parser.add_argument("--train-batch", type=int, default=32 if gpu else 16)
    parser.add_argument("--turns", type=int, default=5 if gpu else 3)
    options = parser.parse_args()
    device = torch.device("cuda" if gpu else "cpu")
    torch.manual_seed(0)
    missed = []
    for backbone in options.backbones.split(","):
        for local, trunk in LOCAL.items():
            name = f"{backbone}, {local}{f' on {trunk}' if trunk else ''}"
            print(f"{name}, batch {options.batch}")
            method = FocusLonger(
                200, "class", Optim(), backbone=backbone, weights=None, local=local, local_backbone=trunk
            ).to(device)
            shape = (max(options.batch, options.train_batch), 3, 448, 448)
            image = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
            evidence = compare_evidence(method, image[: options.batch], options.turns)
            share = compare_step(method, image[: options.train_batch], options.turns)
            missed += [f"{name}: Grad-CAM costs {evidence:.3f} forward passes"] if evidence > MOST_EVIDENCE else []
            missed += [f"{name}: the recurrent part takes {share:.2f} %"] if share > MOST_RECURRENT else []
    if missed:
        raise SystemExit(f"the goals are {MOST_EVIDENCE} and {MOST_RECURRENT} %: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
