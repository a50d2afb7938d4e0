"""Where methods meet metrics: a callback that runs every metric over the loaders of one ``trainer.test``.

It sees each Output once, keeps sums, and streams per-image rows to a writer, so memory does not grow with the split.
All processes reduce their sums once, at the end of a loader; nothing is logged per step, for shards may be uneven. It
works with autocast off. Metrics that cannot be computed are None in the report, with the reason; never zero.

May import: types, metrics, explain. Must not import: methods, data (it is told what it needs). Writes: to the writer
only.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torchmetrics
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from fgbench.explain import floors
from fgbench.metrics.accuracy import Accuracy, AttributeAccuracy
from fgbench.metrics.base import BenchMetric
from fgbench.metrics.landmark_error import Frame, LandmarkError
from fgbench.metrics.pointing_game import PointingGame
from fgbench.types import Batch, Output, Target

Role = Literal["fit", "test", "locate"]
SPLITS = {"fit": "train", "test": "test", "locate": "test", "val": "val"}
DIGITS = 4  # of a percentage in the report: 0.0001 % is less than one image of any split
ROWS = 2048  # per-image rows that wait on the device before they are written: one wait for it, not one per step
WRITTEN = {  # column of a metric -> column of the predictions file
    "predicted": "predicted",
    "top5_classes": "top5",
    "top5_logits": "top5_logits",
    "correct": "correct",
    "hit": "hit",
    "landmark_errors": "landmark_errors",
}


class Writer(Protocol):
    """Takes rows of one process; the same columns in each call, ``image_id`` among them."""

    def write(self, columns: Mapping[str, np.ndarray]) -> None:
        """Add rows."""


class Facts(Protocol):
    """What scoring needs to know of a dataset; a datamodule is one."""

    num_outputs: int
    target: Target
    label_names: tuple[str, ...]
    landmark_names: tuple[str, ...]
    landmark_frame: Literal["box", "interocular"] | None
    has_boxes: bool

    def split_ids(self, split: str) -> Sequence[int] | np.ndarray:
        """The ids of the images of ``train``, ``val`` or ``test``."""


class Census(torchmetrics.Metric):
    """Which images the processes saw: their count, and integer sums of their ids, which a wrong set would change."""

    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, image_id: Tensor) -> None:
        """Add the images of a batch."""
        ids = image_id.to(torch.int64)
        self.sums += torch.stack([torch.ones_like(ids).sum(), ids.sum(), (ids * ids).sum()])

    def compute(self) -> Tensor:
        """Count, sum of ids, sum of their squares."""
        return self.sums

    def check(self, loader: str, expected: Sequence[int] | np.ndarray) -> int:
        """The number of images seen by all processes.

        Raises:
            RuntimeError: it is not the split's, or they are not the split's images.
        """
        seen = self.compute().tolist()
        ids = np.asarray(expected, dtype=np.int64)
        if seen != [len(ids), int(ids.sum()), int((ids * ids).sum())]:
            size = f"{seen[0]} images, the split has {len(ids)}"
            what = size if seen[0] != len(ids) else "some images twice and others not at all"
            raise RuntimeError(
                f"the {loader} loader showed {what}; every image must be seen exactly once. "
                "Use the datamodule's loaders with Trainer(use_distributed_sampler=False), and no limit_test_batches"
            )
        return len(ids)


class Scoring(Callback):
    """All metrics of a dataset on a method, over ``trainer.test`` and over validation.

    Args:
        facts: of the dataset.
        parts: number of part maps in the method's Output, None without.
        roles: what each of the test dataloaders is for, in order. ``fit`` (train split) fits the landmarks'
            regressors and comes first; ``test`` counts accuracy; ``locate`` shows the test split again, in the view
            on which landmarks and pointing are evaluated (without it, ``test`` does that).
        has_saliency: whether the method's Output has a saliency.
        writer: takes rows of ``image_id, target, predicted, top5, top5_logits, correct, hit, landmark_errors`` (those
            that the dataset and the method have). With a ``locate`` loader, the columns of the first of the two wait
            in host memory (about 0.1 kB per image) until the second shows the image again.
        landmark_classes: class indices that get regressors of their own, see ``landmark_error``.
        tolerances: of the pointing game, original pixels.
        seed: of the random floors.

    Attributes:
        report: after the test: ``numbers`` (the leaderboard's columns, percent or None), ``reasons`` (why a number is
            None), ``scores`` (further numbers), ``floors`` and ``details`` (by metric), ``n_eval``, ``seconds`` and
            ``images_per_s`` of the ``test`` loader (with loading and metrics, over all processes).

    Raises:
        ValueError: the roles are in an impossible order.
    """

    def __init__(
        self,
        facts: Facts,
        parts: int | None = None,
        roles: Sequence[Role] = ("test",),
        *,
        has_saliency: bool = True,
        writer: Writer | None = None,
        landmark_classes: tuple[int, ...] = (),
        tolerances: Sequence[float] = (0.0, 15.0),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if "test" not in roles or len(set(roles)) != len(roles) or "fit" in roles[1:]:
            raise ValueError(f"scoring: loaders are [fit,] test [, locate], each once and fit first; got {list(roles)}")
        self.facts, self.parts, self.roles, self.seed, self.writer = facts, parts, tuple(roles), seed, writer
        self.censuses = {name: Census() for name in SPLITS}
        self.reasons: dict[str, str] = {}
        self.metrics: dict[str, list[BenchMetric]] = {name: [] for name in SPLITS}
        self.metrics["test"].append(self._accuracy())
        self.metrics["val"].append(self._accuracy())
        locating = "locate" if "locate" in roles else "test"
        landmarks = self._landmarks(landmark_classes)
        self.metrics[locating] += [*self._pointing(has_saliency, tolerances), *landmarks]
        self.metrics["fit"] += landmarks
        self._waiting: list[dict[str, Tensor]] = []
        self._held: list[dict[str, np.ndarray]] = []
        self._started = 0.0
        self._current: Role | None = None
        self.report: dict[str, Any] = {}

    # What there is to compute

    def _accuracy(self) -> BenchMetric:
        return (Accuracy if self.facts.target == "class" else AttributeAccuracy)(self.facts.num_outputs)

    def _pointing(self, has_saliency: bool, tolerances: Sequence[float]) -> list[PointingGame]:
        reason = "" if has_saliency else "the method has no saliency"
        reason = reason or ("" if self.facts.has_boxes else "the dataset has no boxes")
        if reason:
            self.reasons |= {"pointing_error": reason, "pointing_floor": reason}
            return []
        return [PointingGame(tolerances, ("image_centre", "box_centre", "random_point"))]

    def _landmarks(self, classes: tuple[int, ...]) -> list[LandmarkError]:
        reason = "" if self.facts.landmark_frame and self.facts.landmark_names else "the dataset has no landmarks"
        reason = reason or ("" if self.parts else "the method has no parts")
        reason = reason or ("" if "fit" in self.roles else "there was no loader to fit the landmarks' regressors on")
        if reason or self.parts is None:
            self.reasons |= {"landmark_error": reason, "landmark_floor": reason}
            return []
        frames: tuple[Frame, ...] = ("box",) if self.facts.landmark_frame == "box" else ("iod_prefit", "iod_residual")
        count = {"image_centre": 1, "box_centre": 1, "random_parts": self.parts}
        if not self.facts.has_boxes:
            del count["box_centre"]
        return [LandmarkError(len(self.facts.landmark_names), self.parts, frame, count, classes) for frame in frames]

    def _floors(self, batch: Batch) -> dict[str, Tensor]:
        random = floors.random_parts(batch, self.parts or 1, self.seed)
        return {
            "image_centre": floors.image_centre(batch),
            "box_centre": floors.box_centre(batch),
            "random_parts": random,
            "random_point": random[:, :1],
        }

    # The test, loader after loader

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from nothing."""
        self._reset(pl_module, *self.roles)
        self.report, self._current = {}, None

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Between two loaders, finish the one before; every process gets here, for each has a batch of each loader."""
        if batch_idx == 0:
            self._finish(trainer)
            self._current = self.roles[dataloader_idx]
            self._started = time.perf_counter()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take one batch into the sums."""
        role = self.roles[dataloader_idx]
        output = _single(outputs["output"])
        rows = {"image_id": batch.image_id, "target": batch.target}
        with torch.autocast(batch.image_id.device.type, enabled=False):
            self.censuses[role].update(batch.image_id)
            points = self._floors(batch) if role != "test" or len(self.metrics[role]) > 1 else None
            for metric in self.metrics[role]:
                if role == "fit":
                    metric.fit_update(output, batch, points)
                    continue
                columns = metric.columns(output, batch, points)
                metric.update(columns, batch)
                rows |= {new: columns[old] for old, new in WRITTEN.items() if old in columns and new not in rows}
        if self.writer is not None and role != "fit":
            self._waiting.append(rows)
            if sum(len(batch_rows["image_id"]) for batch_rows in self._waiting) >= ROWS:
                self._write()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reduce the last loader and fill ``report``."""
        self._finish(trainer)
        self._current = None
        self._assemble()

    def _finish(self, trainer: Trainer) -> None:
        """The end of a loader: write what waits, check the count, solve the fit, stop the clock."""
        role = self._current
        if role is None:
            return
        self._write()
        if role == "test":
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            own = torch.tensor(time.perf_counter() - self._started, device=self._device)
            seconds = float(trainer.strategy.reduce(own, reduce_op="max"))
        images = self.censuses[role].check(role, self.facts.split_ids(SPLITS[role]))
        if role == "test":
            self.report |= {"n_eval": images, "seconds": seconds, "images_per_s": images / seconds}
        if role == "fit":
            for metric in self.metrics["fit"]:
                metric.fit()

    def _write(self) -> None:
        """Hand the waiting rows on: the only place where the device is waited for."""
        if not self._waiting or self.writer is None:
            return
        rows = {name: torch.cat([batch[name] for batch in self._waiting]).cpu().numpy() for name in self._waiting[0]}
        self._waiting = []
        passes = [role for role in self.roles if role != "fit"]
        if self._current != passes[-1]:
            self._held.append(rows)
            return
        self.writer.write(self._joined(rows) if len(passes) > 1 else rows)

    def _joined(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows with the columns which the first of two passes over the test split left behind."""
        if len(self._held) > 1:
            held = {name: np.concatenate([part[name] for part in self._held]) for name in self._held[0]}
            order = np.argsort(held["image_id"])
            self._held = [{name: values[order] for name, values in held.items()}]
        held = self._held[0]
        place = np.searchsorted(held["image_id"], rows["image_id"]).clip(max=len(held["image_id"]) - 1)
        if not np.array_equal(held["image_id"][place], rows["image_id"]):
            raise RuntimeError("the test and the locate loader must show the same images on the same process")
        return {**{name: values[place] for name, values in held.items()}, **rows}

    def _reset(self, pl_module: LightningModule, *names: str) -> None:
        self._device, self._waiting, self._held = pl_module.device, [], []
        for name in names:
            for metric in (self.censuses[name], *self.metrics[name]):
                metric.to(pl_module.device).reset()

    # The report

    def _assemble(self) -> None:
        columns = ("accuracy", "class_accuracy", "landmark_error", "landmark_floor", "pointing_error", "pointing_floor")
        numbers: dict[str, float | None] = dict.fromkeys(columns)
        scores: dict[str, float] = {}
        below: dict[str, dict[str, float]] = {}
        details: dict[str, dict[str, float]] = {}
        for metric in (*self.metrics["test"], *self.metrics["locate"]):
            for name, value in metric.compute().items():
                if name.endswith("_each"):
                    details[name.removesuffix("_each")] = _named(self._names(name, len(value)), value)
                    continue
                number = round(float(value), DIGITS)
                if np.isnan(number):
                    continue
                base, _, floor = name.partition("/")
                if floor:
                    below.setdefault(base, {})[floor] = number
                elif name in numbers:
                    numbers[name] = number
                else:
                    scores[name] = number
        numbers["landmark_floor"] = below.get("landmark_error", {}).get("mean_landmark")
        numbers["pointing_floor"] = below.get("pointing_error", {}).get("image_centre")
        reasons = {name: self._reason(name) for name, number in numbers.items() if number is None}
        self.report |= {"numbers": numbers, "reasons": reasons, "scores": scores, "floors": below, "details": details}

    def _reason(self, name: str) -> str:
        if name == "class_accuracy" and self.facts.target == "attributes":
            return "the dataset asks for attributes, not for classes"
        return self.reasons.get(name, "no image of the split has what it takes (a visible landmark, a box)")

    def _names(self, metric: str, count: int) -> Sequence[str]:
        names = self.facts.landmark_names if metric.startswith("landmark_error") else self.facts.label_names
        return names if len(names) == count else [str(index) for index in range(count)]

    # Validation

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from nothing."""
        self._reset(pl_module, "val")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count."""
        output = _single(outputs["output"])
        self.censuses["val"].update(batch.image_id)
        for metric in self.metrics["val"]:
            metric.update(metric.columns(output, batch), batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log ``val/accuracy``, from counts that were reduced here: the same number on every process."""
        if trainer.sanity_checking:
            return
        self.censuses["val"].check("validation", self.facts.split_ids("val"))
        for metric in self.metrics["val"]:
            pl_module.log("val/accuracy", metric.compute()["accuracy"].float(), prog_bar=True)


def _single(output: Output) -> Output:
    """In float32, whatever precision the network ran in."""
    saliency = None if output.saliency is None else output.saliency.float()
    parts = None if output.parts is None else output.parts.float()
    return Output(output.logits.float(), saliency, parts)


def _named(names: Sequence[str], values: Tensor) -> dict[str, float]:
    """By name, without the NaN of what no image shows."""
    numbers = [round(float(value), DIGITS) for value in values]
    return {name: number for name, number in zip(names, numbers, strict=True) if not np.isnan(number)}
