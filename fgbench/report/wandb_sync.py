"""Uploads what runs logged offline: which folders wait, and W&B's own command for them.

May import: the standard library, ``fgbench.report.account``, ``fgbench.result``. Must not import: wandb (its command
runs as a process of its own). Reads: run folders. Writes: what the command writes.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fgbench.report.account import LOGIN, is_logged_in
from fgbench.result import ResultError


def waiting(runs: Path, folders: Sequence[Path] = ()) -> dict[Path, list[Path]]:
    """By run folder, its offline W&B folders that have not been uploaded, in the order of their phases.

    Args:
        runs: the folder of run folders.
        folders: run folders; all below ``runs`` if none are given.

    Raises:
        ResultError: there is no such run folder.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ResultError(f"{folder}: there is no such run folder; they are {runs}/<dataset>/<name>")
    found = {}
    for folder in folders or sorted(path for path in runs.glob("*/*") if path.is_dir()):
        parts = sorted(path for path in (folder / "wandb").glob("offline-run-*") if _waits(path))
        if parts:
            found[folder] = parts
    return found


def _waits(part: Path) -> bool:
    """W&B's command leaves ``<log>.synced`` beside a log that it has uploaded."""
    logs = list(part.glob("run-*.wandb"))
    return bool(logs) and not all(log.with_name(f"{log.name}.synced").exists() for log in logs)


def sync(found: dict[Path, list[Path]], dry_run: bool = False) -> int:
    """Upload, all phases of a run together; the command's exit status, the first that is not 0.

    Args:
        found: see ``waiting``.
        dry_run: only say what would be uploaded.

    Raises:
        ResultError: nobody is logged in.
    """
    if not dry_run and found and not is_logged_in(os.environ):
        raise ResultError(LOGIN)
    statuses = []
    for folder, parts in found.items():
        print(f"{'would upload' if dry_run else 'uploading'} {folder}: {', '.join(part.name for part in parts)}",
              flush=True)  # fmt: skip
        if not dry_run:
            command = [sys.executable, "-m", "wandb", "sync", *map(str, parts)]
            statuses.append(subprocess.run(command, check=False).returncode)
    failed = [status for status in statuses if status]
    print(f"{len(found)} runs {'wait' if dry_run else 'given to W&B'}{f', {len(failed)} failed' if failed else ''}")
    return failed[0] if failed else 0
