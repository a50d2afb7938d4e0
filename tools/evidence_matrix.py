"""Print which metric of evidence each method has on each dataset, or why not: ``tools/evidence_matrix.py [--probes]``.

No data and no training: what a dataset annotates stands in its class, what a method shows is asked of a tiny one.
"""

import argparse
import functools
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import torch
from rich.console import Console

import fgbench.data
from fgbench import cells, config, measures
from fgbench.methods import METHODS
from fgbench.report.measures import show_matrix

SIDE = 96  # pixels of the one image that methods are asked about
TINY = ["--method.init_args.backbone=resnet_nano", "--method.init_args.weights=null"]
SAMPLERS = ["attention_backbone=resnet_nano", "attention_weights=null", "attention_size=64", "sampled=64"]
PATCHES = ["local_backbone=null", "local_weights=null", "hidden=16", "patch_size=32"]
REGIONS = ["regions=20", "parts_per_class=2", "inner_epochs=1", "mini_batch=null", "tap=null"]
OF_METHOD = {"ssn": SAMPLERS, "tasn": SAMPLERS, "focus_longer": PATCHES, "dpnet": REGIONS}
MORE = {name: [f"--method.init_args.{one}" for one in tiny] for name, tiny in OF_METHOD.items()}


@functools.cache
def shown_by(name: str) -> tuple[int | None, bool, bool, int]:
    """Parts, whether they belong to classes, whether there is a saliency, and parts of classes beside those of all."""
    plan = config.resolve(cells.Cell(name, "toybirds", overrides=(*TINY, *MORE.get(name, []))))
    method = config.instantiate(plan.tree)[1].eval()
    with torch.no_grad():
        output = method(method.normalise(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)))
    return method.parts, method.class_stages > 0, output.saliency is not None, method.bound_parts


def matrix(columns: Sequence[str]) -> list[tuple[str, str, Mapping[str, str]]]:
    """A row for each dataset and method: by column a tick, or why there is no number."""
    asked = {**measures.HEADLINE, **measures.MEASURES}
    rows = []
    shown = {name: shown_by(name) for name in METHODS}
    for dataset, class_name in fgbench.data.DATASETS.items():
        kind = getattr(fgbench.data, class_name)
        facts = SimpleNamespace(
            landmark_names=("landmark",) * (kind.card.landmarks or 0), has_boxes=kind.has_boxes,
            mask_names=kind.mask_names, target=kind.target,
        )  # fmt: skip
        for name, (parts, bound, saliency, own) in shown.items():
            if kind.target in METHODS[name].undefined_for:
                undefined = f"the method is not defined: {METHODS[name].undefined_for[kind.target]}"
                cell = dict.fromkeys(columns, undefined)
            else:
                missing = measures.reasons(facts, parts, bound, saliency, asked, bound_parts=own)
                cell = {column: missing.get(column, "✓") for column in columns}
            rows.append((dataset, name, cell))
    return rows


def merged(rows: Sequence[tuple[str, str, Mapping[str, str]]]) -> list[tuple[str, str, Mapping[str, str]]]:
    """The same with methods that have the same cells, and datasets where all have the same, in one row."""
    of_dataset: dict[str, dict[tuple[str, ...], list[str]]] = {}
    cells = {tuple(cell.values()): cell for _, _, cell in rows}
    for dataset, name, cell in rows:
        of_dataset.setdefault(dataset, {}).setdefault(tuple(cell.values()), []).append(name)
    alike: dict[tuple[tuple[tuple[str, ...], str], ...], list[str]] = {}
    for dataset, groups in of_dataset.items():
        alike.setdefault(tuple((key, ", ".join(names)) for key, names in groups.items()), []).append(dataset)
    return [(", ".join(datasets), names, cells[key]) for groups, datasets in alike.items() for key, names in groups]


def main() -> None:
    """Print the matrix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probes", action="store_true", help="the columns of fgbench probe instead")
    columns = measures.PROBED if parser.parse_args().probes else (*measures.HEADLINE, *measures.PLAIN)
    show_matrix(matrix(columns), columns, Console(width=280))


if __name__ == "__main__":
    main()
