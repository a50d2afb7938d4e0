"""The grid: which cells there are, and which YAML files make each. No torch: the command line can ask at once.

A cell is ``methods/<m>.yaml`` + ``datasets/<d>.yaml`` + ``cells/<d>/<m>.yaml`` (if there) + ``tracks/<track>.yaml``
with ``tracks/<track>/<m>.yaml`` (if asked for) + the variant's file (if asked for) + the command line, merged in that
order. A variant's file is ``ablations/<d>/<m>.<variant>.yaml``, ``ablations/<m>.<variant>.yaml`` (of any dataset) or
``losses/<variant>.yaml``, the first that is there. Tracks and variants can be added up: ``scratch+vgg16``.

May import: the standard library, yaml. Reads: ``experiments/``. Writes: nothing.
"""

import difflib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "experiments"


class ConfigError(ValueError):
    """The cell cannot run as configured; the message names the key and what to do."""


class UndefinedError(ConfigError):
    """Dataset, method, variant and loss do not go together, or a constructor refuses its values."""


@dataclass(frozen=True)
class Cell:
    """One cell of the grid as a person names it.

    ``given`` tells what was named from what ``all`` stood for: the cells of a grid that share it are the choices of one
    ``all``, of which those that are not defined are left out. None: everything was named.
    """

    method: str
    dataset: str
    seed: int = 0
    variant: str = ""
    track: str = "paper"
    overrides: tuple[str, ...] = ()
    given: tuple[str, ...] | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """``toybirds/region_grouping.no_prior seed 0``."""
        return f"{self.dataset}/{self.method}{'.' + self.variant if self.variant else ''} seed {self.seed}"

    @property
    def command(self) -> str:
        """The command that makes this cell again, as its row quotes it: without what is this machine's only."""
        extra = [_without_folder(word) for word in _without_machine(self.overrides)]
        extra += ["--variant", self.variant] if self.variant else []
        extra += ["--track", self.track] if self.track != "paper" else []
        command = f"make bench METHOD={self.method} DATASET={self.dataset} SEED={self.seed}"
        return command + (f" ARGS={shlex.quote(shlex.join(extra))}" if extra else "")


def available(kind: Literal["methods", "datasets", "tracks", "losses"]) -> list[str]:
    """Names with a YAML file in ``experiments/<kind>``."""
    return sorted(path.stem for path in (EXPERIMENTS / kind).glob("*.yaml"))


def variants(dataset: str, method: str) -> list[str]:
    """Names of the ablations of a cell: its own, and those of its method on any dataset."""
    folders = (EXPERIMENTS / "ablations" / dataset, EXPERIMENTS / "ablations")
    paths = [path for folder in folders for path in folder.glob(f"{method}.*.yaml")]
    return sorted({path.name[len(method) + 1 : -len(".yaml")] for path in paths})


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
        for track in cell.track.split("+"):
            files.append(EXPERIMENTS / "tracks" / f"{track}.yaml")
            if not files[-1].exists():
                raise ConfigError(f"there is no track {track!r}; known: paper, {', '.join(available('tracks'))}")
            own = EXPERIMENTS / "tracks" / track / f"{cell.method}.yaml"
            files += [own] if own.exists() else []
    files += [_variant_file(cell, variant) for variant in cell.variant.split("+") if variant]
    return files


def _variant_file(cell: Cell, variant: str) -> Path:
    """Of an ablation of this cell, of this method, or of a loss."""
    of_method = f"{cell.method}.{variant}.yaml"
    places = [f"ablations/{cell.dataset}/{of_method}", f"ablations/{of_method}", f"losses/{variant}.yaml"]
    for place in places:
        if (EXPERIMENTS / place).exists():
            if place.startswith("losses/") and "loss" not in _arguments(cell.method):
                able = [name for name in available("methods") if "loss" in _arguments(name)]
                raise UndefinedError(
                    f"{cell.method} has a classifier of its own, which its evidence is read from, and takes no LOSS; "
                    f"{', '.join(able)} do"
                )
            return EXPERIMENTS / place
    known = ", ".join([*variants(cell.dataset, cell.method), *available("losses")])
    raise UndefinedError(f"there is no variant {variant!r} of {cell}; known: {known}")


def _arguments(method: str) -> Mapping[str, Any]:
    """What the file of a method says of it."""
    arguments: Mapping[str, Any] = read_yaml(EXPERIMENTS / "methods" / f"{method}.yaml")["method"]["init_args"]
    return arguments


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


def grid(
    methods: str,
    datasets: str,
    seeds: str,
    variant: str,
    track: str,
    overrides: Sequence[str],
    losses: str = "cross_entropy",
) -> list[Cell]:
    """The cells of comma lists; ``all`` stands for every name that has a YAML file and can be run with the others.

    A loss is a variant of its cell, added to the one that is asked for; cross-entropy is the cell itself.

    Raises:
        ConfigError: for a seed that is not a number, a loss that is not there.
    """
    chosen_methods = available("methods") if methods == "all" else _split(methods)
    chosen_datasets = available("datasets") if datasets == "all" else _split(datasets)
    if not all(re.fullmatch(r"\d+", seed) for seed in _split(seeds)):
        raise ConfigError(f"seeds are whole numbers separated by commas, not {seeds!r}")
    known = available("losses")
    chosen_losses = known if losses == "all" else _split(losses)
    if unknown := [loss for loss in chosen_losses if loss not in known]:
        raise ConfigError(f"there is no loss {unknown[0]!r}; known: {', '.join(known)}")
    lists = {"METHOD": chosen_methods, "DATASET": chosen_datasets, "SEEDS": _split(seeds), "LOSS": chosen_losses}
    for name, chosen in lists.items():
        if not chosen:
            raise ConfigError(f"{name} is empty: name at least one")
    every = [given == "all" for given in (datasets, methods, losses)]

    def given(*names: str) -> tuple[str, ...] | None:
        return tuple(name for name, is_all in zip(names, every, strict=True) if not is_all) if any(every) else None

    return [
        Cell(
            method, dataset, int(seed), _with_loss(variant, loss), track, tuple(overrides), given(dataset, method, loss)
        )
        for dataset in chosen_datasets
        for method in chosen_methods
        for loss in chosen_losses
        for seed in _split(seeds)
    ]


def _with_loss(variant: str, loss: str) -> str:
    return variant if loss == "cross_entropy" else "+".join(filter(None, [variant, loss]))


def _without_machine(overrides: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for override in overrides:
        if override.startswith("--"):
            skip = override.startswith("--machine.")
        if not skip:
            kept.append(override)
    return kept


def _without_folder(word: str) -> str:
    """A file of this machine is named without its folder: its content stands in a column of its own.

    >>> _without_folder("/home/me/weights.safetensors"), _without_folder("--method.init_args.weights=/home/a.pth")
    ('weights.safetensors', '--method.init_args.weights=a.pth')
    """
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + (Path(value).name if value.startswith("/") else value)


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
