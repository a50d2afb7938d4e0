"""What evaluation's metrics cost: time over that of a forward pass, and memory over the size of the split.

Both are measured in one run, alternating, so that a busy machine slows both alike; medians are compared. On a GPU each
timing waits for the device. ``python benchmarks/metrics.py [--device cuda] [--parts 5] [--landmarks 15] ...``
"""

import argparse
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torchvision
from clock import seconds
from torch import Tensor

from fgbench import measures
from fgbench.explain import floor_maps, floors
from fgbench.metrics.accuracy import Accuracy
from fgbench.metrics.landmark_error import LandmarkError
from fgbench.metrics.pointing_game import PointingGame
from fgbench.types import Batch, Output


def make(batch: int, size: int, cells: int, parts: int, landmarks: int, device: torch.device) -> tuple[Output, Batch]:
    box = torch.tensor([0.2, 0.3, 0.8, 0.9]) * size
    on_cpu = Batch(
        image=torch.rand(batch, 3, size, size),
        target=torch.randint(0, 200, (batch,)),
        image_id=torch.arange(batch),
        boxes=box.expand(batch, 1, 4),
        box_valid=torch.ones(batch, 1, dtype=torch.bool),
        landmarks=torch.rand(batch, landmarks, 2) * size,
        visible=torch.rand(batch, landmarks) > 0.2,
        frame=torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64).expand(batch, 6),
    )
    maps = torch.rand(batch, cells, cells, device=device), torch.rand(batch, parts, cells, cells, device=device)
    output = Output(torch.randn(batch, 200, device=device), *maps)
    return output, Batch(*(tensor.to(device) for tensor in on_cpu))


class Metrics:
    """Everything that scoring computes for a batch of CUB-200-2011, per-class protocol and floors included."""

    def __init__(self, parts: int, landmarks: int, device: torch.device) -> None:
        count = {"image_centre": 1, "box_centre": 1, "random_parts": parts}
        self.accuracy = Accuracy(200).to(device)
        self.pointing = PointingGame(floors=("image_centre", "box_centre", "random_point")).to(device)
        self.landmarks = LandmarkError(landmarks, parts, "box", count, (0, 1, 2)).to(device)
        self.parts = parts
        facts = SimpleNamespace(
            landmark_names=tuple(map(str, range(landmarks))), landmark_frame="box", has_boxes=True, mask_names=(),
            num_outputs=200, target="class",
        )  # fmt: skip
        self.evidence = [metric.to(device) for metric in measures.evidence(facts, parts, bound=False)[0]]

    def points(self, batch: Batch) -> dict[str, Tensor]:
        """What the floors look at."""
        random = floors.random_parts(batch, self.parts)
        centres = {"image_centre": floors.image_centre(batch), "box_centre": floors.box_centre(batch)}
        return {**centres, "random_parts": random, "random_point": random[:, :1]}

    def look(self, output: Output, batch: Batch) -> None:
        """What the metrics of parts and saliency add to one batch of the test split."""
        points = self.points(batch)
        centre = torch.nn.functional.adaptive_avg_pool2d(floor_maps.centre_map(batch), floor_maps.CELLS)
        points |= {"centre_map": centre, "random_map": floor_maps.random_map(batch)}
        for metric in self.evidence:
            metric.update(metric.columns(output, batch, points), batch)

    def fit(self, output: Output, batch: Batch) -> None:
        """One batch of the fitting split."""
        self.landmarks.fit_update(output, batch, self.points(batch))

    def test(self, output: Output, batch: Batch) -> None:
        """One batch of the test split."""
        points = self.points(batch)
        for metric in (self.accuracy, self.pointing, self.landmarks):
            metric.update(metric.columns(output, batch, points), batch)


@torch.inference_mode()
def time_table(options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    columns = ("network", "input", "forward", "test", "share", "fit", "share", "parts", "share")
    print(f"{columns[0]:<14}{columns[1]:>6}" + "".join(f"{column:>12}" for column in columns[2:]))
    for name, size in (("resnet18", 224), ("mobilenet_v2", 224), ("resnet18", 448), ("resnet101", 448)):
        network = torchvision.models.get_model(name).eval().to(device)
        output, batch = make(options.batch, size, size // 16, options.parts, options.landmarks, device)
        metrics = Metrics(options.parts, options.landmarks, device)
        metrics.fit(output, batch)
        metrics.landmarks.fit()
        rounds: dict[str, list[float]] = {"forward": [], "test": [], "fit": [], "look": []}
        for _ in range(options.rounds):
            rounds["forward"].append(1000 * seconds(lambda: network(batch.image), device))  # noqa: B023 (called at once)
            rounds["test"].append(1000 * seconds(lambda: metrics.test(output, batch), device))  # noqa: B023
            rounds["fit"].append(1000 * seconds(lambda: metrics.fit(output, batch), device))  # noqa: B023
            rounds["look"].append(1000 * seconds(lambda: metrics.look(output, batch), device))  # noqa: B023
        forward, test, fit, look = (statistics.median(times[1:]) for times in rounds.values())
        shares = f"{test:>9.2f} ms{test / forward:>12.1%}{fit:>9.2f} ms{fit / forward:>12.1%}"
        shares += f"{look:>9.2f} ms{look / forward:>12.1%}"
        print(f"{name:<14}{size:>6}{forward:>9.1f} ms{shares}")


@torch.inference_mode()
def memory_of(images: int, options: argparse.Namespace) -> None:
    """Memory in use after a fit and a test over so many images, above that after their first batches, in MiB."""
    device = torch.device(options.device)
    output, batch = make(options.batch, 64, 14, options.parts, options.landmarks, device)
    metrics = Metrics(options.parts, options.landmarks, device)
    start = 0.0
    for phase in (metrics.fit, metrics.test):
        for first in range(0, images, options.batch):
            phase(output, batch._replace(image_id=batch.image_id + first))
            if phase == metrics.test and first == 2 * options.batch:
                start = in_use(device)
        if phase == metrics.fit:
            metrics.landmarks.fit()
    print(f"{in_use(device) - start:.2f}")


def in_use(device: torch.device) -> float:
    """Memory of the device, or of the process, in MiB."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated() / 2**20
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def memory_table(options: argparse.Namespace) -> None:
    print(f"\n{'images of a split':<20}{'memory, MiB more than after 3 batches':>40}")
    for images in (160, 1600, 16000):
        arguments = [f"--{name}={value}" for name, value in vars(options).items() if name != "memory"]
        command = [sys.executable, __file__, f"--memory={images}", *arguments]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"{images:<20}{float(found):>40.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--parts", type=int, default=5)
    parser.add_argument("--landmarks", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--memory", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        memory_of(options.memory, options)
        return
    time_table(options)
    memory_table(options)


if __name__ == "__main__":
    main()
