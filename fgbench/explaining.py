"""Where runs meet explainers: makes the explained method of a run, and shows it the images that it learns from.

May import: config, data, explain, types. Must not import: run, bench. Reads: images of the training split. Writes:
nothing.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fgbench import config
from fgbench.data.base import BenchDataModule
from fgbench.data.listing import Split
from fgbench.data.samplers import EvalBatches
from fgbench.data.view import View
from fgbench.explain import Explained, make_explainer, parse
from fgbench.methods import Method
from fgbench.types import Batch


def make_explained(name: str, method: Method, tree: dict[str, Any]) -> Explained:
    """The method with an explainer's evidence; of fresh weights, where the name says so.

    Raises:
        ExplainerError: there is no such explainer.
    """
    return Explained(method, make_explainer(name), fresh_network(tree, method) if parse(name)[0] else None)


def fresh_network(tree: dict[str, Any], trained: Method) -> Method:
    """The configured method as training would start it from scratch: nothing in it was learned from anything.

    It is shown what ``trained`` is shown: images normalised for that one's weights.

    Patches that another network found beforehand, or authors published, stay: they are no part of the method.
    """
    arguments = tree["method"]["init_args"]
    unread = {name: None for name in config.WEIGHTS if name in arguments and name != "patch_weights"}
    colours = {name: list(getattr(trained.backbone, name)) for name in ("mean", "std") if name in arguments}
    with torch.random.fork_rng():
        torch.manual_seed(tree["seed"])
        content = {**tree, "method": {**tree["method"], "init_args": {**arguments, **unread, **colours}}}
        return config.instantiate(content)[1].eval()


def fit(explained: Explained, data: BenchDataModule, device: torch.device) -> None:
    """Let an explainer that learns see its share of the training split, the same in every process."""
    count = explained.explainer.fit_images
    if not count:
        return
    explained.to(device)

    def images() -> Iterator[Tensor]:
        for batch in some_images(data, "train", data.seen_view, count):
            yield explained.normalise(batch.image.to(device))

    explained.explainer.fit(explained.fresh or explained.method, images())


def some_images(data: BenchDataModule, split: Split, view: View, count: int | None = None) -> DataLoader[Batch]:
    """Images of a split, spread evenly over it, all of them to this process; None for the whole split."""
    from fgbench.data.dataset import collate

    rows = data.listing.rows(split)
    if count is not None and count < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, count).astype(int)]
    shapes = None if view.fixes_shape else view.shapes(data.listing.stored_sizes()[rows])
    batches = EvalBatches(rows, data.eval_batch_size, shapes, place=(0, 1))
    return DataLoader(data.dataset(view), batch_sampler=batches, num_workers=data.workers, collate_fn=collate)
