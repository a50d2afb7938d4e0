"""A person who opens the W&B run finds everything; a run without W&B goes on."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fgbench.predictions import PredictionsWriter
from fgbench.report import wandb as report
from fgbench.report.callbacks import Speed
from fgbench.report.figures import Example, part_overlay, saliency_overlay
from fgbench.result import Result

RUN = {"dataset": "toybirds", "method": "region_grouping", "variant": "no_prior", "digest": "0123456789ab", "seed": 3}
RUN_ID = "toybirds-region_grouping-no_prior-01234567-s3"


class Images(NamedTuple):
    image: Tensor
    target: Tensor


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 1)

    def training_step(self, batch: Images, batch_idx: int) -> Tensor:
        loss = self.layer(batch.image.flatten(1)).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.parameters(), 0.01)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}


def fit(folder: Path, logger: report.RunLogger | None) -> Trainer:
    batches = DataLoader([Images(torch.ones(4, 3, 2, 2), torch.zeros(4))] * 4, batch_size=None)
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=logger or False, default_root_dir=folder, log_every_n_steps=1,
        callbacks=[Speed(skip=0), *([LearningRateMonitor("step")] if logger else [])], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Model(), batches)
    return trainer


def make_result() -> Result:
    return Result(
        **RUN_COLUMNS, classes=10, backbone="tiny", weights="none", resolution=64, track="default", selection="last",
        epochs=3, n_train=100, n_eval=41, accuracy=91.5, class_accuracy=90.25, landmark_error=12.0, landmark_floor=30.0,
        pointing_error=None, pointing_floor=None, params_m=0.5, gmacs=0.01, gflops=0.02,
        energy_kwh=0.1, train_images_per_s=100.0,
        test_images_per_s=300.0, peak_memory_gb=0.5, train_hours=0.1, devices=1, device_name="a CPU",
        precision="32-true", config="a.yaml", config_digest="0123456789ab", data_digest="abcdef", commit="deadbeef",
        versions={"torch": "2.11.0"}, date="2026-01-02T03:04:05Z", command="fgbench bench",
        reasons={"pointing_error": "no boxes", "pointing_floor": "no boxes"},
        details={"landmark_error": {"beak": 10.5}}, scores={"iod_error": 7.25},
    )  # fmt: skip


RUN_COLUMNS: dict[str, Any] = {name: RUN[name] for name in ("dataset", "method", "variant", "seed")}


def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    maps = rng.random((3, 4, 4)).astype(np.float32)
    return [Example(5, image, "a", "b", maps[0], maps), Example(9, image, "c", "c")]


def read_offline_run(folder: Path) -> dict[str, Any]:
    """History, summary, config and the artifacts' files of an offline run, from its transaction log."""
    (log,) = folder.glob("run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    lines = subprocess.run([*command, str(log)], capture_output=True, text=True, check=True).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    run: dict[str, Any] = {"history": [], "summary": {}, "artifacts": [], "config": {}, "run": {}}
    for record in records:
        match record["type"]:
            case "history":
                run["history"].append(record["history"]["item"])
            case "summary":
                run["summary"] |= record["summary"].get("update", {})
            case "run":
                run["run"] |= record["run"]
                run["config"] |= record["run"]["config"]["update"]
            case "artifact":
                run["artifacts"].append(record["artifact"])
    run["files"] = {
        artifact["type"]: {entry["path"]: Path(entry["local_path"]) for entry in artifact["manifest"]["contents"]}
        for artifact in run["artifacts"]
    }
    return run


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.setenv(name, "x")  # so that monkeypatch removes afterwards what make_logger sets
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path


def test_an_offline_run_holds_everything(offline: Path) -> None:
    config = {"optim": {"lr": 0.1}, "method": {"class_path": "RegionGrouping"}}
    logger = report.make_logger(offline, **RUN, track="default", config=config)
    assert logger is not None
    fit(offline, logger)
    logger.finish()
    with PredictionsWriter(offline / "predictions.parquet") as writer:
        writer.write({"image_id": np.arange(3)})
    second = report.make_logger(offline, **RUN, track="default", config=config)
    assert second is not None
    report.log_outcome(second, make_result(), offline / "predictions.parquet", examples())
    assert not logger.broken
    assert not second.broken

    fit_folder, test_folder = sorted((offline / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime)
    training, test = read_offline_run(fit_folder), read_offline_run(test_folder)
    for run in (training, test):
        assert run["run"]["run_id"] == RUN_ID
        assert run["run"]["run_group"] == "toybirds/region_grouping.no_prior"
        assert {"toybirds", "region_grouping", "no_prior", "seed 3"} <= set(run["run"]["tags"])
        assert run["run"]["job_type"] == "seed 3"  # in its group, a person finds the seed
        assert run["config"]["optim"] == {"lr": 0.1}
        assert (run["config"]["dataset"], run["config"]["method_name"]) == ("toybirds", "region_grouping.no_prior")
    losses = [entry["train/loss"] for entry in training["history"] if "train/loss" in entry]
    rates = [entry["lr-SGD"] for entry in training["history"] if "lr-SGD" in entry]
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    assert (rates[0], rates[-1]) == (pytest.approx(0.01), pytest.approx(0.001))  # one decay, between the epochs
    costs = [entry for entry in training["history"] if "speed/train_images_per_s" in entry]
    assert len(costs) == 2
    assert all(entry["speed/train_images_per_s"] > 0 and entry["speed/peak_memory_gb"] > 0 for entry in costs)

    summary = test["summary"]
    assert (summary["accuracy"], summary["landmark_error"], summary["n_eval"]) == (91.5, 12, 41)
    assert (summary["detail/landmark_error/beak"], summary["score/iod_error"]) == (10.5, 7.25)
    assert "pointing_error" not in summary
    files = test["files"]["run_table"]
    table = json.loads(files["examples.table.json"].read_text())
    assert table["columns"] == ["image_id", "target", "predicted", "image", "saliency", "parts"]
    assert [row[:3] for row in table["data"]] == [[5, "a", "b"], [9, "c", "c"]]
    assert table["data"][1][4:] == [None, None]
    first = examples()[0]
    assert first.saliency is not None
    assert first.parts is not None
    expected = [first.image, saliency_overlay(first.image, first.saliency), part_overlay(first.image, first.parts)]
    for cell, pixels in zip(table["data"][0][3:], expected, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(files[cell["path"]])), pixels)
    stored = test["files"]["predictions"]["predictions.parquet"]
    assert stored.read_bytes() == (offline / "predictions.parquet").read_bytes()


def test_nothing_is_written_outside_of_the_run_folder(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = offline / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    logger = report.make_logger(offline / "run", **RUN)
    assert logger is not None
    logger.log_examples(examples())
    logger.finish()
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert list((offline / "run" / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize(
    ("environ", "netrc", "mode"),
    [
        ({}, "", "offline"),
        ({"WANDB_API_KEY": "k" * 40}, "", "online"),
        ({"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "offline"}, "", "offline"),
        ({"WANDB_MODE": "disabled"}, "", "disabled"),
        ({}, "machine api.wandb.ai login user password " + "k" * 40, "online"),
        ({}, "machine example.org login user password secret", "offline"),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "machine wandb.example.org login u password p", "online"),
        ({}, "this is not a netrc file", "offline"),
    ],
)
def test_online_only_for_a_user_who_is_logged_in(
    tmp_path: Path, environ: dict[str, str], netrc: str, mode: str
) -> None:
    if netrc:
        (tmp_path / ".netrc").write_text(netrc)
        (tmp_path / ".netrc").chmod(0o600)
    assert report.choose_mode({"HOME": str(tmp_path), **environ}) == mode


def test_disabled_means_no_logger(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert report.make_logger(offline, **RUN) is None


def test_a_run_whose_wandb_cannot_start_trains_on(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wandb.init", fail)
    logger = report.make_logger(offline, **RUN)
    assert logger is not None
    with pytest.warns(UserWarning, match="W&B failed, the run goes on without it .*No space left"):
        trainer = fit(offline, logger)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said once
        report.log_outcome(logger, make_result(), offline / "missing.parquet", examples())
    assert trainer.global_step == 8
    assert logger.url == ""


def test_a_run_whose_wandb_breaks_on_the_way_trains_on(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = report.make_logger(offline, **RUN)
    assert logger is not None
    run, logged = logger.experiment, []

    def log(*args: Any, **kwargs: Any) -> None:
        logged.append(args)
        if len(logged) > 2:
            raise ConnectionResetError("gone")

    monkeypatch.setattr(run, "log", log)
    with pytest.warns(UserWarning, match="ConnectionResetError: gone") as warned:
        trainer = fit(offline, logger)
    assert len([warning for warning in warned if "W&B failed" in str(warning.message)]) == 1
    assert trainer.global_step == 8
    assert len(logged) == 3
    run.finish()
