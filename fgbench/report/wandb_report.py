"""W&B reports of the leaderboard: one of everything, one per dataset. The only file that imports ``wandb_workspaces``.

A report is built without an account, from the committed results: run sets by dataset and method, panels over the runs
that W&B has, tables of the measured and of the papers' numbers. Saving it needs a login.

May import: wandb_workspaces, ``fgbench.leaderboard``, ``fgbench.report.account``. Must not import: torch, lightning.
Reads: nothing beyond its arguments. Writes: reports on W&B, when asked to.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import wandb_workspaces.reports.v2 as wr
from wandb_workspaces import expr

from fgbench.leaderboard import Entry
from fgbench.leaderboard.settings import AXES, KINDS, NUMBERS, by_table, front
from fgbench.leaderboard.tables import cell_of, interval
from fgbench.result import ResultError

GROUPS = ("config.dataset", "config.method_name", "config.seed")  # how a person looks for a run
TABLE_COLUMNS = ("accuracy", "landmark_error", "pointing_error", "gmacs", "params_m", "test_images_per_s")
BARS = ("accuracy", "class_accuracy", "landmark_error", "pointing_error")
COSTS = ("gmacs", "params_m", "train_hours", "peak_memory_gb")
COLUMN_ORDER = (
    "run:displayName", "config:dataset.value", "config:method_name.value", "config:seed.value",
    *(f"summary:{name}" for name in TABLE_COLUMNS),
)  # fmt: skip
CURVES = {"train/loss": "training loss", "val/accuracy": "validation accuracy"}
MOST = 12  # run sets of a dataset: one a method; the rest share the last


def build(chosen: Sequence[Entry], papers: pd.DataFrame, project: str, entity: str = "") -> list[wr.Report]:
    """The report of the whole leaderboard, then one per dataset.

    Args:
        chosen: settings, the best first.
        papers: the papers' numbers.
        project: where the runs are.
        entity: W&B's name of who owns the project; empty: of who is logged in, who is asked for over the network.
    """
    tables = by_table(chosen)
    datasets = list(dict.fromkeys(dataset for dataset, _, _ in tables))
    shared: dict[str, Any] = {"project": project, "width": "fluid", **({"entity": entity} if entity else {})}
    overall = wr.Report(
        **shared, title="fgbench leaderboard", description="All datasets: settings, seeds and costs.",
        blocks=[
            wr.TableOfContents(), wr.P(_explanation()),
            *(block for dataset in datasets for block in _tables(tables, dataset, "H1")),
            wr.H1("All runs"), _grid([runset(f"{name}: all runs", name) for name in datasets], _score_panels()),
        ],
    )  # fmt: skip
    return [overall, *(_of_dataset(dataset, tables, papers, shared) for dataset in datasets)]


def _of_dataset(
    dataset: str, tables: Mapping[tuple[Any, ...], Sequence[Entry]], papers: pd.DataFrame, shared: dict[str, Any]
) -> wr.Report:
    rows = [entry for key, found in tables.items() if key[0] == dataset for entry in found]
    methods = sorted({entry.run.method_name for entry in rows})  # as the runs' configuration on W&B has it
    by_method = {name: [name] for name in methods[:MOST]} | (
        {"other methods": methods[MOST:]} if methods[MOST:] else {}
    )

    def grid(panels: Sequence[Any]) -> wr.PanelGrid:  # each with run sets of its own: they have ids
        return _grid([runset(name, dataset, found) for name, found in by_method.items()], panels)

    printed = papers[papers["dataset"] == dataset].to_dict("records")
    blocks = [
        wr.TableOfContents(), wr.P(_explanation()), *_tables(tables, dataset, "H2"),
        wr.H2("Scores and costs"), grid(_score_panels()),
        wr.H2("Curves"), grid([wr.LinePlot(title=title, x="epoch", y=[key], groupby="method_name",
                                                  groupby_aggfunc="mean", groupby_rangefunc="stddev",
                                                  layout=wr.Layout(x=12 * at, w=12, h=9))
                                      for at, (key, title) in enumerate(CURVES.items())]),
        wr.H2("Explanations"), grid([wr.WeavePanelSummaryTable(table_name="examples",
                                                                     layout=wr.Layout(w=24, h=16))]),
        wr.H2("What differs between runs"), grid([wr.RunComparer(diff_only="split",
                                                                       layout=wr.Layout(w=24, h=12))]),
    ]  # fmt: skip
    if printed:
        blocks += [wr.H2("What papers print"), wr.MarkdownBlock(_papers(printed))]
    return wr.Report(**shared, title=f"fgbench: {dataset}", description=f"Settings and runs on {dataset}.",
                     blocks=blocks)  # fmt: skip


def runset(name: str, dataset: str, methods: Sequence[str] = ()) -> wr.Runset:
    """The runs of a dataset, or of some methods on it, by dataset, method and seed.

    Neither entity nor project is named: the runs are those of the project in which the report is.
    """
    filters = [expr.Config("dataset") == dataset]
    filters += [expr.Config("method_name").isin(list(methods))] if methods else []
    return wr.Runset(
        name=name, filters=expr.And(*filters), groupby=list(GROUPS), pinned_columns=["run:displayName"],
        order=[wr.OrderBy(wr.SummaryMetric("accuracy"), ascending=False)], column_order=list(COLUMN_ORDER),
    )  # fmt: skip


def _grid(sets: Sequence[wr.Runset], panels: Sequence[Any]) -> wr.PanelGrid:
    return wr.PanelGrid(runsets=list(sets), panels=list(panels))


def _score_panels() -> list[Any]:
    bars = [
        wr.BarPlot(
            title=name.replace("_", " "), metrics=[wr.SummaryMetric(name)], groupby="method_name",
            groupby_aggfunc="mean", groupby_rangefunc="stddev",
            layout=wr.Layout(x=8 * (at % 3), y=8 * (at // 3), w=8, h=8),
        )
        for at, name in enumerate((*BARS, *COSTS))
    ]  # fmt: skip
    plot = wr.ScatterPlot(
        title="accuracy against cost; colour: pointing error", x=wr.SummaryMetric("gmacs"),
        y=wr.SummaryMetric("accuracy"), z=wr.SummaryMetric("pointing_error"), log_x=True,
        layout=wr.Layout(x=0, y=24, w=24, h=10),
    )  # fmt: skip
    return [*bars, plot]


def _explanation() -> str:
    return (
        "Mean ± standard deviation over the seeds, and the 95 % t interval of the mean. ◆: Pareto front of "
        f"{', '.join(AXES)}. The tables come from the committed results; panels show the runs that W&B has."
    )


def _tables(tables: Mapping[tuple[Any, ...], Sequence[Entry]], dataset: str, heading: str) -> list[Any]:
    blocks: list[Any] = [getattr(wr, heading)(dataset)]
    for (name, track, classes), rows in tables.items():
        if name == dataset:
            text = f"track {_escaped(track)}, {classes} classes\n\n{_table(rows)}"
            blocks.append(wr.MarkdownBlock(text))
    return blocks


def _table(rows: Sequence[Entry]) -> str:
    head = ["method", "digest", "seeds", "accuracy 95 %", *TABLE_COLUMNS, "front"]
    rule = ["---", "---", "--:", "--:", *("--:" if KINDS[name] in NUMBERS else "---" for name in TABLE_COLUMNS), ":-:"]
    body = [
        [
            entry.label, entry.run.config_digest[:8], str(len(entry.runs)), interval(entry, "accuracy"),
            *(cell_of(entry, name) for name in TABLE_COLUMNS), "◆" if mark else "",
        ]
        for entry, mark in zip(rows, front(rows), strict=True)
    ]  # fmt: skip
    return _markdown([head, rule, *body])


def _papers(printed: Sequence[Mapping[Any, Any]]) -> str:
    names = ("paper", "table", "method", "variant", "backbone", "resolution", "subset", "metric", "printed", "note")
    rows = [[str(row[name]) for name in names] for row in printed]
    note = "Published, not measured here: these numbers were made under other protocols.\n\n"
    return note + _markdown([list(names), ["---"] * len(names), *rows])


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table: heading, rule, body."""
    lines = [rows[1] if row is rows[1] else [_escaped(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def _escaped(text: str) -> str:
    """A text that cannot become markup or leave its cell."""
    return re.sub(r"([\\|<>&`*_\[\]])", r"\\\1", text).replace("\n", " ")


def payload(report: wr.Report) -> dict[str, Any]:
    """What W&B would be sent: the report's name, project and specification."""
    model = report._to_model()
    return {
        "title": model.display_name,
        "description": model.description,
        "entity": model.project.entity_name,
        "project": model.project.name,
        "spec": model.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def save(reports: Sequence[wr.Report]) -> list[str]:
    """Save them on W&B; their addresses.

    Raises:
        ResultError: W&B refuses, or cannot be reached.
    """
    found = []
    for report in reports:
        try:
            found.append(str(report.save().url))
        except Exception as error:  # whatever W&B's client raises
            raise ResultError(f"W&B did not take the report {report.title!r}: {error}") from error
    return found
