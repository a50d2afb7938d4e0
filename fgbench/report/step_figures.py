"""What each step of a recurrent method is worth, over a test split: numbers of results in, PNG out; no torch.

The first panel is Figure 6.1 of Shroff's thesis (2020): accuracy when one step's state alone counts. The second is its
Table 6.2, with the fair comparison beside it: accuracy of sums, and of means, of the first states, and of what the
method itself makes of all. The third is the mean weight of each step in the pooled state.
"""

import io
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fgbench.report.figures import LINES
from fgbench.result import Result, write_atomically

Curve = tuple[list[int], list[float]]
"""Steps and values."""
MARKERS = (".", "x", "^", "s")  # of settings beyond the number of colours; the style of a line says what it is

GLOBAL = {"accuracy_global": (":", "global stream alone")}
PANELS = {
    "accuracy with one step, %": {
        "accuracy_step": ("-", "step t and global stream"),
        "accuracy_local_step": ("--", "step t alone"),
        **GLOBAL,
    },
    "accuracy with steps 1 to t, %": {
        "accuracy_sum": ("-", "sum of them and global stream"),
        "accuracy_mean": ("--", "mean of them and global stream"),
        "accuracy": ("-.", "both streams, as trained"),
        **GLOBAL,
    },
}
"""By title: scores, the style of each and what it is."""


def by_step(numbers: Mapping[str, float], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the numbers ``<name>_<step>``, in the order of the steps.

    >>> by_step({"accuracy_step_2": 7.0, "accuracy_step_1": 5.0, "accuracy_local_step_1": 1.0}, "accuracy_step")
    ([1, 2], [5.0, 7.0])
    """
    found = sorted(
        (int(hit[1]), value) for key, value in numbers.items() if (hit := re.fullmatch(rf"{name}_(\d+)", key))
    )
    return [step for step, _ in found], [value for _, value in found]


def by_setting(results: Mapping[str, Result]) -> dict[str, list[Result]]:
    """The results with the seeds of each label (``name.s0``, ``name.s1``) together."""
    found: dict[str, list[Result]] = {}
    for label, result in results.items():
        found.setdefault(re.sub(r"\.s\d+$", "", label), []).append(result)
    return found


def write_step_curves(path: Path, results: Mapping[str, Result]) -> None:
    """A colour for each setting, or colour and marker: the mean over its seeds, and a band of one standard deviation.

    Args:
        path: the PNG file.
        results: by label; labels that differ in a seed at their end (``.s0``) are one setting.

    Raises:
        ValueError: none of the runs has steps.
    """
    shown = {label: result for label, result in results.items() if by_step(result.scores, "accuracy_step")[0]}
    if not shown:
        raise ValueError(f"{path}: no run has an accuracy for each step; METHOD=focus_longer has, unless local is cnn")
    figure = Figure(figsize=(12, 3.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    for index, (label, runs) in enumerate(by_setting(shown).items()):
        look = LINES[index % len(LINES)], MARKERS[index // len(LINES) % len(MARKERS)]
        for axis, lines in zip(axes, PANELS.values(), strict=False):
            for name, (style, _) in lines.items():
                _draw(axis, [_curve(run, name) for run in runs], style, look)
        weights = [
            by_step({f"w_{step}": x for step, x in run.details.get("step_weight", {}).items()}, "w") for run in runs
        ]
        _draw(axes[2], weights, "-", look, f"{label}, {len(runs)} {'seed' if len(runs) == 1 else 'seeds'}")
    for axis, (title, lines) in zip(axes, PANELS.items(), strict=False):
        axis.set_title(title, fontsize=9)
        axis.legend(
            handles=[Line2D([], [], color="black", ls=style, lw=1.2, label=told) for style, told in lines.values()],
            fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False,
        )  # fmt: skip
    axes[2].set_title("mean weight in the decision, %", fontsize=9)
    axes[2].legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    axes[2].set_ylim(bottom=0)
    for axis in axes:
        axis.set_xlabel("step t")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    write_atomically(path, png.getvalue())


def _curve(run: Result, name: str) -> Curve:
    """A score at each step; one that has no steps, at all of them."""
    steps, values = by_step(run.scores, name)
    if steps:
        return steps, values
    every = by_step(run.scores, "accuracy_step")[0]
    value = run.accuracy if name == "accuracy" else run.scores.get(name)
    return (every, [value] * len(every)) if value is not None else ([], [])


def _draw(axis: Axes, runs: list[Curve], style: str, look: tuple[str, str], label: str | None = None) -> None:
    """A line in colour, with the marker where it is whole or dashed."""
    colour, marker = look
    having = [run for run in runs if run[0]]
    if not having:
        return
    steps = having[0][0]
    values = np.array([run[1] for run in having if run[0] == steps])
    mean, spread = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else 0
    axis.plot(
        steps, mean, style, color=colour, marker=marker if style in ("-", "--") else None, ms=4, lw=1.2, label=label
    )
    if len(values) > 1:
        axis.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
