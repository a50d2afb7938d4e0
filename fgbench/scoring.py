"""Where methods meet metrics: a callback that runs every metric over the loaders of one ``trainer.test``.

It sees each Output once, keeps sums, and streams per-image rows to a writer, so memory does not grow with the split.
All processes reduce their sums once, at the end of a loader; nothing is logged per step, for shards may be uneven. It
works with autocast off. Metrics that cannot be computed are None in the report, with the reason; never zero.

May import: types, metrics, explain. Must not import: methods, data (it is told what it needs). Writes: to the writer
only.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from fgbench import measures
from fgbench.explain import floor_maps, floors
from fgbench.metrics.accuracy import Accuracy, AttributeAccuracy
from fgbench.metrics.base import BenchMetric
from fgbench.metrics.census import Census
from fgbench.metrics.channels import Channels
from fgbench.metrics.focus import Focus
from fgbench.metrics.landmark_error import Frame, LandmarkError
from fgbench.metrics.pointing_game import PointingGame
from fgbench.metrics.streams import Streams
from fgbench.types import Batch, Output

Role = Literal["fit", "test", "locate"]
SPLITS = {"fit": "fit", "test": "test", "locate": "test", "val": "val"}
DIGITS = 4  # of a percentage in the report: 0.0001 % is less than one image of any split
MOST_DETAILS = 256  # values of one metric by landmark, attribute or class; more can be had from the predictions
EXACT = 2**27  # logits of a run that are kept in float32 (512 MB), as an exact ensemble needs them; beyond, in float16
ROWS = 2048  # per-image rows that wait on the device before they are written: one wait for it, not one per step
WRITTEN = {  # column of a metric -> column of the predictions file
    "predicted": "predicted",
    "top5_classes": "top5",
    "top5_logits": "top5_logits",
    "correct": "correct",
    "hit": "hit",
    "landmark_errors": "landmark_errors",
}


@runtime_checkable
class Writer(Protocol):
    """Takes rows of one process; the same columns in each call, ``image_id`` among them."""

    def write(self, columns: Mapping[str, np.ndarray]) -> None:
        """Add rows."""


class Scoring(Callback):
    """All metrics of a dataset on a method, over ``trainer.test`` and over validation.

    Args:
        facts: of the dataset, a datamodule or anything with its attributes: ``num_outputs``, ``target``,
            ``label_names``, ``label_groups``, ``landmark_names``, ``landmark_frame``, ``landmark_classes``,
            ``has_boxes``, ``mask_names``, ``pointing_tolerances``, ``validate_on_test``, and the method
            ``split_ids(split)``. Asked once data are prepared.
        parts: number of part maps in the method's Output, None without.
        roles: what each of the test dataloaders is for, in order. ``fit`` (train split) fits the landmarks' regressors
            and comes first; ``test`` counts accuracy; ``locate`` shows the test split again, in the view on which
            landmarks and pointing are evaluated (without it, ``test`` does that).
        writer: takes rows of ``image_id, target, predicted, top5, top5_logits, correct, hit, landmark_errors``, as far
            as dataset and method have them.
        locate_writer: with a ``locate`` loader, takes ``image_id, hit, landmark_errors`` of it instead. An image may be
            shown to another process than in the test loader, so these rows are joined when all are written.
        logits_writer: takes ``image_id, target, logits``, all of them, of the ``test`` loader.
        seed: of the random floors.
        class_stages: stages of the method's network whose channels belong to classes.
        bound_parts: number of the method's ``Output.bound_parts``.
        streams: names of the method's further logits.
        steps: how many times the method looks at one frame.

    Attributes:
        report: after the test: ``numbers`` (the leaderboard's columns, percent or None), ``reasons`` (why a number is
            None, or not among the scores), ``scores`` (further numbers), ``floors`` and ``details`` (by metric),
            ``n_eval``, ``seconds`` and ``images_per_s`` of the ``test`` loader (with loading and metrics, over all
            processes).

    Raises:
        ValueError: the roles are in an impossible order.
    """

    def __init__(
        self,
        facts: Any,
        parts: int | None = None,
        roles: Sequence[Role] = ("test",),
        *,
        writer: Writer | None = None,
        locate_writer: Writer | None = None,
        logits_writer: Writer | None = None,
        seed: int = 0,
        class_stages: int = 0,
        streams: Sequence[str] = (),
        steps: int = 0,
        bound_parts: int = 0,
    ) -> None:
        super().__init__()
        if "test" not in roles or len(set(roles)) != len(roles) or "fit" in roles[1:]:
            raise ValueError(f"scoring: loaders are [fit,] test [, locate], each once and fit first; got {list(roles)}")
        self.facts, self.parts, self.roles = facts, parts, tuple(roles)
        self.seed, self.class_stages, self.streams, self.steps = seed, class_stages, tuple(streams), steps
        self.bound_parts = bound_parts
        self.locating: Role = "locate" if "locate" in roles else "test"
        self.writers: dict[str, Writer | None] = {"test": writer, "locate": locate_writer, "logits": logits_writer}
        self.censuses: dict[str, Census] = {}
        self.metrics: dict[str, list[BenchMetric]] = {}
        self.reasons: dict[str, str] = {}
        self.report: dict[str, Any] = {}
        self._waiting: list[dict[str, Tensor]] = []
        self._logits: list[dict[str, Tensor]] = []
        self._started = 0.0
        self._current: Role | None = None

    @classmethod
    def for_validation(cls, data: Any) -> "Scoring":
        """For ``trainer.fit``: ``val/accuracy`` after each epoch."""
        return cls(data)

    @classmethod
    def for_test(
        cls, data: Any, method: Any, writer: Writer | None = None, locate_writer: Writer | None = None, seed: int = 0
    ) -> "Scoring":
        """For ``trainer.test(method, dataloaders=scoring.loaders(data))``: all that dataset and method allow.

        Args:
            data: a prepared datamodule.
            method: its ``parts`` say how many part maps it gives, its ``class_stages`` whether channels have classes,
                its ``stream_names`` and ``steps`` what else there is.
            writer: see the class.
            locate_writer: see the class; needed where the datamodule has a locating view of its own.
            seed: of the random floors.
        """
        fit: list[Role] = ["fit"] if data.landmark_frame and method.parts else []
        locate: list[Role] = ["locate"] if data.locate_view is not None and (fit or data.has_boxes) else []
        return cls(
            data,
            method.parts,
            [*fit, "test", *locate],
            writer=writer,
            locate_writer=locate_writer,
            seed=seed,
            class_stages=method.class_stages,
            streams=method.stream_names,
            steps=method.steps,
            bound_parts=method.bound_parts,
        )

    def loaders(self, data: Any) -> list[Any]:
        """The datamodule's loaders for the roles, in their order."""
        made = {"fit": data.fit_dataloader, "test": data.test_dataloader, "locate": data.locate_dataloader}
        return [made[role]() for role in self.roles]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the metrics; the data are prepared by now."""
        self.censuses = {name: Census() for name in SPLITS}
        self.metrics = {name: [] for name in SPLITS}
        self.reasons = {}
        self.metrics["test"].append(self._accuracy())
        self.metrics["val"].append(self._accuracy())
        if self.class_stages:
            self.metrics["test"].append(Channels(self.facts.num_outputs, self.class_stages))
        if self.streams:
            self.metrics["test"].append(Streams(self.streams, self.facts.target))
        if self.steps:
            self.metrics["test"].append(Focus(self.steps))
        self.metrics["fit"] = self._landmarks()
        self.metrics[self.locating] += [*self._pointing(), *self.metrics["fit"]]
        found, reasons = measures.evidence(self.facts, self.parts, self.class_stages > 0, self.bound_parts)
        self.metrics[self.locating] += found
        self.reasons |= reasons

    # What there is to compute

    def _accuracy(self) -> BenchMetric:
        if self.facts.target == "class":
            return Accuracy(self.facts.num_outputs, self.facts.label_groups)
        return AttributeAccuracy(self.facts.num_outputs)

    def _pointing(self) -> list[BenchMetric]:
        if not self.facts.has_boxes:
            self._leave_out("pointing", "the dataset has no boxes")
            return []
        return [PointingGame(self.facts.pointing_tolerances, ("image_centre", "box_centre", "random_point"))]

    def _landmarks(self) -> list[BenchMetric]:
        names, frame, parts = self.facts.landmark_names, self.facts.landmark_frame, self.parts
        if not (names and frame):
            self._leave_out("landmark", "the dataset has no landmarks")
        elif not parts:
            self._leave_out("landmark", "the method has no parts")
        elif "fit" not in self.roles:
            self._leave_out("landmark", "there was no loader to fit the landmarks' regressors on")
        else:
            frames: tuple[Frame, ...] = ("box",) if frame == "box" else ("iod_prefit", "iod_residual")
            count = {"image_centre": 1, **({"box_centre": 1} if self.facts.has_boxes else {}), "random_parts": parts}
            classes = self.facts.landmark_classes
            return [LandmarkError(len(names), parts, frame, count, classes) for frame in frames]
        return []

    def _leave_out(self, metric: str, reason: str) -> None:
        self.reasons |= {f"{metric}_error": reason, f"{metric}_floor": reason}

    def _floors(self, batch: Batch, maps: bool) -> dict[str, Tensor]:
        random = floors.random_parts(batch, self.parts or 1, self.seed)
        found = {
            "image_centre": floors.image_centre(batch),
            "box_centre": floors.box_centre(batch),
            "random_parts": random,
            "random_point": random[:, :1],
        }
        if maps:
            found |= {
                "centre_map": adaptive_avg_pool2d(floor_maps.centre_map(batch), floor_maps.CELLS),
                "random_map": floor_maps.random_map(batch, self.seed),
            }
        return found

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
        output: Output = outputs["output"]
        rows = {"image_id": batch.image_id} | ({"target": batch.target} if role == "test" else {})
        if output.saliency is None and batch_idx == 0 and role != "fit":
            self.metrics[role] = [metric for metric in self.metrics[role] if metric.needs != "saliency"]
            if self.facts.has_boxes and role == self.locating:
                self._leave_out("pointing", "the method has no saliency")
            bound = self.class_stages > 0
            self.reasons |= measures.reasons(self.facts, self.parts, bound, False, bound_parts=self.bound_parts)
        with torch.autocast(batch.image_id.device.type, enabled=False):
            self.censuses[role].update(batch.image_id)
            points = self._floors(batch, role == self.locating) if role != "test" or self.locating == "test" else None
            for metric in self.metrics[role]:
                if role == "fit":
                    metric.fit_update(output, batch, points)
                    continue
                columns = metric.columns(output, batch, points)
                metric.update(columns, batch)
                rows |= {new: columns[old] for old, new in WRITTEN.items() if old in columns and new not in rows}
        if self.writers.get(role) is not None:
            self._waiting.append(rows)
        if role == "test" and self.writers.get("logits") is not None:
            few = len(self.facts.split_ids("test")) * output.logits.shape[1] <= EXACT
            logits = output.logits.float() if few else output.logits.half()
            self._logits.append({"image_id": batch.image_id, "target": batch.target, "logits": logits})
        if max(sum(len(rows["image_id"]) for rows in waiting) for waiting in (self._waiting, self._logits)) >= ROWS:
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
        """Hand the waiting rows on: within a loader, the only place where scoring waits for the device."""
        for name, waiting in ((str(self._current), self._waiting), ("logits", self._logits)):
            writer = self.writers.get(name)
            if waiting and writer is not None:
                writer.write({key: torch.cat([rows[key] for rows in waiting]).cpu().numpy() for key in waiting[0]})
        self._waiting, self._logits = [], []

    def _reset(self, pl_module: LightningModule, *names: str) -> None:
        self._device, self._waiting, self._logits = pl_module.device, [], []
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
                    if len(value) <= MOST_DETAILS:
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
        empty = [name for name, number in numbers.items() if number is None]
        reasons = {name: self._reason(name) for name in [*empty, *(n for n in measures.PLAIN if n not in scores)]}
        self.report |= {"numbers": numbers, "reasons": reasons, "scores": scores, "floors": below, "details": details}

    def _reason(self, name: str) -> str:
        if name == "class_accuracy" and self.facts.target == "attributes":
            return "the dataset asks for attributes, not for classes"
        if name.endswith("_landmarks_foreground"):
            return self.reasons.get(name, "no image of the split shows a landmark that lies in one of the parts")
        return self.reasons.get(name, "no image of the split has what it takes (a visible landmark, a box)")

    def _names(self, metric: str, count: int) -> Sequence[str]:
        names = self.facts.landmark_names if metric.startswith("landmark_error") else self.facts.label_names
        if metric.startswith("group_accuracy"):
            names = tuple(dict.fromkeys(self.facts.label_groups))
        if metric.startswith("step_"):  # of each step, or of each but the first
            names = tuple(str(step) for step in range(self.steps - count + 1, self.steps + 1))
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
        output: Output = outputs["output"]
        self.censuses["val"].update(batch.image_id)
        for metric in self.metrics["val"]:
            metric.update(metric.columns(output, batch), batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log ``val/accuracy``, from counts that were reduced here: the same number on every process."""
        if trainer.sanity_checking:
            return
        self.censuses["val"].check("validation", self.facts.split_ids("test" if self.facts.validate_on_test else "val"))
        for metric in self.metrics["val"]:
            pl_module.log("val/accuracy", metric.compute()["accuracy"].float(), prog_bar=True)


def _named(names: Sequence[str], values: Tensor) -> dict[str, float]:
    """By name, without the NaN of what no image shows."""
    numbers = [round(float(value), DIGITS) for value in values]
    return {name: number for name, number in zip(names, numbers, strict=True) if not np.isnan(number)}
