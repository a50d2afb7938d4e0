"""The result of one run: an immutable JSON file; what the run said of every image lies beside it (``predictions``).

The names of ``Result``'s fields are the columns of the leaderboard; what a column means, its unit and its direction
stand beside its name, and the leaderboard's documentation is made from them. A result is checked when it is made and
again when it is read: a file that is torn, newer or edited into nonsense never becomes a row; one of an older schema
does, without the columns of which nobody knew then.

May import: the standard library, result_values. Must not import: anything else of the suite. Reads and writes:
``<results>/<dataset>/<method>[.<variant>].<digest8>.s<seed>[.<explainer>].json``.
"""

import dataclasses
import datetime
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from fgbench.result_values import SELECTIONS, checked, table, tree
from fgbench.result_values import ResultError as ResultError  # part of this file's contract

SCHEMA = 2
SINCE = {  # columns that a file of an older schema lacks: the schema that brought them
    "gflops": 2,
    "energy_kwh": 2,
}
EXPLAINED = (
    "nmi_landmarks", "ari_landmarks", "nmi_landmarks_foreground", "ari_landmarks_foreground", "part_consistency",
    "part_consistency_agnostic", "energy_pointing", "nmi_pixels", "ari_pixels", "nmi_foreground", "ari_foreground",
    "part_iou", "part_pointing", "mask_iou", "energy_pointing_mask",
)  # fmt: skip
"""Scores whose absence has a reason, as that of a column has."""
TRACK = (
    "recipe: paper, names of experiments/tracks joined by +, or custom where the command line changed what can change "
    "a number"
)


def _column(doc: str, kind: str, unit: str = "", better: str = "", digits: int = 4) -> dict[str, Any]:
    return {"doc": doc, "kind": kind, "unit": unit, "better": better, "digits": digits, "column": True}


def _record(doc: str, kind: str) -> dict[str, Any]:
    """A field of the JSON that is no column of the leaderboard."""
    return {"doc": doc, "kind": kind, "column": False}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run: what was run, what came out, what it cost, and where it comes from.

    A number that does not apply is None, and ``reasons`` says why; it is never zero. The first fields are the columns
    of the leaderboard, in its order.

    Raises:
        ResultError: a value is out of its range, NaN, or empty without a reason.
    """

    dataset: str = field(metadata=_column("dataset with its protocol", "name"))
    classes: int = field(metadata=_column("classes, or attributes, that the method tells apart", "count"))
    method: str = field(metadata=_column("method, a file in experiments/methods", "name"))
    variant: str = field(default="", metadata=_column("row of an ablation; empty: the method itself", "variant"))
    explainer: str = field(
        default="own", metadata=_column("where saliency and parts come from: own, or a post-hoc explanation", "name")
    )
    backbone: str = field(metadata=_column("network under the method", "text"))
    weights: str = field(metadata=_column("weights that training started from", "text"))
    resolution: int = field(metadata=_column("side of the test image (short side without a crop)", "count", "px"))
    track: str = field(metadata=_column(TRACK, "text"))
    seed: int = field(metadata=_column("seed of everything random", "count"))
    selection: str = field(metadata=_column(f"checkpoint that was tested: {', '.join(SELECTIONS)}", "selection"))
    epochs: int = field(metadata=_column("epochs of training", "count"))
    n_train: int = field(metadata=_column("images trained on", "count"))
    n_eval: int = field(metadata=_column("images of the test split that were seen, each once", "count"))
    accuracy: float | None = field(
        metadata=_column("top-1 over images; with attributes the mean over attributes", "percent", "%", "higher")
    )
    class_accuracy: float | None = field(metadata=_column("mean over classes of top-1", "percent", "%", "higher"))
    landmark_error: float | None = field(
        metadata=_column("distance from the landmarks predicted from the parts, over the size", "error", "%", "lower")
    )
    landmark_floor: float | None = field(metadata=_column("the same for the mean landmark", "error", "%"))
    pointing_error: float | None = field(
        metadata=_column("images whose most salient point lies in no box", "percent", "%", "lower")
    )
    pointing_floor: float | None = field(metadata=_column("the same for the image's centre", "percent", "%"))
    params_m: float | None = field(metadata=_column("parameters", "number", "million", "lower"))
    gmacs: float | None = field(
        metadata=_column(
            "multiply-adds of a test image: convolutions, matrix products, sampling", "number", "10^9", "lower"
        )
    )
    train_images_per_s: float | None = field(
        metadata=_column("training speed over all devices, without the first steps", "number", "1/s", "higher", 1)
    )
    test_images_per_s: float | None = field(
        metadata=_column("test speed over all devices, with the metrics", "number", "1/s", "higher", 1)
    )
    peak_memory_gb: float | None = field(
        metadata=_column("peak memory of training, of the fullest device or process", "number", "GB", "lower", 3)
    )
    train_hours: float | None = field(
        metadata=_column("wall time of training, over all resumptions", "number", "h", "lower")
    )
    devices: int = field(metadata=_column("processes, each with one device", "count"))
    device_name: str = field(metadata=_column("kind of device", "text"))
    precision: str = field(metadata=_column("number format of the forward pass", "text"))
    config: str = field(metadata=_column("files that the configuration was merged from", "text"))
    config_digest: str = field(metadata=_column("of the resolved configuration without seed and machine", "digest"))
    data_digest: str = field(metadata=_column("of the dataset's lists and annotations", "text"))
    commit: str = field(metadata=_column("commit of the suite; +dirty where the code had changed since", "commit"))
    versions: dict[str, str] = field(metadata=_column("versions of the packages that make numbers", "texts"))
    date: str = field(metadata=_column("when the result was written, UTC", "date"))
    command: str = field(metadata=_column("command that makes this row again", "text"))
    wandb_url: str = field(default="", metadata=_column("the run on W&B; empty: logged offline", "text"))
    gflops: float | None = field(
        metadata=_column(
            "floating-point operations of a test image: 2 a multiply-add, 1 an element of others", "number", "10^9",
            "lower",
        )
    )  # fmt: skip
    energy_kwh: float | None = field(
        metadata=_column("energy of training, of all devices, as they report it", "number", "kWh", "lower")
    )

    reasons: dict[str, str] = field(default_factory=dict, metadata=_record("why cells are empty, by column", "texts"))
    scores: dict[str, float] = field(default_factory=dict, metadata=_record("further metrics of the split", "numbers"))
    floors: dict[str, dict[str, float]] = field(
        default_factory=dict, metadata=_record("by metric, what trivial predictors reach", "nested")
    )
    details: dict[str, dict[str, float]] = field(
        default_factory=dict, metadata=_record("metrics by landmark, attribute, class or category", "nested")
    )
    history: dict[str, list[float]] = field(
        default_factory=dict, metadata=_record("by name, one value per epoch", "history")
    )
    environment: dict[str, str] = field(default_factory=dict, metadata=_record("python, platform, devices", "texts"))
    resolved: dict[str, Any] = field(default_factory=dict, metadata=_record("the resolved configuration", "tree"))

    def __post_init__(self) -> None:
        for name, kind in _kinds().items():
            object.__setattr__(self, name, checked(name, kind, getattr(self, name)))
        self._check_reasons()

    def _check_reasons(self) -> None:
        for entry in columns():
            if getattr(self, entry.name) is None and not self.reasons.get(entry.name):
                raise ResultError(f"{entry.name}: empty, and reasons.{entry.name} does not say why")
        without = [name for name in EXPLAINED if name not in self.scores]
        if full := [n for n in self.reasons if n not in without and getattr(self, n, "") is not None]:
            raise ResultError(f"reasons.{full[0]}: there is a reason for an empty cell, but no such empty cell")

    @property
    def method_name(self) -> str:
        """``method[.variant]``."""
        return f"{self.method}.{self.variant}" if self.variant else self.method

    @property
    def label(self) -> str:
        """``method[.variant][ + explainer]``: as people call it."""
        return self.method_name if self.explainer == "own" else f"{self.method_name} + {self.explainer}"

    @property
    def last_epoch_accuracy(self) -> float | None:
        """On what chose the checkpoint, percent, after the last epoch; None if that epoch itself is the checkpoint."""
        curve = [] if self.selection == "last" else self.history.get("val_accuracy", [])
        return curve[-1] if curve else None

    @property
    def name(self) -> str:
        """Stem of the run's files."""
        return result_name(self.method, self.variant, self.config_digest, self.seed, self.explainer)


@cache
def _kinds() -> dict[str, str]:
    return {entry.name: entry.metadata["kind"] for entry in dataclasses.fields(Result)}


@cache
def columns() -> tuple[dataclasses.Field[Any], ...]:
    """The fields of a result that are columns of the leaderboard, in its order."""
    return tuple(entry for entry in dataclasses.fields(Result) if entry.metadata["column"])


def utc_now() -> str:
    """The present moment as a result's date."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def digest(config: Mapping[str, Any]) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a configuration; the order of its keys does not matter.

    The caller leaves out what changes no number: paths, workers, logger; and the seed, which has its own column.

    >>> digest({"b": [1, 2.5], "a": None}) == digest({"a": None, "b": (1, 2.5)})
    True
    """
    canonical = json.dumps(tree("config", config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def result_name(method: str, variant: str, config_digest: str, seed: int, explainer: str = "own") -> str:
    """Stem of a run's files.

    >>> result_name("region_grouping", "no_prior", "0123456789ab", 3)
    'region_grouping.no_prior.01234567.s3'
    >>> result_name("baseline", "", "0123456789ab", 3, "gradcam")
    'baseline.01234567.s3.gradcam'
    """
    further = [] if explainer == "own" else [explainer]
    return ".".join([method, *([variant] if variant else []), config_digest[:8], f"s{seed}", *further])


def to_json(result: Result) -> str:
    """The result as text, the same for the same result."""
    return json.dumps({"schema": SCHEMA, **dataclasses.asdict(result)}, indent=1, allow_nan=False) + "\n"


def _no_constant(name: str) -> NoReturn:
    raise ResultError(f"{name} is not a number that a result can hold")


def from_json(text: str, source: str = "result") -> Result:
    """The result in a text; ``source`` names the text in messages.

    Raises:
        ResultError: the text is not JSON, has another schema, or keys are missing, unknown or out of range.
    """
    try:
        try:
            data = json.loads(text, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            raise ResultError(f"line {error.lineno}: not JSON ({error.msg}); is the file cut off?") from error
        data = table("result", data)
        schema = data.pop("schema", None)
        if schema not in range(1, SCHEMA + 1):
            raise ResultError(
                f"schema: {schema!r} was written by another version of the suite; this one reads 1 to {SCHEMA}"
            )
        data = _upgraded(data, schema)
        fields = _kinds()
        if unknown := sorted(data.keys() - fields.keys()):
            raise ResultError(f"{unknown[0]}: unknown key")
        if missing := sorted(fields.keys() - data.keys()):
            raise ResultError(f"{missing[0]}: missing")
        result = object.__new__(Result)  # the constructor would check every value again
        for name, kind in fields.items():
            object.__setattr__(result, name, checked(name, kind, data[name]))
        result._check_reasons()
        return result
    except ResultError as error:
        raise ResultError(f"{source}: {error}") from error


def _upgraded(data: dict[str, Any], schema: int) -> dict[str, Any]:
    """What a file of an older schema says, in the words of this one: it has no numbers of which nobody knew then."""
    new = [name for name, since in SINCE.items() if since > schema and name not in data]
    if not new:
        return data
    why = dict.fromkeys(new, f"not measured when the run was made (schema {schema})")
    return {**data, **dict.fromkeys(new), "reasons": {**table("reasons", data.get("reasons")), **why}}


def read_result(path: Path) -> Result:
    """The result in a file, which must lie where its content says.

    Raises:
        ResultError: see ``from_json``; or the file's name belongs to another run.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: cannot be read ({error})") from error
    result = from_json(text, str(path))
    if (path.parent.name, path.stem) != (result.dataset, result.name):
        raise ResultError(f"{path}: holds the run {result.dataset}/{result.name}; was the file copied or renamed?")
    return result


def write_result(result: Result, results: Path) -> Path:
    """Write the result where it belongs, once: the file appears whole or not at all, and never changes.

    Args:
        result: the run.
        results: the folder of all results, ``leaderboard/results``.

    Returns:
        The file. Writing the very same result again is no error.

    Raises:
        ResultError: another result of the same run is already there, or the disk refuses.
    """
    path = results / result.dataset / f"{result.name}.json"
    data = to_json(result).encode()
    try:
        write_atomically(path, data, replace=False)
    except FileExistsError:
        if read_result(path) != result:
            raise ResultError(f"{path}: this run already has a result; move the file away to run it again") from None
    return path


def write_atomically(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file so that nobody, not even after a power cut, sees a part of it.

    Args:
        path: the file; its folder is made.
        data: its content.
        replace: False to raise FileExistsError, atomically, where the file is already there.

    Raises:
        ResultError: the disk is full or refuses; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            commit_file(temporary, path, replace=replace)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        raise
    except OSError as error:
        raise ResultError(
            f"{path}: could not be written ({error.strerror or error}); free space and run again"
        ) from error


def commit_file(temporary: Path, path: Path, *, replace: bool = True) -> None:
    """Give a finished temporary file its name, and make the name last."""
    if replace:
        temporary.replace(path)
    else:
        os.link(temporary, path)  # unlike a rename it fails where the name is taken, whoever was first
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
