"""Configuration: which YAML files make a cell, how they merge, what is checked, and the digest that names the result.

A cell is ``methods/<m>.yaml`` + ``datasets/<d>.yaml`` + ``cells/<d>/<m>.yaml`` (if there) + ``tracks/<track>.yaml`` and
``ablations/<d>/<m>.<variant>.yaml`` (if asked for) + the command line, merged in that order. The schema is the
constructors' signatures: an unknown key, a wrong type or an impossible value stops the run before any data is read.

May import: data, methods, backbones (for their signatures), result. Must not import: scoring, bench, report.
Reads: ``experiments/``. Writes: nothing.
"""

import difflib
import importlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser  # type: ignore[attr-defined]  # its __all__

from fgbench import result
from fgbench.backbones import weight_tag
from fgbench.data.base import BenchDataModule
from fgbench.methods.base import Method, Optim

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "experiments"
NOT_IN_DIGEST = ("machine", "seed", "config")  # they change no number, or are a column of their own


class ConfigError(ValueError):
    """The cell cannot run as configured; the message names the key and what to do."""


@dataclass(frozen=True)
class Training:
    """What Lightning's Trainer is told.

    Attributes:
        max_epochs: passes over the training split.
        precision: of the backbone; what must be float32 stays so (see the method's file).
        gradient_clip: largest gradient norm, None for no clipping.
        sync_batchnorm: batch statistics over the global batch when several processes train.
        deterministic: refuse nondeterministic kernels (slower on a GPU; a CPU run always repeats).
    """

    max_epochs: int = 10
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    gradient_clip: float | None = None
    sync_batchnorm: bool = True
    deterministic: bool = False


@dataclass(frozen=True)
class Machine:
    """What differs between machines and changes no number; not part of the digest.

    Attributes:
        data_root: folder that holds the datasets, one folder each.
        runs: folder of run folders: checkpoints, logs, figures.
        leaderboard: folder of results and tables.
        accelerator: ``auto`` takes the GPUs if there are any.
        devices: processes per machine, one device each; None takes all GPUs, or one process on CPU.
        num_nodes: machines, started by torchrun or SLURM.
        workers: data loading processes per training process; None chooses by the machine.
        logger: ``wandb`` (offline unless logged in) or ``none``.
        progress: progress bars; None shows them on a terminal and prints a line per epoch elsewhere.
    """

    data_root: str = "data"
    runs: str = "runs"
    leaderboard: str = "leaderboard"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int | None = None
    num_nodes: int = 1
    workers: int | None = None
    logger: Literal["wandb", "none"] = "wandb"
    progress: bool | None = None


Selection = Literal["last", "validation", "legacy_best_on_test"]


@dataclass(frozen=True)
class Cell:
    """One cell of the grid as a person names it."""

    method: str
    dataset: str
    seed: int = 0
    variant: str = ""
    track: str = "paper"
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        """``toybirds/region_grouping.no_prior seed 0``."""
        return f"{self.dataset}/{self.method}{'.' + self.variant if self.variant else ''} seed {self.seed}"

    @property
    def command(self) -> str:
        """The exact command that makes this cell again, as its row quotes it."""
        extra = [*self.overrides]
        extra += ["--variant", self.variant] if self.variant else []
        extra += ["--track", self.track] if self.track != "paper" else []
        command = f"make bench METHOD={self.method} DATASET={self.dataset} SEED={self.seed}"
        return command + (f" ARGS={shlex.quote(shlex.join(extra))}" if extra else "")


@dataclass(frozen=True)
class Resolved:
    """A cell with every value filled in.

    Attributes:
        cell: what was asked for.
        tree: the whole configuration, plain values only.
        digest: names everything in the tree that can change a number, except the seed.
        sources: the YAML files that were merged, relative to the project.
    """

    cell: Cell
    tree: dict[str, Any] = field(hash=False)
    digest: str
    sources: tuple[str, ...]

    @property
    def name(self) -> str:
        """``region_grouping.no_prior.1a2b3c4d.s0``: unique for a digest and a seed."""
        return result.result_name(self.cell.method, self.cell.variant, self.digest, self.cell.seed)

    @property
    def machine(self) -> Machine:
        """The part that changes no number."""
        return Machine(**self.tree["machine"])

    @property
    def run_folder(self) -> Path:
        """Where this run keeps its checkpoints, logs and figures."""
        return Path(self.machine.runs) / self.cell.dataset / self.name


def count_workers(workers: int | None, devices: int | None) -> int:
    """Loading processes per training process: as asked, or the machine's cores shared out, 8 at most.

    Two cores or fewer are busy with training: a loading process would only take turns with it.
    """
    if workers is not None:
        return workers
    cores = (os.cpu_count() or 1) // (devices or max(1, torch.cuda.device_count()))
    return 0 if cores <= 2 else min(8, cores - 1)


@cache
def build_parser() -> ArgumentParser:
    """The schema of a resolved configuration, from the constructors' signatures."""
    parser = ArgumentParser(prog="fgbench bench", exit_on_error=False, default_env=False)
    parser.add_argument("--config", action=ActionConfigFile, help="a YAML file merged over the cell's own files")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation, order and augmentation")
    parser.add_argument("--selection", type=Selection, default="last", help="which epoch counts")
    parser.add_argument("--trainer", type=Training, default=Training())
    parser.add_argument("--optim", type=Optim, default=Optim())
    parser.add_argument("--machine", type=Machine, default=Machine())
    parser.add_subclass_arguments(BenchDataModule, "data", required=True)
    parser.add_subclass_arguments(Method, "method", required=True)
    parser.link_arguments("seed", "data.init_args.seed")
    parser.link_arguments(("machine.workers", "machine.devices"), "data.init_args.workers", count_workers)
    parser.link_arguments("machine.data_root", "data.init_args.root")
    parser.link_arguments("selection", "data.init_args.validate_on_test", lambda s: s == "legacy_best_on_test")
    parser.link_arguments("optim", "method.init_args.optim")
    parser.link_arguments("data", "method.init_args.num_outputs", lambda d: d.num_outputs, apply_on="instantiate")
    parser.link_arguments("data", "method.init_args.target", lambda d: d.target, apply_on="instantiate")
    return parser


def available(kind: Literal["methods", "datasets", "tracks"]) -> list[str]:
    """Names with a YAML file in ``experiments/<kind>``."""
    return sorted(path.stem for path in (EXPERIMENTS / kind).glob("*.yaml"))


def variants(dataset: str, method: str) -> list[str]:
    """Names of the ablations of a cell."""
    paths = (EXPERIMENTS / "ablations" / dataset).glob(f"{method}.*.yaml")
    return sorted(path.name[len(method) + 1 : -len(".yaml")] for path in paths)


def files_of(cell: Cell) -> list[Path]:
    """The YAML files of a cell, in the order in which they are merged.

    Raises:
        ConfigError: for a method, dataset, variant or track that is not there; lists what is.
    """
    files = []
    for kind, name in (("methods", cell.method), ("datasets", cell.dataset)):
        path = EXPERIMENTS / kind / f"{name}.yaml"
        if not path.exists():
            known = available(kind)  # type: ignore[arg-type]
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"there is no {kind[:-1]} {name!r}; {hint}known {kind}: {', '.join(known)}")
        files.append(path)
    recipe = EXPERIMENTS / "cells" / cell.dataset / f"{cell.method}.yaml"
    if recipe.exists():
        files.append(recipe)
    if cell.track != "paper":
        files.append(EXPERIMENTS / "tracks" / f"{cell.track}.yaml")
        if not files[-1].exists():
            raise ConfigError(f"there is no track {cell.track!r}; known: paper, {', '.join(available('tracks'))}")
    if cell.variant:
        files.append(EXPERIMENTS / "ablations" / cell.dataset / f"{cell.method}.{cell.variant}.yaml")
        if not files[-1].exists():
            known = variants(cell.dataset, cell.method)
            raise ConfigError(f"there is no variant {cell.variant!r} of {cell}; known: {', '.join(known) or 'none'}")
    return files


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``base``, mapping by mapping; another class_path drops the old one's init_args.

    >>> merge({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 4}})
    {'a': {'x': 1, 'y': 4}, 'b': 3}
    """
    merged = dict(base)
    if "class_path" in over and over["class_path"] != base.get("class_path", over["class_path"]):
        merged.pop("init_args", None)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return merged


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML file as a mapping.

    Raises:
        ConfigError: if it is not YAML or not a mapping; names file and line.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: expected a mapping of keys at the top, found {type(content).__name__}")
    return dict(content)


def resolve(cell: Cell) -> Resolved:
    """Merge the cell's files and overrides, check every key and value, fill in every default.

    Raises:
        ConfigError: for anything that is unknown, of the wrong type or impossible.
    """
    files = files_of(cell)
    merged: dict[str, Any] = {}
    for path in files:
        merged = merge(merged, read_yaml(path))
    machine = EXPERIMENTS / "machine.yaml"
    if machine.exists():
        merged = merge(merged, read_yaml(machine))
    merged["seed"] = cell.seed
    for override in cell.overrides:
        if re.match(r"--seed\b", override):
            raise ConfigError("give seeds as --seeds 0,1,2 (make bench SEEDS=0,1,2), not as an override")
    try:
        namespace = build_parser().parse_args(["--config", json.dumps(merged), *cell.overrides])
    except ArgumentError as error:
        where = " + ".join(str(path.relative_to(ROOT)) for path in files)
        raise ConfigError(f"{cell}: {error}\n(configured by {where} + the command line)") from None
    tree = to_plain(build_parser(), namespace)
    check(tree)
    sources = tuple(str(path.relative_to(ROOT)) for path in files)
    return Resolved(cell, tree, digest(tree), sources)


def is_customised(plan: Resolved) -> bool:
    """Whether the command line changed something that can change a number."""
    return bool(plan.cell.overrides) and resolve(replace(plan.cell, overrides=())).digest != plan.digest


def to_plain(parser: ArgumentParser, namespace: Any) -> dict[str, Any]:
    """The namespace as nested plain values, without what is linked from elsewhere."""
    content = yaml.safe_load(parser.dump(namespace, skip_unset=False, skip_validation=True, skip_link_targets=True))
    content.pop("config", None)
    return dict(content)


def check(tree: Mapping[str, Any]) -> None:
    """Refuse values that are well-typed and impossible, before any data is read.

    Raises:
        ConfigError: names the key, and what would do.
    """
    if tree["trainer"]["max_epochs"] < 0:
        raise ConfigError(f"trainer.max_epochs is {tree['trainer']['max_epochs']}; it must be 0 or more")
    devices = tree["machine"]["devices"]
    if devices is not None and devices < 1:
        raise ConfigError(f"machine.devices is {devices}; it must be 1 or more")
    try:
        parser = ArgumentParser(exit_on_error=False)  # of what is cheap to make: a method may load weights
        parser.add_argument("--optim", type=Optim)
        parser.add_subclass_arguments(BenchDataModule, "data")
        parts = parser.parse_object({"data": tree["data"], "optim": tree["optim"]})
        data = parser.instantiate(parts).data
    except ValueError as error:
        raise ConfigError(str(error)) from None
    processes = (devices or 1) * tree["machine"]["num_nodes"]
    if data.batch_size % processes:
        raise ConfigError(
            f"data.init_args.batch_size is global: {data.batch_size} cannot be divided over {processes} processes; "
            f"nearest that can: {max(1, round(data.batch_size / processes)) * processes}"
        )
    if tree["selection"] == "validation" and not data.val_fraction:
        raise ConfigError("selection validation needs data.init_args.val_fraction, 0.1 for instance")
    method = _import(tree["method"]["class_path"])
    if data.target in method.undefined_for:
        raise ConfigError(f"{method.__name__} is not defined for {data.target}: {method.undefined_for[data.target]}")


def digest(tree: Mapping[str, Any]) -> str:
    """12 hex digits that name everything in the tree that can change a number, the seed excepted.

    A weights file counts by its content, not by its path.
    """
    content = json.loads(json.dumps({key: value for key, value in tree.items() if key not in NOT_IN_DIGEST}))
    arguments = content.get("method", {}).get("init_args", {})
    if arguments.get("weights"):
        arguments["weights"] = weight_tag(arguments["weights"])
    return result.digest(content)


def instantiate(tree: Mapping[str, Any]) -> tuple[BenchDataModule, Method]:
    """The datamodule and the method of a resolved configuration."""
    parser = build_parser()
    objects = parser.instantiate(parser.parse_object(dict(tree)))
    return objects.data, objects.method


def grid(methods: str, datasets: str, seeds: str, variant: str, track: str, overrides: Sequence[str]) -> list[Cell]:
    """The cells of comma lists; ``all`` stands for every name that has a YAML file.

    Raises:
        ConfigError: for a seed that is not a number.
    """
    chosen_methods = available("methods") if methods == "all" else _split(methods)
    chosen_datasets = available("datasets") if datasets == "all" else _split(datasets)
    if not all(re.fullmatch(r"\d+", seed) for seed in _split(seeds)):
        raise ConfigError(f"seeds are whole numbers separated by commas, not {seeds!r}")
    return [
        Cell(method, dataset, int(seed), variant, track, tuple(overrides))
        for dataset in chosen_datasets
        for method in chosen_methods
        for seed in _split(seeds)
    ]


def _import(class_path: str) -> type[Method]:
    module, _, name = class_path.rpartition(".")
    found: type[Method] = getattr(importlib.import_module(module), name)
    return found


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
