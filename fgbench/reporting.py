"""``fgbench report``: the page, or the reports on W&B.

May import: leaderboard, report, result. Must not import: torch, bench, run, cli. Reads: the leaderboard, environment
variables of W&B. Writes: the page; reports on W&B.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from fgbench import leaderboard
from fgbench.report import account, page
from fgbench.result import ResultError


def report(options: argparse.Namespace) -> int:
    """Write the page, or the W&B reports."""
    if options.wandb:
        return save_reports(options)
    output = options.output or options.folder / "report.html"
    read = page.write(options.folder, output, options.runs, options.pictures_mb)
    return say_read(read.damaged, f"{output}: {len(read.results)} results, {output.stat().st_size / 1e6:.1f} MB")


def save_reports(options: argparse.Namespace) -> int:
    """Build the reports, check what would be sent, save them if somebody is logged in."""
    from fgbench.report import wandb_report

    logged_in = account.is_logged_in(os.environ) and not options.dry_run
    entity = options.entity or os.environ.get("WANDB_ENTITY", "") or ("" if logged_in else "entity")
    project = options.project or os.environ.get("WANDB_PROJECT", "") or account.PROJECT
    read = leaderboard.read_results(options.folder)
    chosen, papers = leaderboard.entries(read.results), leaderboard.published(options.folder)
    reports = wandb_report.build(chosen, papers, project, entity)
    for report in reports:
        blocks = wandb_report.payload(report)["spec"]["blocks"]
        print(f"built {report.title!r}: {len(blocks)} blocks")
    if logged_in:
        for address in wandb_report.save(reports):
            print(address)
    elif not options.dry_run:
        raise ResultError(f"the reports were built but not saved: {account.LOGIN}")
    return say_read(read.damaged, f"{len(reports)} reports of {len(read.results)} results")


def say_read(damaged: Mapping[Path, str], text: str) -> int:
    """Print a verb's last line and what was left out; the exit status."""
    print(text)
    for message in damaged.values():
        print(f"fgbench: left out: {message}", file=sys.stderr)
    return 1 if damaged else 0
