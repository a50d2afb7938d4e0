"""Weights & Biases: the only file that imports it. Offline without an account, and never the reason why a run fails.

All phases of a run log under one run id, made from dataset, method, digest and seed. In the project it stands in the
group ``<dataset>/<method>``, in that by its job type, ``seed <n>``. ``fgbench wandb sync`` uploads what was logged
offline, the phases joined into their run.
"""

import functools
import os
import re
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from lightning.fabric.loggers.logger import _DummyExperiment as DummyExperiment
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from fgbench.report.account import PROJECT, choose_mode
from fgbench.report.figures import Example, part_overlay, saliency_overlay
from fgbench.result import Result, columns


def make_logger(
    folder: Path,
    *,
    dataset: str,
    method: str,
    variant: str,
    digest: str,
    seed: int,
    track: str = "",
    config: Mapping[str, Any] | None = None,
) -> "RunLogger | None":
    """The logger of one run; all of its phases get the same W&B run.

    Args:
        folder: the run's folder; W&B's files go into ``folder/wandb``.
        dataset: of the run, as are ``method``, ``variant``, ``digest``, ``seed`` and ``track``.
        method: see ``dataset``.
        variant: empty for the method itself.
        digest: of the configuration.
        seed: see ``dataset``.
        track: see ``dataset``.
        config: the resolved configuration.

    Returns:
        None where WANDB_MODE is ``disabled``.
    """
    mode = choose_mode(os.environ)
    if mode == "disabled":
        return None
    files = folder.absolute() / "wandb"
    for name, place in {"WANDB_DATA_DIR": "data", "WANDB_CACHE_DIR": "cache"}.items():
        os.environ.setdefault(name, str(files / place))
    full_name = f"{method}.{variant}" if variant else method
    cell = {"dataset": dataset, "method_name": full_name, "seed": seed}  # what reports filter and group by
    return RunLogger(
        name=f"{full_name} on {dataset}, seed {seed}",
        save_dir=folder.absolute(),
        offline=mode != "online",
        id=run_id(dataset, method, variant, digest, seed),
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        group=f"{dataset}/{full_name}",
        job_type=f"seed {seed}",
        tags=[text for text in (dataset, method, variant, track, f"seed {seed}") if text],
        config={**(config or {}), **cell, "config_digest": digest},
        resume="allow",
        # no capture of the terminal, no look at the code, no wait of minutes where there is no network
        settings=wandb.Settings(
            console="off", silent=mode != "online", disable_git=True, disable_code=True, init_timeout=30
        ),
    )


def run_id(dataset: str, method: str, variant: str, digest: str, seed: int) -> str:
    """The same in all phases and after every resumption.

    >>> run_id("cub200", "region_grouping", "no_prior", "0123456789ab", 3)
    'cub200-region_grouping-no_prior-01234567-s3'
    """
    parts = [dataset, method, *([variant] if variant else []), digest[:8], f"s{seed}"]
    return re.sub(r"[^A-Za-z0-9_-]", "-", "-".join(parts))


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that gives up on W&B instead of raising."""

    @functools.wraps(method)
    def guarded(self: "RunLogger", *args: Any, **kwargs: Any) -> Any:
        if self.broken:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # whatever it is, training is worth more than its log
            self.give_up(error)
            return None

    return guarded


class RunLogger(WandbLogger):
    """Lightning's W&B logger that warns once and goes silent when W&B fails.

    Attributes:
        broken: why it gave up; empty while it works.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._wandb_init.pop("anonymous", None)  # W&B warns of it even where it is None
        self.broken = ""

    def give_up(self, error: Exception) -> None:
        """Say once what happened, and log nothing any more."""
        self.broken = f"{type(error).__name__}: {error}"
        warnings.warn(f"W&B failed, the run goes on without it ({self.broken})", stacklevel=3)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started at the first use; a dummy in other processes and after a failure."""
        if self.broken:
            return DummyExperiment()
        try:
            return super().experiment
        except Exception as error:
            self.give_up(error)
            return DummyExperiment()

    @_guarded
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers of one step."""
        super().log_metrics(metrics, step)

    @_guarded
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration was logged when the run started."""

    @_guarded
    def save(self) -> None:
        """Nothing is buffered here."""
        super().save()

    @_guarded
    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Lightning's end of one fit or test."""
        super().finalize(status)

    @property
    def url(self) -> str:
        """Where a person finds the run; empty when it is logged offline."""
        return "" if self.broken or self._offline else str(getattr(self.experiment, "url", "") or "")

    @_guarded
    @rank_zero_only
    def log_examples(self, examples: Sequence[Example]) -> None:
        """A table of pictures: what the method looked at, and which parts it saw."""
        table = wandb.Table(columns=["image_id", "target", "predicted", "image", "saliency", "parts"])
        for example in examples:
            saliency = None if example.saliency is None else saliency_overlay(example.image, example.saliency)
            parts = None if example.parts is None else part_overlay(example.image, example.parts)
            pictures = (None if array is None else wandb.Image(array) for array in (example.image, saliency, parts))
            table.add_data(example.image_id, example.target, example.predicted, *pictures)
        self.experiment.log({"examples": table})

    @_guarded
    @rank_zero_only
    def log_result(self, result: Result) -> None:
        """The row of the leaderboard as the run's summary, with further scores, floors and details."""
        summary = {column.name: getattr(result, column.name) for column in columns()}
        summary |= {f"score/{name}": value for name, value in result.scores.items()}
        for prefix, tables in (("floor", result.floors), ("detail", result.details)):
            for metric, values in tables.items():
                summary |= {f"{prefix}/{metric}/{name}": value for name, value in values.items()}
        self.experiment.summary.update({name: value for name, value in summary.items() if value is not None})

    @_guarded
    @rank_zero_only
    def log_predictions(self, path: Path) -> None:
        """The predictions' file as an artifact."""
        artifact = wandb.Artifact(f"predictions-{self.experiment.id}"[:128], type="predictions")
        artifact.add_file(str(path), name="predictions.parquet")
        self.experiment.log_artifact(artifact)

    @_guarded
    @rank_zero_only
    def finish(self, exit_code: int = 0) -> None:
        """Write everything out; the next phase goes on with the same run."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=exit_code)
            self._experiment = None


def log_outcome(logger: RunLogger, result: Result, predictions: Path, examples: Sequence[Example]) -> None:
    """All that the test phase has to say, then the end of its run."""
    logger.log_examples(examples)
    logger.log_result(result)
    logger.log_predictions(predictions)
    logger.finish()
