"""Configuration: what a cell's files say as a whole, what is checked, and the digest that names the result.

The schema is the constructors' signatures: an unknown key, a wrong type or an impossible value stops the run before any
data is read.

May import: cells, data and methods (for their signatures), pretrained, result. Must not import: scoring, bench, report.
Reads: ``experiments/``. Writes: nothing.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser  # type: ignore[attr-defined]  # its __all__

from fgbench import result
from fgbench.cells import EXPERIMENTS, ROOT, Cell, ConfigError, UndefinedError, files_of, merge, read_yaml
from fgbench.data.base import BenchDataModule
from fgbench.data.view import written
from fgbench.methods.base import Method, Optim
from fgbench.pretrained import WeightsError, weight_tag

FILLED_IN = {  # arguments of data and method that come from elsewhere
    "root": "--machine.data_root",
    "workers": "--machine.workers",
    "seed": "--seeds",
    "validate_on_test": "--selection",
    "optim": "--optim.*",
    "num_outputs": "the dataset",
    "target": "the dataset",
}

WEIGHTS = (
    "weights",
    "attention_weights",
    "local_weights",
    "patch_weights",
)  # arguments of methods that name weights: known by content, not by path


LATER = ("loss", "still_norm", "average")  # methods' arguments that came when there were digests; null: as before


@dataclass(frozen=True)
class Training:
    """What Lightning's Trainer is told.

    Attributes:
        max_epochs: passes over the training split.
        precision: of the backbone; what must be float32 stays so (see the method's file).
        gradient_clip: largest gradient norm, None for no clipping.
        deterministic: refuse nondeterministic kernels (slower on a GPU; a CPU run always repeats).
    """

    max_epochs: int = 10
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    gradient_clip: float | None = None
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
        store_gb: most that all stores of prepared images (``data_root/stores``) may take on disk, 10^9 bytes.
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
    store_gb: float = 100.0


Selection = Literal["last", "validation", "legacy_best_on_test"]


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

    def name_with(self, explainer: str) -> str:
        """The same, of an evaluation with an explainer's evidence."""
        return result.result_name(self.cell.method, self.cell.variant, self.digest, self.cell.seed, explainer)

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
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = mine // (devices or max(1, torch.cuda.device_count()))
    return 0 if cores <= 2 else min(8, cores - 1)


def count_devices(machine: Machine) -> int:
    """Training processes per machine: as asked, or one for each GPU that may be taken, or one."""
    return machine.devices or (torch.cuda.device_count() if takes_gpus(machine) else 1)


def takes_gpus(machine: Machine) -> bool:
    """Whether training runs on GPUs."""
    return machine.accelerator != "cpu" and torch.cuda.is_available()


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


def resolve(cell: Cell) -> Resolved:
    """Merge the cell's files and overrides, check every key and value, fill in every default.

    Raises:
        ConfigError: for anything that is unknown, of the wrong type or impossible.
    """
    tree = tree_of(cell)
    sources = tuple(str(path.relative_to(ROOT)) for path in files_of(cell))
    try:
        return Resolved(cell, tree, digest(tree), sources)
    except WeightsError as error:
        raise ConfigError(f"{cell}: method.init_args: {error}") from None


def tree_of(cell: Cell, files: bool = True) -> dict[str, Any]:
    """The whole configuration of a cell, checked.

    Args:
        cell: what is asked for.
        files: whether weights that a method cannot do without have to be named.

    Raises:
        ConfigError: see ``resolve``.
    """
    paths = files_of(cell)
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_yaml(path))
    machine = EXPERIMENTS / "machine.yaml"
    if machine.exists():
        merged = merge(merged, read_yaml(machine))
    merged["seed"] = cell.seed
    for override in cell.overrides:
        if re.match(r"--seed\b", override):
            raise ConfigError("give seeds as --seeds 0,1,2 (make bench SEEDS=0,1,2), not as an override")
        if found := re.match(rf"--(?:data|method)\.(?:init_args\.)?({'|'.join(FILLED_IN)})\b", override):
            raise ConfigError(f"{found[0]} is filled in from {FILLED_IN[found[1]]}: give that instead")
    try:
        namespace = build_parser().parse_args(["--config", json.dumps(merged), *cell.overrides])
    except ArgumentError as error:
        where = " + ".join(str(path.relative_to(ROOT)) for path in paths)
        raise ConfigError(f"{cell}: {error}\n(configured by {where} + the command line)") from None
    tree = to_plain(build_parser(), namespace)
    try:
        check(tree, files)
    except ConfigError as error:
        raise type(error)(f"{cell}: {error}") from None
    return tree


def why_undefined(cell: Cell) -> str:
    """Why the cell cannot be run whatever else the command line says; empty if it can."""
    try:
        tree_of(replace(cell, overrides=()), files=False)
    except UndefinedError as error:
        return str(error).removeprefix(f"{cell}: ")
    return ""


def is_customised(plan: Resolved) -> bool:
    """Whether the command line changed something that can change a number.

    Which weights the backbone starts from does not count: they have a column of their own.
    """
    if not plan.cell.overrides:
        return False
    plain = tree_of(replace(plan.cell, overrides=()), files=False)
    arguments = plan.tree["method"]["init_args"]
    weights = {name: arguments[name] for name in WEIGHTS if name in arguments}
    plain = merge(plain, {"method": {"init_args": weights}})
    return digest(plain) != plan.digest


def to_plain(parser: ArgumentParser, namespace: Any) -> dict[str, Any]:
    """The namespace as nested plain values, without what is linked from elsewhere."""
    content = yaml.safe_load(parser.dump(namespace, skip_unset=False, skip_validation=True, skip_link_targets=True))
    content.pop("config", None)
    return dict(content)


def check(tree: Mapping[str, Any], files: bool = True) -> None:
    """Refuse values that are well-typed and impossible, before any data is read.

    Args:
        tree: the configuration.
        files: see ``tree_of``.

    Raises:
        ConfigError: names the key, and what would do.
        UndefinedError: a constructor refuses; its words.
    """
    if tree["trainer"]["max_epochs"] < 0:
        raise ConfigError(f"trainer.max_epochs is {tree['trainer']['max_epochs']}; it must be 0 or more")
    devices = tree["machine"]["devices"]
    if devices is not None and devices < 1:
        raise ConfigError(f"machine.devices is {devices}; it must be 1 or more")
    try:
        if files:
            _kind(tree).check_files(tree["method"]["init_args"])
        data = _try_to_make(tree)
    except (ValueError, TypeError) as error:
        raise UndefinedError(str(_innermost(error))) from None
    if tree["selection"] == "validation" and not (data.val_fraction or data.has_validation):
        raise ConfigError("selection validation needs data.init_args.val_fraction, 0.1 for instance")


def check_processes(plan: Resolved) -> None:
    """Refuse a batch that the training processes of this machine cannot share evenly.

    Raises:
        ConfigError: names the nearest size that they can.
    """
    size = plan.tree["data"]["init_args"]["batch_size"]
    processes = count_devices(plan.machine) * plan.machine.num_nodes
    if size % processes:
        raise ConfigError(
            f"{plan.cell}: data.init_args.batch_size is global: {size} cannot be divided over {processes} processes; "
            f"nearest that can: {max(1, round(size / processes)) * processes}, or give another --machine.devices"
        )


def _innermost(error: BaseException) -> BaseException:
    """What a constructor said, without the parser's account of all types that it then tried."""
    while error.__cause__ and "does not validate against any of the union subtypes" in str(error).lower():
        error = error.__cause__
    return error


def _try_to_make(tree: Mapping[str, Any]) -> BenchDataModule:
    """Make everything once, so that what a constructor refuses is said now: no weights are read, no memory is taken."""
    data = make_data(tree)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Method, "method")
    arguments = tree["method"]["init_args"]
    filled = {"optim": tree["optim"], "num_outputs": data.num_outputs, "target": data.target}
    unread = {name: None for name in WEIGHTS if name in arguments}
    content = {"method": {**tree["method"], "init_args": {**arguments, **unread, **filled}}}
    with torch.device("meta"):
        parser.instantiate(parser.parse_object(content))
    return data


def portable(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree without this machine: a weights file is named by its content, not by its path.

    Whether decoded images are kept in memory is a matter of the machine too, and always stands as if they were not.
    Keys of views and arguments of methods that came later are there only where they ask for something, so that older
    results keep their names.
    """
    kept = json.loads(json.dumps({key: value for key, value in tree.items() if key not in ("machine", "config")}))
    data = kept.get("data", {}).get("init_args", {})
    if "cache" in data:
        data["cache"] = "none"
    data |= {name: written(view) for name, view in data.items() if name.endswith("_view") and view}
    arguments = kept.get("method", {}).get("init_args", {})
    for name in WEIGHTS:
        if arguments.get(name):
            arguments[name] = weight_tag(arguments[name])
    for name in LATER:
        if arguments.get(name, "") is None:
            del arguments[name]
    return dict(kept)


def digest(tree: Mapping[str, Any]) -> str:
    """12 hex digits that name everything in the tree that can change a number, the seed excepted."""
    return result.digest({key: value for key, value in portable(tree).items() if key != "seed"})


def make_data(tree: Mapping[str, Any]) -> BenchDataModule:
    """The datamodule alone, with what is filled in from elsewhere in the tree; reads nothing yet.

    Raises:
        ValueError: a value is impossible; says which.
    """
    machine = Machine(**tree["machine"])
    filled = {
        "root": machine.data_root,
        "workers": count_workers(machine.workers, machine.devices),
        "seed": tree["seed"],
        "validate_on_test": tree["selection"] == "legacy_best_on_test",
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(BenchDataModule, "data")
    content = {"data": {**tree["data"], "init_args": {**tree["data"]["init_args"], **filled}}}
    data: BenchDataModule = parser.instantiate(parser.parse_object(content)).data
    return data


def has_preparation(tree: Mapping[str, Any]) -> bool:
    """Whether the method of a resolved configuration is of a kind that prepares images before it is trained."""
    return _kind(tree).preparation is not Method.preparation


def _kind(tree: Mapping[str, Any]) -> type[Method]:
    module, _, name = tree["method"]["class_path"].rpartition(".")
    kind: type[Method] = getattr(import_module(module), name)
    return kind


def instantiate(tree: Mapping[str, Any]) -> tuple[BenchDataModule, Method]:
    """The datamodule and the method of a resolved configuration."""
    parser = build_parser()
    objects = parser.instantiate(parser.parse_object(dict(tree)))
    return objects.data, objects.method
