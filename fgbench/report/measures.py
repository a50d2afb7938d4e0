"""Tables of the metrics of evidence: the probes of a run, and which dataset and method has which number, or why not."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

PROBED = (
    "part_stability", "part_stability_agnostic", "part_stability_blank", "bound_part_stability_blank", "insertion",
    "deletion", "sanity_rank", "sanity_ssim",
)  # fmt: skip
ARROWS = {"higher": "↑", "lower": "↓", "near 0": "→ 0"}


def show_probes(
    title: str, known: Mapping[str, Any], better: Mapping[str, str], console: Console | None = None
) -> None:
    """Explainers in rows, with how each was asked; below, why cells are empty, and whether rows can be compared.

    Args:
        title: above the table.
        known: what ``probes.json`` holds.
        better: ``higher``, ``lower`` or ``near 0``, of the numbers that have a better direction.
        console: to print to.
    """
    heads = [f"{name.replace('_', ' ')} {ARROWS[better[name]] if name in better else ''}".strip() for name in PROBED]
    table = Table("explainer", "images", "steps", "network", *heads, title=title)
    notes: dict[str, list[str]] = {}
    asked = set()
    for explainer, found in known.items():
        numbers = found["numbers"]
        cells = [f"{numbers[name]:.2f}" if name in numbers else "" for name in PROBED]
        how = (str(found["images"]), str(found["steps"]), _network(found))
        asked.add(how)
        table.add_row(explainer, *how, *cells)
        for name, reason in found["reasons"].items():
            notes.setdefault(f"no {name}: {reason}", []).append(explainer)
    console = console or Console()
    console.print(table)
    if len(asked) > 1:
        console.print(
            "insertion and deletion of rows that differ in steps or network are not comparable: probe them again"
        )
    for note, names in notes.items():
        console.print(f"{note} ({', '.join(names)})", highlight=False)


def _network(found: Mapping[str, Any]) -> str:
    """How it answered; older entries do not say."""
    return f"{found['precision']}{', compiled' if found['compiled'] else ''}" if "precision" in found else "not known"


def show_matrix(rows: Sequence[tuple[str, str, Mapping[str, str]]], columns: Sequence[str], console: Console) -> None:
    """A cell of method and dataset in each row, a metric in each column; numbers of reasons that stand below.

    Args:
        rows: dataset, method, and by column a value or a reason in words.
        columns: names of metrics.
        console: to print to.
    """
    reasons: dict[str, str] = {}
    table = Table("dataset", "method", *(name.replace("_", " ") for name in columns))
    for dataset, method, cells in rows:
        shown = []
        for name in columns:
            text = cells[name]
            shown.append(text if text == "✓" or _is_number(text) else reasons.setdefault(text, _letter(len(reasons))))
        table.add_row(dataset, method, *shown)
    console.print(table)
    for reason, letter in reasons.items():
        console.print(f"{letter}: {reason}", highlight=False)


def _letter(index: int) -> str:
    return chr(ord("a") + index)


def _is_number(text: str) -> bool:
    return text.lstrip("-").replace(".", "", 1).isdigit()
