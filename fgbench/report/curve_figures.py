"""How accuracies grow with the epochs of training, of many settings in one picture: results in, PNG out; no torch.

After Figure 5 of Chang et al., arXiv 2102.00367, which has a line for each loss.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fgbench.leaderboard.settings import Entry
from fgbench.report.figures import LINES, STYLES
from fgbench.result import write_atomically


def accuracy_curves(chosen: Sequence[Entry]) -> dict[str, list[list[float]]]:
    """Accuracies after each epoch of settings whose runs validated, a list per seed.

    Args:
        chosen: settings, in the order of the legend.

    Returns:
        By label: method and variant, with what else is in the setting's name where two would have the same; and of
        which split the accuracy is, where that is not the same for all.

    Raises:
        ValueError: no run has an accuracy per epoch; says how to get one.
    """
    trained = [entry for entry in chosen if entry.run.explainer == "own"]  # other rows are of the same trainings
    found = [(entry, [run.history.get("val_accuracy", []) for run in entry.runs]) for entry in trained]
    found = [(entry, [curve for curve in curves if curve]) for entry, curves in found]
    found = [(entry, curves) for entry, curves in found if curves]
    if not found:
        raise ValueError(
            "no run has an accuracy per epoch: by default none is validated. Train with --selection "
            "legacy_best_on_test, which tests after every epoch as papers do, or with --selection validation and "
            "--data.init_args.val_fraction 0.1"
        )
    labels = [entry.label for entry, _ in found]
    labels = [entry.name if labels.count(entry.label) > 1 else entry.label for entry, _ in found]
    honest = {entry.honest for entry, _ in found}
    split = [f" ({_split(entry.honest)})" if len(honest) > 1 else "" for entry, _ in found]
    return {label + told: curves for label, told, (_, curves) in zip(labels, split, found, strict=True)}


def write_curves(path: Path, chosen: Sequence[Entry], title: str = "") -> None:
    """Accuracy after each epoch: a line per setting, the mean over its seeds, with a band of one standard deviation.

    Args:
        path: the PNG file.
        chosen: settings, in the order of the legend.
        title: line above.

    Raises:
        ValueError: see ``accuracy_curves``.
    """
    found = accuracy_curves(chosen)
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for index, (label, curves) in enumerate(found.items()):
        style, colour = STYLES[index // len(LINES) % len(STYLES)], LINES[index % len(LINES)]
        values = np.array([curve[: min(map(len, curves))] for curve in curves])
        epochs, mean = np.arange(values.shape[1]) + 1, values.mean(0)
        told = label if len(values) == 1 else f"{label}, {len(values)} seeds"
        axis.plot(epochs, mean, style, color=colour, label=told, lw=1.2)
        if len(values) > 1:
            spread = values.std(0, ddof=1)
            axis.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
    axis.set_xlabel("epoch")
    honest = {entry.honest for entry in chosen if any(run.history.get("val_accuracy") for run in entry.runs)}
    axis.set_ylabel(f"accuracy on the {_split(*honest)} images, %" if len(honest) == 1 else "accuracy, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title, fontsize=9)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    write_atomically(path, png.getvalue())


def _split(honest: bool) -> str:
    return "validation" if honest else "test"
