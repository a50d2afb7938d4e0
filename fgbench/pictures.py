"""``fgbench explain``: what a trained run says of pictures, why, and which training images they resemble.

Embeddings of the training split are made in one pass and kept in the run's folder, until its checkpoint changes.

May import: every room below it, run. Must not import: cli. Reads: a run's folder, pictures. Writes: pictures and
``embeddings.*`` in the run's folder.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fgbench import config, explaining, prepare, run
from fgbench.data.base import BenchDataModule
from fgbench.data.images import read_picture
from fgbench.examples import (
    CHANNEL_EXAMPLES,
    batch_of_one,
    choose_items,
    example_of,
    write_method_figures,
)  # fmt: skip
from fgbench.explain import Explained
from fgbench.explain.gradients import tap
from fgbench.methods import Method
from fgbench.report import channel_figures
from fgbench.report.explanation import Contributions, Explanation, Neighbour, write_explanation
from fgbench.report.figures import Example, short, write_sheet
from fgbench.result import write_atomically
from fgbench.stores import StoreError
from fgbench.types import Batch

ANSWERS = 5  # classes or attributes with their probabilities
NEIGHBOURS = 5  # training images beside each
VIEWS = "seen as landmark error and pointing see it;\naccuracy is of another crop, where an answer can differ"
LONGEST = 4  # times its shorter side a person's picture may be long: views make that side fit
CHUNK = 16384  # embeddings that are compared at once


@dataclass
class Trained:
    """A finished training, loaded: its data, its method with the checkpoint's weights, and what explains it."""

    folder: Path
    name: str
    data: BenchDataModule
    method: Method
    shows: Method | Explained
    device: torch.device
    checkpoint: Path
    precision: Any  # Lightning's plugin

    @contextmanager
    def as_tested(self) -> Iterator[None]:
        """Inside, networks run without gradients and in the precision of the test."""
        with self.precision.forward_context(), torch.no_grad():
            yield


def load(folder: Path, explainer: str = run.OWN) -> Trained:
    """A run's method and data, ready to explain.

    Raises:
        RuntimeError: it was not trained to its end, or its checkpoint is damaged.
        ExplainerError: there is no such explainer.
    """
    content = run.read_trained(folder)
    tree = content["tree"]
    checkpoint = run.selected_checkpoint(folder, tree)
    data, method = config.instantiate(tree)
    run.load_weights(method, checkpoint)
    data.prepare_data()
    data.setup("test")
    trainer = run.make_trainer(tree, folder, [], None)
    device = trainer.strategy.root_device
    method.eval().to(device)
    found = Trained(folder, content["name"], data, method, method, device, checkpoint, trainer.precision_plugin)
    return explained_by(found, explainer, tree)


def explained_by(trained: Trained, explainer: str, tree: dict[str, Any]) -> Trained:
    """The same with an explainer's evidence, or with its own; nothing is loaded again.

    Raises:
        ExplainerError: there is no such explainer.
    """
    trained.method.to(trained.device)  # a trainer leaves what it tested on the CPU
    if explainer == run.OWN:
        return replace(trained, shows=trained.method)
    shows = explaining.make_explained(explainer, trained.method, tree).eval().to(trained.device)
    with trained.as_tested():
        explaining.fit(shows, trained.data, trained.device)
    return replace(trained, shows=shows)


def explain(
    folder: Path, pictures: Sequence[Path], examples: int, explainer: str, output: Path | None = None
) -> list[Path]:
    """Draw a picture for each image, a sheet of all, and the method's own figures.

    Args:
        folder: the run's.
        pictures: files; without any, ``examples`` images spread evenly over the test split.
        examples: see ``pictures``.
        explainer: whose evidence.
        output: where to; a folder in the run's by default.

    Returns:
        The files that were written, the sheet first.

    Raises:
        ValueError: pictures are damaged or too small; names all of them.
    """
    hushed = [read_all(pictures)] if pictures else []  # before anything takes time
    run.hush()
    trained = load(folder, explainer)
    if explainer == run.OWN:
        attach_rows(trained.data, trained.method)
    output = output or folder / "pictures" / explainer
    items = own_items(trained, pictures, hushed[0]) if pictures else split_items(trained, examples)
    with trained.as_tested():
        found = [explanation_of(trained, item, name) for item, name in items]
        features = torch.cat([embed(trained.method, batch_of(trained, item).image) for item, _ in items])
    near = neighbours(trained, features.cpu())
    found = [replace(one, neighbours=near[index]) for index, one in enumerate(found)]
    title = trained.name + ("" if explainer == run.OWN else f" explained by {explainer}")
    shown = [one.example for one in found]
    paths = [output / "sheet.png"]
    seen = f"{title}\n{VIEWS}" if trained.data.seen_view != trained.data.test_view else title
    write_sheet(paths[0], shown, seen)
    for one in found:
        name = Path(one.example.name).stem if one.example.name else f"image{one.example.image_id}"
        paths.append(free_path(output, name, paths))
        write_explanation(paths[-1], one, seen)
    if explainer == run.OWN:
        with trained.as_tested():
            write_method_figures(output, title, trained.method, [item for item, _ in items], shown, trained.data)
        paths += [output / "figures" / f"{name}.png" for name in trained.method.figures]
        if trained.method.class_stages:
            paths.append(output / "figures" / "channels.png")
            channel_figures.write_channels(paths[-1], shown[:CHANNEL_EXAMPLES], title)
    return paths


def attach_rows(data: BenchDataModule, method: Method) -> None:
    """Show images with what was prepared for them, as the test did: if it is there still and replaces no pixels."""
    if not method.replaces_image:
        with suppress(StoreError):
            prepare.attach(data, method)


def free_path(folder: Path, name: str, taken: Sequence[Path]) -> Path:
    """A PNG file of this name, or of the first number behind it that is not taken: folders hold pictures of one name.

    Names that differ in case only are one file on many disks.
    """
    known = {path.name.lower() for path in taken}
    number, found = 1, f"{name}.png"
    while found.lower() in known:
        number += 1
        found = f"{name}-{number}.png"
    return folder / found


def read_all(pictures: Sequence[Path]) -> list[np.ndarray]:
    """Decode all, or name every one that cannot be."""
    images, problems = [], []
    for path in pictures:
        try:
            images.append(read_picture(path))
        except (OSError, ValueError) as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return images


def no_larger(image: UInt8[np.ndarray, "h w 3"], longest: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The picture with no side of more pixels than that."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    small: np.ndarray = cv2.resize(
        image, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    return small


def own_items(trained: Trained, pictures: Sequence[Path], images: Sequence[np.ndarray]) -> list[tuple[Batch, str]]:
    """Pictures of which nothing is known, through the view that pictures of the dataset are seen in.

    A view that does not resize sees them no larger than the dataset's largest image.
    """
    from fgbench.data.augment import Augment

    augment, items, problems = Augment(trained.data.seen_view), [], []
    none, no = torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool)
    attributes = trained.data.target == "attributes"
    target = torch.zeros(trained.data.num_outputs) if attributes else torch.tensor(0)
    largest = int(trained.data.listing.stored_sizes().max()) if trained.data.seen_view.resize == "none" else None
    for path, image in zip(pictures, images, strict=True):
        height, width = image.shape[:2]
        if trained.data.seen_view.resize != "squash" and max(height, width) > LONGEST * min(height, width):
            long = f"more than {LONGEST} times as long on one side as on the other"
            problems.append(f"{path}: {width} x {height} pixels, {long}; cut out what it is a picture of")
            continue
        try:
            pixels, frame = augment(image if largest is None else no_larger(image, largest))
        except ValueError as error:
            problems.append(f"{path}: {error}")
            continue
        shown = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        item = Batch(shown, target, torch.tensor(-1), none, no, torch.zeros(0, 2), no, torch.from_numpy(frame))
        items.append((item, path.name))
    if problems:
        raise ValueError("\n".join(problems))
    return items


def split_items(trained: Trained, count: int) -> list[tuple[Batch, str]]:
    """Images of the test split, spread evenly: the same ones for every run."""
    return [(item, "") for item in choose_items(trained.data, count)]


def batch_of(trained: Trained, item: Batch) -> Batch:
    """A batch of one image on the device, normalised."""
    return batch_of_one(trained.method, item)


def explanation_of(trained: Trained, item: Batch, name: str) -> Explanation:
    """Everything but the neighbours; a name stands for a picture of which the label is not known."""
    data, method = trained.data, trained.method
    example = example_of(item, data.label_names, trained.shows)
    if name:
        example = replace(example, name=name, target="")
    batch = batch_of(trained, item)
    logits = method.respond(batch).logits
    probabilities = logits.sigmoid()[0] if data.target == "attributes" else logits.softmax(1)[0]
    top = probabilities.topk(min(ANSWERS, len(probabilities)))
    answers = [(data.label_names[k], p) for k, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)]
    true = None if name else true_names(item.target, data.label_names)
    return Explanation(example, answers, contributions_of(trained, batch, logits), true=true)


def true_names(target: Tensor, names: Sequence[str]) -> tuple[str, ...]:
    """The class of an image, or the attributes that are there."""
    if not target.ndim:
        return (names[int(target)],)
    return tuple(name for name, there in zip(names, target.tolist(), strict=True) if there)


def contributions_of(trained: Trained, batch: Batch, logits: Float[Tensor, "1 k"]) -> Contributions:
    """What each part adds to the decision, or why that is not known."""
    method, shows = trained.method, trained.shows
    who = shows.explainer.name if isinstance(shows, Explained) else "the method"
    if not shows.parts:
        return Contributions(reason=f"{who} has no parts")
    if shows is not method:
        return Contributions(reason=f"{who} makes its parts after training: the decision is not made of them")
    index = logits.argmax(1)
    added = method.contributions(batch, index)
    if added is None:
        return Contributions(reason=method.no_contributions)
    values = added[0].float().cpu().numpy()
    if method.contribution == "attention":
        return Contributions(values, "share of the attention", float(values.sum()))
    whole = float(logits.amax())
    of = f" of {short(trained.data.label_names[int(index)], 18)}," if trained.data.target == "attributes" else ""
    return Contributions(values, f"of the logit{of} {whole:.2f}", whole)


# ---- neighbours


def embed(method: Method, image: Tensor) -> Float[Tensor, "b d"]:
    """The mean of the last stage's map, of unit length: what the network knows of an image as a whole."""
    with tap(method, cut=False) as found:
        method(image)
    return torch.nn.functional.normalize(found[0].float().mean((2, 3)), dim=1)


def embeddings(trained: Trained, width: int) -> np.ndarray:
    """Of each image of the training split, in the listing's order; from the run's folder where they are there."""
    path, note = trained.folder / "embeddings.npy", trained.folder / "embeddings.json"
    rows = trained.data.listing.rows("train")
    with trained.checkpoint.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    key = {
        "weights": weights,
        "data": trained.data.digest(),
        "images": len(rows),
        "view": asdict(trained.data.seen_view),
    }
    with suppress(OSError, EOFError, ValueError):  # none there, or damaged: made anew
        if json.loads(note.read_text()) == key:
            known: np.ndarray = np.load(path, mmap_mode="r")
            return known
    note.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        stored = np.lib.format.open_memmap(temporary, "w+", np.float16, (len(rows), width))
        at = dict(zip(trained.data.listing.image_id[rows].tolist(), range(len(rows)), strict=True))
        with trained.as_tested():
            for batch in explaining.some_images(trained.data, "train", trained.data.seen_view):
                image = trained.method.normalise(batch.image.to(trained.device))
                stored[[at[i] for i in batch.image_id.tolist()]] = embed(trained.method, image).half().cpu().numpy()
        stored.flush()
        del stored
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    write_atomically(note, json.dumps(key).encode())
    made: np.ndarray = np.load(path, mmap_mode="r")
    return made


def nearest(features: Float[Tensor, "b d"], stored: np.ndarray, count: int) -> tuple[Float[Tensor, "b n"], Tensor]:
    """Distances to the nearest embeddings, and their positions; without a copy of all of them in memory."""
    best, at = torch.full((len(features), 0), torch.inf), torch.zeros(len(features), 0, dtype=torch.int64)
    for start in range(0, len(stored), CHUNK):
        part = torch.from_numpy(np.array(stored[start : start + CHUNK])).float()
        distance = 1 - features @ torch.nn.functional.normalize(part, dim=1).T
        here = torch.arange(start, start + len(part)).expand(len(features), -1)
        best, at = torch.cat([best, distance], 1), torch.cat([at, here], 1)
        best, order = best.topk(min(count, best.shape[1]), dim=1, largest=False)
        at = at.gather(1, order)
    return best, at


def neighbours(trained: Trained, features: Float[Tensor, "b d"]) -> list[list[Neighbour]]:
    """The nearest training images of each; all are seen in one view."""
    data = trained.data
    distances, at = nearest(features, embeddings(trained, features.shape[1]), NEIGHBOURS)
    rows, seen = data.listing.rows("train"), data.dataset(data.seen_view)
    found = []
    for near, places in zip(distances.tolist(), at.tolist(), strict=True):
        items = [seen[int(rows[place])] for place in places]
        found.append([_neighbour(item, data.label_names, d) for item, d in zip(items, near, strict=True)])
    return found


def _neighbour(item: Batch, names: Sequence[str], distance: float) -> Neighbour:
    label = ", ".join(true_names(item.target, names))
    return Neighbour(item.image.permute(1, 2, 0).numpy(), label, max(distance, 0.0), float(item.aspect))


def shown_by(trained: Trained, items: Sequence[tuple[Batch, str]]) -> list[Example]:
    """What a run shows of each image, without neighbours: for the gallery."""
    with trained.as_tested():
        return [example_of(item, trained.data.label_names, trained.shows) for item, _ in items]
