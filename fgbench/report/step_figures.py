"""What each step of a recurrent method is worth, over a test split: numbers of results in, PNG out; no torch.

The first panel is Figure 6.1 of Shroff's thesis (2020): accuracy when one step's state alone counts. The second is its
Table 6.2, with the fair comparison beside it: accuracy of sums, and of means, of the first states. The third is the
mean weight of each step in the pooled state.
"""

import io
import re
from collections.abc import Mapping
from pathlib import Path

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fgbench.result import Result, write_atomically


def by_step(numbers: Mapping[str, float], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the numbers ``<name>_<step>``, in the order of the steps.

    >>> by_step({"accuracy_step_2": 7.0, "accuracy_step_1": 5.0, "accuracy_local_step_1": 1.0}, "accuracy_step")
    ([1, 2], [5.0, 7.0])
    """
    found = sorted(
        (int(hit[1]), value) for key, value in numbers.items() if (hit := re.fullmatch(rf"{name}_(\d+)", key))
    )
    return [step for step, _ in found], [value for _, value in found]


def write_step_curves(path: Path, results: Mapping[str, Result]) -> None:
    """A colour for each run.

    Args:
        path: the PNG file.
        results: by label.

    Raises:
        ValueError: none of the runs has steps.
    """
    shown = {label: result for label, result in results.items() if by_step(result.scores, "accuracy_step")[0]}
    if not shown:
        raise ValueError(f"{path}: no run has an accuracy for each step; METHOD=focus_longer has, unless local is cnn")
    figure = Figure(figsize=(12, 3.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    single, several, weights = figure.subplots(1, 3)
    colours = colormaps["tab10"].colors  # type: ignore[attr-defined]
    for index, (label, result) in enumerate(shown.items()):
        colour = colours[index % len(colours)]
        for axis, name, style, what in (
            (single, "accuracy_step", "-", "step and global stream"),
            (single, "accuracy_local_step", "--", "step alone"),
            (several, "accuracy_sum", "-", "sum of steps 1 to t"),
            (several, "accuracy_mean", "--", "mean of steps 1 to t"),
        ):
            steps, values = by_step(result.scores, name)
            axis.plot(steps, values, style, color=colour, marker=".", lw=1.2, label=f"{label}: {what}")
        for axis in (single, several):
            axis.axhline(result.scores["accuracy_global"], color=colour, ls=":", lw=1, label=f"{label}: global stream")
        steps, values = by_step(
            {f"weight_{step}": x for step, x in result.details.get("step_weight", {}).items()}, "weight"
        )
        weights.plot(steps, values, "-", color=colour, marker=".", lw=1.2, label=label)
    for axis, title in ((single, "accuracy, %"), (several, "accuracy, %"), (weights, "mean weight in the decision, %")):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step t")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=5)
    weights.set_ylim(bottom=0)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    write_atomically(path, png.getvalue())
