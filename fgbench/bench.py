"""One cell from configuration to leaderboard row, and the grid of cells.

The parent never trains: ``prepare``, ``fit`` and ``test`` are processes of their own, so a crash in one loses nothing
of the others.
A run folder holds all that a killed run needs to go on where it stopped; a cell whose result is in the leaderboard is
skipped.

May import: cells, config, explain, machine, result, leaderboard, report. Must not import: run, scoring (the phases do).
Reads: results. Writes: run folders, results, the leaderboard's tables.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from fgbench import leaderboard
from fgbench.cells import ROOT, Cell, ConfigError, UndefinedError
from fgbench.config import Resolved, check_processes, has_preparation, is_customised, resolve, takes_gpus, why_undefined
from fgbench.explain import ExplainerError, parse
from fgbench.machine import imitates_bf16
from fgbench.report import terminal
from fgbench.result import ResultError, from_json, read_result, write_atomically, write_result

PHASES = ("prepare", "fit", "test")  # the first only for methods that have one


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        cell: which.
        state: ``done``, ``skipped`` (finished before), ``failed`` or ``busy`` (another process runs it).
        detail: where its result is, or why it failed and where the report is.
    """

    cell: Cell
    state: str
    detail: str


def say(text: str) -> None:
    """One line to a person; stderr, so that stdout stays the table."""
    print(text, file=sys.stderr, flush=True)


def bench(cells: Sequence[Cell], dry_run: bool = False, explainers: Sequence[str] = ()) -> int:
    """Run every cell that has no result yet; report all, return the exit status.

    Args:
        cells: the grid.
        dry_run: print configurations only.
        explainers: evaluate each finished cell again with the evidence of these, a row for each.

    Raises:
        ConfigError: if any cell cannot be configured, or there is no such explainer; then none has started.
    """
    asked = resolve_all(cells)
    plans = [suited(plan) for plan in asked]
    changed = [str(plan.cell) for plan, before in zip(plans, asked, strict=True) if plan is not before]
    if changed:
        say(
            f"in 32 bits: {', '.join(changed)}; this CPU computes no bfloat16 and would take about ten times as long "
            "to imitate it. These are rows of their own; to imitate it all the same: --trainer.precision bf16-mixed"
        )
    try:
        for name in explainers:
            parse(name)
    except ExplainerError as error:
        raise ConfigError(str(error)) from None
    if dry_run:
        for plan in plans:
            print(f"# {plan.cell}  digest {plan.digest}  from {' + '.join(plan.sources)}")
            print(yaml.safe_dump(plan.tree, sort_keys=False))
        return 0
    for plan in plans:
        if not (row_of(plan).exists() or (plan.run_folder / "fit.json").exists()):  # something is left to train
            check_processes(plan)
    outcomes = []
    for index, plan in enumerate(plans, 1):
        say(f"[{index}/{len(plans)}] {plan.cell}: digest {plan.digest}, run folder {plan.run_folder}")
        for explainer in (None, *explainers):
            outcome, seconds = attempt(plan, explainer)
            outcomes.append(outcome)
            what = f"{plan.cell}{f' explained by {explainer}' if explainer else ''}"
            say(f"[{index}/{len(plans)}] {what}: {outcome.state}, {seconds:.0f} s: {outcome.detail}")
            if explainer is None and outcome.state not in ("done", "skipped"):
                break
    return summarise(outcomes)


def resolve_all(cells: Sequence[Cell]) -> list[Resolved]:
    """The cells of a grid that can be run; says which of those that ``all`` stood for are left out, and why.

    Raises:
        ConfigError: a cell that was named cannot be configured, or none of an ``all`` can.
    """
    plans: list[Resolved] = []
    left_out: dict[Cell, tuple[str, UndefinedError]] = {}
    for cell in cells:
        try:
            plans.append(resolve(cell))
        except UndefinedError as error:
            reason = why_undefined(cell) if cell.given is not None else ""
            if not reason:  # named as it is, or the command line's values are to blame
                raise
            left_out[cell] = (reason, error)
    runnable = {plan.cell.given for plan in plans}
    for cell, (_, refusal) in left_out.items():
        if cell.given not in runnable:
            raise refusal
    for cell, (reason, _) in left_out.items():
        say(f"left out: {cell}: {' '.join(reason.split())}")
    return plans


def suited(plan: Resolved) -> Resolved:
    """The plan for this machine: in 32 bits where its files ask for bfloat16 and a CPU would only imitate it.

    It is then as if the command line had asked for it: the row says so, and so does the command that makes it again. A
    precision that was asked for stays, and so does a cell that has a row, or a checkpoint here.
    """
    cell = plan.cell
    asked = "bf16" in cell.track.split("+")
    if plan.tree["trainer"]["precision"] != "bf16-mixed" or asked or takes_gpus(plan.machine) or not imitates_bf16():
        return plan
    other = resolve(replace(cell, overrides=("--trainer.precision", "32-true", *cell.overrides)))
    if other.tree["trainer"]["precision"] == "bf16-mixed":  # as a later word asks
        return plan
    begun = row_of(plan).exists() or any(plan.run_folder.glob("checkpoints/*.ckpt"))
    return plan if begun and not (row_of(other).exists() or other.run_folder.exists()) else other


def row_of(plan: Resolved, explainer: str = "") -> Path:
    """Where the leaderboard keeps a cell's result, or that of an explainer's evidence."""
    name = plan.name_with(explainer) if explainer else plan.name
    return Path(plan.machine.leaderboard) / "results" / plan.cell.dataset / f"{name}.json"


def attempt(plan: Resolved, explainer: str | None) -> tuple[Outcome, float]:
    """Run a cell, or explain it, and show its row; how it ended and how many seconds it took."""
    started = time.monotonic()
    try:
        outcome = run_cell(plan) if explainer is None else explain_cell(plan, explainer)
        if outcome.state in ("done", "skipped"):
            terminal.show(read_result(Path(outcome.detail)), Path(plan.machine.leaderboard))
    except (ResultError, OSError) as error:  # a full disk, a damaged file: the other cells go on
        outcome = Outcome(plan.cell, "failed", str(error))
    return outcome, time.monotonic() - started


def summarise(outcomes: Sequence[Outcome]) -> int:
    """Exit status of a grid; names what failed when there was more than one cell."""
    bad = [outcome for outcome in outcomes if outcome.state not in ("done", "skipped")]
    if len(outcomes) > 1:
        counts = {state: sum(o.state == state for o in outcomes) for state in ("done", "skipped", "failed", "busy")}
        say("grid: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count))
        for outcome in bad:
            say(f"  {outcome.state}: {outcome.cell}: {outcome.detail}")
    return 1 if bad else 0


def run_cell(plan: Resolved) -> Outcome:
    """Fit, test and publish one cell, going on where an earlier try was stopped."""
    board = Path(plan.machine.leaderboard)
    target = row_of(plan)
    if target.exists():
        leaderboard.rebuild(board)  # a run killed between result and table left it stale
        return Outcome(plan.cell, "skipped", str(target))
    folder = plan.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / ".lock") as mine:
        if mine is None:
            return Outcome(plan.cell, "busy", f"another process runs it in {folder}")
        write_config(plan)
        (folder / "failure.txt").unlink(missing_ok=True)
        for phase in PHASES if has_preparation(plan.tree) else PHASES[1:]:
            status = run_phase(phase, folder, mine)
            if status != 0:
                return Outcome(plan.cell, "failed", report_failure(plan, phase, status))
        publish(folder, target)
    leaderboard.rebuild(board)
    return Outcome(plan.cell, "done", str(target))


def explain_cell(plan: Resolved, explainer: str) -> Outcome:
    """Evaluate a finished cell's checkpoint with an explainer's evidence, and publish the row."""
    board, folder = Path(plan.machine.leaderboard), plan.run_folder
    target = row_of(plan, explainer)
    if target.exists():
        leaderboard.rebuild(board)
        return Outcome(plan.cell, "skipped", str(target))
    if not ((folder / "fit.json").exists() and any(folder.glob("checkpoints/*.ckpt"))):
        own = row_of(plan)
        return Outcome(
            plan.cell,
            "failed",
            f"{folder}: there is no trained checkpoint to explain with {explainer}; the row {own} was made elsewhere, "
            "or the run folder was removed. Copy the run folder here, or move that row away and give the command again",
        )
    with lock(folder / ".lock") as mine:
        if mine is None:
            return Outcome(plan.cell, "busy", f"another process runs it in {folder}")
        place = folder / "explained" / explainer
        (place / "failure.txt").unlink(missing_ok=True)
        status = run_phase("test", folder, mine, explainer)
        if status != 0:
            return Outcome(plan.cell, "failed", report_failure(plan, "test", status, place))
        publish(place, target)
    leaderboard.rebuild(board)
    return Outcome(plan.cell, "done", str(target))


def publish(folder: Path, target: Path) -> None:
    """Copy a finished run's predictions and, last, its result to the leaderboard: the JSON is the row's birth.

    Where another machine was first, its row and its predictions stay.
    """
    result = from_json((folder / "result.json").read_text(), str(folder / "result.json"))
    if target.exists():
        return
    write_atomically(target.with_suffix(".parquet"), (folder / "predictions.parquet").read_bytes())
    write_result(result, target.parents[1])


def write_config(plan: Resolved) -> None:
    """``config.yaml``: what the phases read."""
    path = plan.run_folder / "config.yaml"
    cell = {"method": plan.cell.method, "dataset": plan.cell.dataset, "variant": plan.cell.variant}
    cell["track"] = "custom" if is_customised(plan) else plan.cell.track
    content = {
        "name": plan.name,
        "cell": cell,
        "digest": plan.digest,
        "sources": list(plan.sources),
        "command": plan.cell.command,
        "tree": plan.tree,
    }
    text = yaml.safe_dump(content, sort_keys=False)
    write_atomically(path, text.encode())
    say(yaml.safe_dump(plan.tree, sort_keys=False).rstrip())


def run_phase(phase: str, folder: Path, held: int, explainer: str = "") -> int:
    """Run one phase as a process; an interrupt is passed on and waited for, so that it can save.

    Args:
        phase: one of ``PHASES``.
        folder: the run's.
        held: descriptor of the run's lock; the phase inherits it, and so keeps the run locked if only the parent dies.
        explainer: whose evidence to test; empty for the method's own.
    """
    command = [sys.executable, "-m", "fgbench", phase, str(folder)]
    command += ["--explainer", explainer] if explainer else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, env=environment, pass_fds=[held]) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise


def report_failure(plan: Resolved, phase: str, status: int, place: Path | None = None) -> str:
    """Make sure that ``failure.txt`` is there and says what to do; its path and first line."""
    path = (place or plan.run_folder) / "failure.txt"
    if not path.exists():
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        hint = "out of memory is the usual reason for SIGKILL: try a smaller batch_size or fewer workers"
        write_atomically(path, f"{phase} {how}\n{hint if status == -9 else 'see the output above'}\n".encode())
    lines = path.read_text().splitlines()
    say(f"{plan.cell}: {phase} failed. Report: {path}. The same command resumes from the last finished epoch.")
    return f"{path}: {lines[0] if lines else phase}"


@contextlib.contextmanager
def lock(path: Path) -> Iterator[int | None]:
    """The lock's descriptor if this process holds it, else None; it is held until the last heir of it has ended."""
    with open(path, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield handle.fileno()
