"""What a run says of a few fixed images of its test split, for its sheets and figures.

May import: data, methods, explain, report. Must not import: run, config. Reads: images. Writes: figures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgbench.data.base import BenchDataModule
from fgbench.explain import Explained
from fgbench.methods import Method
from fgbench.report.figures import Example
from fgbench.report.method_figures import write_method_figure
from fgbench.types import Batch

EXAMPLES = 12  # images on a run's sheet
PICTURED = 6  # of them in a method's own figures
CHANNEL_EXAMPLES = 4  # images on a run's sheet of channels, which has several rows for each


def choose_items(data: BenchDataModule, count: int = EXAMPLES) -> list[Batch]:
    """Images spread evenly over the test split, with all that is known of them: the same for every method."""
    rows = data.listing.rows("test")
    chosen = rows[np.linspace(0, len(rows) - 1, max(1, min(count, len(rows)))).astype(int)]
    seen = data.shown()
    return [seen[int(row)] for row in chosen]


def batch_of_one(method: Method | Explained, item: Batch) -> Batch:
    """A batch of one image, normalised, on the method's device."""
    return method.on_after_batch_transfer(Batch(*(field[None].to(method.device) for field in item)), 0)


def write_method_figures(
    folder: Path, title: str, method: Method, items: Sequence[Batch], shown: Sequence[Example], data: BenchDataModule
) -> None:
    """The figures that the method offers, of the first ``PICTURED`` images; with classes they know the ``target``.

    Images that a figure names (``image_id``) are handed to it as ``shown``, in the test view.

    Args:
        folder: of which ``figures`` is in.
        title: of each figure.
        method: on its device.
        items: images, as the method's loaders hand them out.
        shown: what the method says of them.
        data: where they are from.
    """
    names = data.label_names
    shown = shown[:PICTURED]
    batches = [batch_of_one(method, item) for item in items[:PICTURED]]
    for name in method.figures:
        found = [method.figure(name, batch) for batch in batches]
        arrays = [
            {key: (x.float() if x.is_floating_point() else x).cpu().numpy() for key, x in panels.items()}
            | ({"target": np.array(names.index(example.target))} if example.target in names else {})
            for panels, example in zip(found, shown, strict=True)
        ]
        for panels in arrays:
            if "image_id" in panels:
                panels["shown"], panels["aspects"] = data.pictures(panels["image_id"])
        path = folder / "figures" / f"{name}.png"
        aspects = [example.aspect for example in shown]
        write_method_figure(path, name, [example.image for example in shown], arrays, f"{title}: {name}", aspects)


def example_of(item: Batch, names: tuple[str, ...], method: Method | Explained) -> Example:
    """One image through the method, on the method's device."""
    with torch.no_grad():
        output = method.respond(batch_of_one(method, item))
    maps: dict[str, Any] = {
        name: value[0].float().cpu().numpy()
        for name, value in (("saliency", output.saliency), ("parts", output.parts), ("finer", output.finer))
        if value is not None
    }
    if item.target.ndim:  # attributes: those that are there
        target = ", ".join(name for name, there in zip(names, item.target.tolist(), strict=True) if there)
        predicted = ", ".join(name for name, z in zip(names, output.logits[0].tolist(), strict=True) if z > 0)
    else:
        target, predicted = names[int(item.target)], names[int(output.logits.argmax())]
    return Example(
        image_id=int(item.image_id),
        image=item.image.permute(1, 2, 0).numpy(),
        target=target,
        predicted=predicted,
        boxes=item.boxes[item.box_valid].numpy(),
        landmarks=item.landmarks[item.visible].numpy(),
        aspect=float(item.aspect),
        **maps,
    )
