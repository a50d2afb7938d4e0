"""Two runs of one dataset on one picture: ``fgbench figure channels`` and ``attention``.

May import: every room below it, pictures. Must not import: cli. Reads: run folders. Writes: one PNG file.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fgbench import config, run
from fgbench.data.base import BenchDataModule
from fgbench.examples import CHANNEL_EXAMPLES, PICTURED, batch_of_one, choose_items, example_of
from fgbench.methods import MCLoss, Method
from fgbench.pictures import attach_rows
from fgbench.report import channel_figures, method_figures
from fgbench.report.figures import Example


def compare_channels(before: Path, after: Path, output: Path, device: torch.device) -> None:
    """Draw the channels of the class that ``after`` predicts, in both runs: Figure 3a of the TDSA paper.

    Args:
        before: run folder, of a network trained without a loss on its channels (variant ``only_classifier``).
        after: run folder of the same network trained with it.
        output: the PNG file.
        device: where to compute.

    Raises:
        ValueError: the runs are not comparable, or have no channels that belong to classes.
    """
    names, (_, data), pair = read_pair(before, after, device)
    methods: list[MCLoss] = []
    for folder, method in zip((before, after), pair, strict=True):
        if not isinstance(method, MCLoss):
            raise ValueError(f"{folder}: {type(method).__name__} has no channels that belong to classes")
        methods.append(method)
    shown: list[list[Example]] = [[], []]
    for item in choose_items(data)[: 2 * CHANNEL_EXAMPLES]:
        example = example_of(item, data.label_names, methods[1])
        bytes_ = torch.from_numpy(example.image).permute(2, 0, 1)[None].contiguous().to(device)
        index = torch.tensor([data.label_names.index(example.predicted)], device=device)
        for shows, drawn in zip(methods, shown, strict=True):
            with torch.no_grad():
                parts = shows.show(shows.normalise(bytes_), index).parts
            maps = None if parts is None else parts[0].cpu().numpy()
            drawn.append(replace(example, parts=maps, finer=None))
    channel_figures.write_before_after(output, shown[0], shown[1], " and ".join(names))


def compare_steps(before: Path, after: Path, output: Path, device: torch.device) -> None:
    """Draw Grad-CAM of each step of two runs, a row of each for every image: Figure 7.3 of Shroff's thesis.

    Args:
        before: run folder, of Focus Longer.
        after: another one, of the same data; where it has self-attention, a third row shows that.
        output: the PNG file.
        device: where to compute.

    Raises:
        ValueError: the runs are not comparable, or their networks have no steps.
    """
    names, data, methods = read_pair(before, after, device)
    for folder, method in zip((before, after), methods, strict=True):
        if "steps" not in method.figures or not method.steps:
            raise ValueError(f"{folder}: this {type(method).__name__} goes over its patch once: it has no steps")
    images, arrays, aspects = [], [], []
    for one, method in zip(data, methods, strict=True):
        attach_rows(one, method)
    for items in zip(*(choose_items(one)[:PICTURED] for one in data), strict=True):
        example = example_of(items[1], data[1].label_names, methods[1])
        rows = [(0, "steps", "first run"), (1, "steps", "second run"), (1, "attention", "its attention")]
        for number, name, label in rows[: 3 if "attention" in methods[1].figures else 2]:
            with torch.no_grad():
                found = methods[number].figure(name, batch_of_one(methods[number], items[number]))
            panels = {key: value.float().cpu().numpy() for key, value in found.items()}
            known = {"label": np.array(label)}
            if example.target in data[1].label_names:
                known["target"] = np.array(data[1].label_names.index(example.target))
            images.append(example.image)
            aspects.append(example.aspect)
            arrays.append({**panels, "patch": found["patch"].cpu().numpy(), **known})
    title = f"first: {names[0]}, second: {names[1]}"
    method_figures.write_method_figure(output, "steps", images, arrays, title, aspects)


def read_pair(
    before: Path, after: Path, device: torch.device
) -> tuple[list[str], tuple[BenchDataModule, BenchDataModule], tuple[Method, Method]]:
    """Names, data and methods, as they were tested, of two runs of the same data."""
    runs = [run.read_trained(folder) for folder in (before, after)]
    modules, methods = [], []
    for folder, content in zip((before, after), runs, strict=True):
        data, method = config.instantiate(content["tree"])
        modules.append(data)
        run.load_weights(method, run.selected_checkpoint(folder, content["tree"]))
        methods.append(method.eval().to(device))
    seen = [config.portable(content["tree"])["data"] for content in runs]  # without options that came later, unset
    if seen[0] != seen[1]:
        raise ValueError(f"{before} and {after} are not of the same data, so they cannot be compared")
    for data in modules:
        data.prepare_data()
        data.setup("test")
    return [content["name"] for content in runs], (modules[0], modules[1]), (methods[0], methods[1])
