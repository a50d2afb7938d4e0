"""The phases of one run, inside their processes.

``prepare`` computes what a method wants of a frozen network, ``fit`` trains to the last epoch, ``test`` reads the test
split once.

May import: every room below it. Must not import: bench, cli.
Reads: the run folder's config.yaml and checkpoints. Writes: the run folder only; ``bench`` publishes the result.
"""

import contextlib
import json
import logging
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from fgbench import config, costs, explaining, provenance
from fgbench import prepare as preparing
from fgbench.backbones import save_weights, write_tensors
from fgbench.config import Machine
from fgbench.data.base import BenchDataModule
from fgbench.examples import CHANNEL_EXAMPLES, choose_items, example_of, write_method_figures
from fgbench.explain import Explained
from fgbench.layers.batchnorm import convert_sync_batchnorm
from fgbench.machine import keep_memory
from fgbench.methods import Method
from fgbench.passes import TrainingPass
from fgbench.predictions import PredictionsWriter, join_predictions, merge_predictions
from fgbench.report import channel_figures, progress
from fgbench.report import wandb as wandb_report
from fgbench.report.callbacks import Speed
from fgbench.report.figures import write_sheet
from fgbench.result import Result, ResultError, to_json, utc_now, write_atomically
from fgbench.resume import History, RepeatableEpochs, WholeCheckpoints, find_checkpoint, read_checkpoint
from fgbench.scoring import Scoring

OWN = "own"  # evidence of the method itself, not of an explainer
RUN_KEYS = ("name", "cell", "digest", "sources", "command", "tree")  # of a run's config.yaml


def run_phase(phase: str, folder: Path, explainer: str = OWN) -> int:
    """Run a phase in this process; a failure leaves ``failure.txt`` and exit status 1."""
    hush()
    try:
        run = read_run(folder)
        {"prepare": prepare, "fit": fit}.get(phase, partial(test, explainer=explainer))(folder, run)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        print(f"fgbench {phase}: {message}", file=sys.stderr)
        report = f"{message}\n\nin {phase}\n\n{traceback.format_exc()}"
        with contextlib.suppress(ResultError):  # the disk may be what failed
            write_atomically(place_of(folder, explainer) / "failure.txt", report.encode())
        return 1
    return 0


def hush() -> None:
    """Silence what no user can act on, one by one; a warning that is not listed is shown."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # devices found, advertisements
    expected = (
        "You have overridden `on_after_batch_transfer`",  # on purpose: the method normalises, see Method
        "Total length of `list` across ranks is zero",  # no validation split
        "The number of training batches",  # of toys is small
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning 2.6.6 with torch 2.11, theirs to mend
        "The `srun` command is available",  # a login node
        "Checkpoint directory .* exists and is not empty",  # of a run that goes on
        r"Found \d+ module\(s\) in eval mode",  # frozen networks
        "The '.*_dataloader' does not have many workers",  # chosen by the machine, see count_workers
    )
    for message in expected:
        warnings.filterwarnings("ignore", message)


def read_run(folder: Path) -> dict[str, Any]:
    """What ``bench`` wrote for the phases.

    Raises:
        FileNotFoundError: there is no such run.
        RuntimeError: its file is damaged.
    """
    path = folder / "config.yaml"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such run; start it with: make bench METHOD=... DATASET=...")
    try:
        found = dict(yaml.safe_load(path.read_text()))
        missing = [key for key in RUN_KEYS if key not in found]
    except (yaml.YAMLError, TypeError, ValueError):
        missing = ["a mapping"]
    if missing:
        raise RuntimeError(f"{path}: damaged, it lacks {', '.join(missing)}; remove the run folder and run it again")
    return found


def read_trained(folder: Path) -> dict[str, Any]:
    """The same, of a run whose training is finished.

    Raises:
        RuntimeError: it was not trained to its end.
    """
    run = read_run(folder)
    if not (folder / "fit.json").exists():
        raise RuntimeError(f"{folder}: not trained to its end (no fit.json); run its command again: {run['command']}")
    return run


def selected_checkpoint(folder: Path, tree: dict[str, Any]) -> Path:
    """The checkpoint that the run is tested with, as ``selection`` in its configuration says."""
    return folder / "checkpoints" / ("last.ckpt" if tree["selection"] == "last" else "best.ckpt")


def prepare(folder: Path, run: dict[str, Any]) -> None:
    """Fill the store that the method reads in ``fit`` and ``test``; in float32, whatever the precision of training."""
    if (folder / "result.json").exists():
        return
    tree = run["tree"]
    seed_everything(tree["seed"], verbose=False)
    data, method = config.instantiate(tree)
    exact = {**tree, "trainer": {**tree["trainer"], "precision": "32-true"}}
    trainer = make_trainer(exact, folder, [], None)
    preparing.prepare(data, method, trainer, Machine(**tree["machine"]).store_gb)


def fit(folder: Path, run: dict[str, Any]) -> None:
    """Train from scratch or from the last finished epoch; writes checkpoints and, at the end, ``fit.json``."""
    if (folder / "fit.json").exists():
        return
    tree = run["tree"]
    seed_everything(tree["seed"], verbose=False)
    data, method = config.instantiate(tree)
    preparing.attach(data, method)
    checkpoints = folder / "checkpoints"
    last = ModelCheckpoint(
        checkpoints, "last", monitor=None, save_on_train_epoch_end=True, enable_version_counter=False
    )
    history, speed = History(), Speed()
    # Lightning runs the checkpoint callbacks after all others: what these count in an epoch is in its checkpoint.
    callbacks: list[Callback] = [RepeatableEpochs(tree["seed"]), history, speed, TrainingPass(data.pass_dataloader)]
    if tree["selection"] != "last":
        # Two of equal accuracy: the earlier one stays. Before ``last``, which must hold what this one knows.
        best = ModelCheckpoint(checkpoints, "best", monitor="val/accuracy", mode="max", enable_version_counter=False)
        callbacks += [best, Scoring.for_validation(data)]
    callbacks.append(last)
    logger = make_logger(folder, run)
    callbacks += [LearningRateMonitor("step")] if logger else []
    trainer = make_trainer(tree, folder, callbacks, logger)
    if trainer.world_size > 1:
        convert_sync_batchnorm(method, cuda=trainer.strategy.root_device.type == "cuda")
    if not method.automatic_optimization:  # Lightning refuses to clip what it does not step
        method.gradient_clip, trainer.gradient_clip_val = trainer.gradient_clip_val, None
    resume = find_checkpoint(checkpoints / "last.ckpt")
    trainer.fit(method, datamodule=data, ckpt_path=resume, weights_only=True)
    if not (checkpoints / "last.ckpt").exists():  # zero epochs
        trainer.save_checkpoint(checkpoints / "last.ckpt")
    if trainer.is_global_zero:
        record = {
            "epochs": trainer.current_epoch,
            "devices": trainer.world_size,
            "device_name": provenance.device_name(trainer.strategy.root_device),
            "commit": str(provenance.commit()),
            "history": history.epochs,
            **speed.summary(),
        }
        if logger:
            logger.finish()
        write_atomically(folder / "fit.json", json.dumps(record, indent=1).encode())


def test(folder: Path, run: dict[str, Any], explainer: str) -> None:
    """Evaluate the selected checkpoint; writes predictions, figures and, last, ``result.json``.

    With an explainer the evidence is that one's, and the files lie in a folder of their own.
    """
    place, own = place_of(folder, explainer), explainer == OWN
    if (place / "result.json").exists():
        return
    tree = run["tree"]
    seed_everything(tree["seed"], verbose=False)
    data, method = config.instantiate(tree)
    load_weights(method, selected_checkpoint(folder, tree))
    if own:  # explainers look at pixels, which prepared rows may replace
        preparing.attach(data, method)
    data.prepare_data()
    data.setup("test")
    logger = make_logger(folder, run) if own else None
    shows = method if own else explaining.make_explained(explainer, method, tree)
    scoring = Scoring.for_test(data, shows)
    trainer = make_trainer(tree, folder, [scoring], logger)
    if isinstance(shows, Explained):
        with trainer.precision_plugin.forward_context():
            explaining.fit(shows, data, trainer.strategy.root_device)
    loaders: list[str] = [role for role in scoring.roles if role != "fit"]
    parts = place / "predictions"
    files = [*loaders, *(["logits"] if own else [])]
    writers = {name: PredictionsWriter(parts / f"{name}{trainer.global_rank}.parquet") for name in files}
    scoring.writers.update(writers)
    trainer.test(shows, dataloaders=scoring.loaders(data), verbose=False)
    for writer in writers.values():
        writer.close()
    trainer.strategy.barrier()
    if not trainer.is_global_zero:
        return
    for name in files:
        pieces = [parts / f"{name}{rank}.parquet" for rank in range(trainer.world_size)]
        whole = folder / "logits.parquet" if name == "logits" else parts / f"{name}.parquet"
        merge_predictions(pieces, whole, expected=scoring.report["n_eval"])
        for piece in pieces if name == "logits" else []:  # large
            piece.unlink(missing_ok=True)
    join_predictions([parts / f"{role}.parquet" for role in loaders], place / "predictions.parquet")
    with trainer.precision_plugin.forward_context():  # as the test saw them
        shows.eval().to(trainer.strategy.root_device)
        items = choose_items(data)
        shown = [example_of(item, data.label_names, shows) for item in items]
        if own:
            write_method_figures(folder, run["name"], method, items, shown, data)
    title = run["name"] + ("" if own else f" explained by {explainer}")
    write_sheet(place / "figures" / "examples.png", shown, title)
    if shows.class_stages:
        channel_figures.write_channels(place / "figures" / "channels.png", shown[:CHANNEL_EXAMPLES], title)
    result = make_result(folder, run, data, method, scoring.report, logger, explainer)
    if logger:
        wandb_report.log_outcome(logger, result, folder / "predictions.parquet", shown)
    write_atomically(place / "result.json", to_json(result).encode())


def place_of(folder: Path, explainer: str) -> Path:
    """Where in a run's folder an explainer's evaluation goes; the method's own goes into the folder itself."""
    return folder if explainer == OWN else folder / "explained" / explainer


def make_result(
    folder: Path,
    run: dict[str, Any],
    data: BenchDataModule,
    method: Method,
    report: dict[str, Any],
    logger: wandb_report.RunLogger | None,
    explainer: str = OWN,
) -> Result:
    """Everything that the leaderboard keeps of this run."""
    tree, cell = run["tree"], run["cell"]
    trained = json.loads((folder / "fit.json").read_text())
    unmeasured = {} if trained["train_images_per_s"] else {"train_images_per_s": "no step of training"}
    energy = trained.get("energy_kwh")  # trainings of earlier versions did not ask
    unmeasured |= {} if energy is not None else {"energy_kwh": "the device reports no energy"}
    height, width = data.dataset(data.test_view)[int(data.listing.rows("test")[0])].image.shape[1:]
    cost = costs.count(method, (height, width))
    reasons, command = report["reasons"], run["command"]
    if explainer != OWN:
        reasons = {name: reason.replace("the method has", f"{explainer} has") for name, reason in reasons.items()}
        command += f" EXPLAIN={explainer}"
    return Result(
        **cell,
        explainer=explainer,
        classes=data.num_outputs,
        backbone=tree["method"]["init_args"]["backbone"],
        weights=method.backbone.weight_tag,
        resolution=min(height, width),
        seed=tree["seed"],
        selection=tree["selection"],
        epochs=trained["epochs"],
        n_train=data.sizes()["n_train"],
        n_eval=report["n_eval"],
        **report["numbers"],
        params_m=provenance.params_m(method),
        gmacs=cost.macs / 1e9,
        gflops=cost.flops / 1e9,
        train_images_per_s=trained["train_images_per_s"],
        test_images_per_s=report["images_per_s"],
        peak_memory_gb=trained["peak_memory_gb"],
        train_hours=trained["train_hours"],
        energy_kwh=energy,
        devices=trained["devices"],
        device_name=trained["device_name"],
        precision=tree["trainer"]["precision"],
        config=" + ".join(run["sources"]),
        config_digest=run["digest"],
        data_digest=data.digest(),
        commit=str(provenance.commit()),
        versions=provenance.versions(),
        date=utc_now(),
        command=command,
        wandb_url=logger.url if logger else "",
        reasons=reasons | unmeasured,
        scores=report["scores"],
        floors=report["floors"],
        details=report["details"] | ({"loss_weights": weights} if (weights := method.loss_weights) else {}),
        history=trained["history"],
        environment={**provenance.environment(), "trained_at_commit": trained["commit"]},
        resolved=config.portable(tree),
    )


def make_logger(folder: Path, run: dict[str, Any]) -> wandb_report.RunLogger | None:
    """W&B's logger of this run, the same W&B run for all phases; None when switched off."""
    if run["tree"]["machine"]["logger"] == "none":
        return None
    config = {**run["cell"], **run["tree"]}
    return wandb_report.make_logger(
        folder, **run["cell"], digest=run["digest"], seed=run["tree"]["seed"], config=config
    )


def load_weights(method: Method, path: Path) -> None:
    """Put a checkpoint's weights into the method.

    Raises:
        RuntimeError: the file is missing, damaged, or of another method; names it.
    """
    weights = read_checkpoint(path)["state_dict"]
    try:
        method.load_state_dict(weights)
    except RuntimeError as error:
        raise RuntimeError(
            f"{path}: the checkpoint does not fit the configured method ({error}); "
            f"remove the run folder {path.parent.parent} to train again"
        ) from None


def export_weights(folder: Path, file: Path, whole: bool = False) -> None:
    """Write the backbone of a finished training as a weights file; its metadata name run and commit.

    Args:
        folder: the run's.
        file: to be written.
        whole: write the whole method instead, with its arguments: what other methods take as a trained network.

    Raises:
        RuntimeError: the training is not finished, its checkpoint is damaged, or the file's name is not that of one.
        WeightsError: the run uses a part of the network only.
    """
    if file.suffix != ".safetensors":
        raise RuntimeError(f"{file}: name a file that ends in .safetensors")
    run = read_trained(folder)
    _, method = config.instantiate(run["tree"])
    load_weights(method, selected_checkpoint(folder, run["tree"]))
    commit = json.loads((folder / "fit.json").read_text())["commit"]
    source = f"fgbench {run['cell']['dataset']}/{run['name']} at commit {commit}"
    if not whole:
        save_weights(method.backbone, file, source)
        return
    colours = {"mean": method.backbone.mean, "std": method.backbone.std}
    given = {**run["tree"]["method"]["init_args"], **colours, "weights": None}
    arguments = json.dumps({**given, "num_outputs": method.num_outputs, "target": method.target})
    write_tensors(
        file, method.state_dict(), {"method": run["cell"]["method"], "arguments": arguments, "source": source}
    )


def make_trainer(tree: dict[str, Any], folder: Path, callbacks: list[Callback], logger: Logger | None) -> Trainer:
    """Lightning's Trainer: all GPUs, or the asked number of processes on CPU."""
    keep_memory()
    machine, training = Machine(**tree["machine"]), tree["trainer"]
    gpu = config.takes_gpus(machine)
    if machine.accelerator == "gpu" and not gpu:
        raise RuntimeError("machine.accelerator is gpu and torch sees none; use --machine.accelerator cpu")
    devices = config.count_devices(machine)
    several = devices * machine.num_nodes > 1
    # Batch norm's moments are the same in all processes (synchronised); sending them anyway before each forward would
    # wait for ever in a validation where processes have different numbers of batches.
    distributed = DDPStrategy(process_group_backend="nccl" if gpu else "gloo", broadcast_buffers=False)
    shown = progress.callbacks(machine.progress)
    return Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=devices,
        num_nodes=machine.num_nodes,
        strategy=distributed if several else "auto",
        precision=training["precision"],
        max_epochs=training["max_epochs"],
        gradient_clip_val=training["gradient_clip"],
        deterministic=training["deterministic"],
        plugins=[WholeCheckpoints()],
        use_distributed_sampler=False,  # it pads; the datamodule's samplers are exact
        inference_mode=False,  # explanations need gradients of activations
        num_sanity_val_steps=0,
        limit_val_batches=0 if tree["selection"] == "last" else 1.0,  # nobody would look at it
        logger=logger or False,
        log_every_n_steps=10,
        callbacks=[*callbacks, *shown],
        default_root_dir=folder,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in shown),
    )
