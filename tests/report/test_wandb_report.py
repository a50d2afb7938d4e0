"""The W&B reports are built without an account, and what would be sent is what a person should see."""

import json
import subprocess
from pathlib import Path
from typing import Any

import page_board
import pytest

from fgbench import cli, leaderboard
from fgbench.report import account, wandb_report, wandb_sync
from fgbench.result import ResultError


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_board.write_board(tmp_path_factory.mktemp("board"))


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_ENTITY", "WANDB_PROJECT", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="module")
def payloads(board: Path) -> dict[str, Any]:
    chosen = leaderboard.entries(leaderboard.read_results(board).results)
    reports = wandb_report.build(chosen, leaderboard.published(board), "birds", "someone")
    return {report.title: wandb_report.payload(report) for report in reports}


def blocks(payload: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [block for block in payload["spec"]["blocks"] if block["type"] == kind]


def test_there_is_one_of_everything_and_one_per_dataset(payloads: dict[str, Any]) -> None:
    assert list(payloads) == ["fgbench leaderboard", "fgbench: cub200", "fgbench: nasty", "fgbench: toybirds"]
    assert {(one["entity"], one["project"]) for one in payloads.values()} == {("someone", "birds")}
    (grid,) = blocks(payloads["fgbench leaderboard"], "panel-grid")
    names = [found["name"] for found in grid["metadata"]["runSets"]]
    assert names == ["cub200: all runs", "nasty: all runs", "toybirds: all runs"]


def test_run_sets_hold_one_method_on_one_dataset_grouped_down_to_the_seed(payloads: dict[str, Any]) -> None:
    grids = blocks(payloads["fgbench: toybirds"], "panel-grid")
    for grid in grids:
        sets = {found["name"]: found for found in grid["metadata"]["runSets"]}
        assert list(sets) == ["good", "other.half", "other.test", "plain"]
        found = sets["other.half"]
        assert [key.get("name") for key in found["grouping"]] == ["dataset.value", "method_name.value", "seed.value"]
        text = json.dumps(found["filters"])
        assert '"toybirds"' in text
        assert '["other.half"]' in text
        assert '"good"' not in text
    ids = [found["id"] for grid in grids for found in grid["metadata"]["runSets"]]
    assert len(ids) == len(set(ids))


def test_panels_show_scores_costs_curves_and_pictures(payloads: dict[str, Any]) -> None:
    panels = [panel for grid in blocks(payloads["fgbench: toybirds"], "panel-grid")
              for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]]  # fmt: skip
    kinds = [panel["viewType"] for panel in panels]
    assert (kinds.count("Bar Chart"), kinds.count("Scatter Plot"), kinds.count("Run History Line Plot")) == (8, 1, 2)
    text = json.dumps(panels)
    for name in ("accuracy", "landmark_error", "pointing_error", "gmacs", "train/loss", "val/accuracy", "examples"):
        assert name in text, name


def test_tables_hold_the_leaderboards_numbers_and_the_papers(payloads: dict[str, Any]) -> None:
    (table,) = (block["content"] for block in blocks(payloads["fgbench: toybirds"], "markdown-block"))
    (good,) = (line.split(" | ") for line in table.splitlines() if line.startswith("| good "))
    assert good[2:6] == ["3", "\\[86.29, 98.71\\]", "92.50 ± 2.50", "12.35"]
    papers = blocks(payloads["fgbench: cub200"], "markdown-block")[-1]["content"]
    assert "Published, not measured here" in papers
    assert "| 87.3 |" in papers
    for payload in payloads.values():
        for block in blocks(payload, "markdown-block"):
            assert not any(line.count(" | ") != block["content"].splitlines()[-1].count(" | ")
                           for line in block["content"].splitlines() if line.startswith("|"))  # fmt: skip
            assert "<script" not in block["content"].replace("\\<", "")


def verb(*given: str) -> object:
    with pytest.raises(SystemExit) as ended:
        cli.main(given)
    return ended.value.code


def test_without_a_login_it_is_built_and_says_how_to_save_it(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = verb("report", "--wandb", "--folder", str(board))
    assert "built but not saved: not logged in to W&B: run `wandb login`" in str(code)
    assert capsys.readouterr().out.count("built 'fgbench") == 4
    assert verb("report", "--wandb", "--dry-run", "--folder", str(board)) == 0


def test_with_a_login_every_report_is_saved(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    saved: list[str] = []

    def save(report: Any) -> Any:
        saved.append(f"{report.entity}/{report.project}: {report.title}")
        return type("Saved", (), {"url": "https://example.org"})

    monkeypatch.setattr(wandb_report.wr.Report, "save", save)
    assert verb("report", "--wandb", "--folder", str(board), "--entity", "us", "--project", "p") == 0
    assert saved[0] == "us/p: fgbench leaderboard"
    assert len(saved) == 4

    def refuse(report: Any) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(wandb_report.wr.Report, "save", refuse)
    assert "did not take the report 'fgbench leaderboard': no route" in str(
        verb("report", "--wandb", "--folder", str(board), "--entity", "us")
    )


def offline(runs: Path, name: str, *parts: str, synced: bool = False) -> Path:
    for part in parts:
        folder = runs / name / "wandb" / f"offline-run-{part}"
        folder.mkdir(parents=True)
        (folder / f"run-{part}.wandb").touch()
        if synced:
            (folder / f"run-{part}.wandb.synced").touch()
    return runs / name


def test_what_waits_is_found_in_the_order_of_the_phases(tmp_path: Path) -> None:
    first = offline(tmp_path, "toybirds/a.s0", "20260102_000000-a", "20260101_000000-a")
    offline(tmp_path, "toybirds/b.s0", "20260101_000000-b", synced=True)
    (tmp_path / "toybirds/c.s0/wandb/offline-run-x").mkdir(parents=True)  # killed before it wrote anything
    found = wandb_sync.waiting(tmp_path)
    assert {run: [part.name[12:20] for part in parts] for run, parts in found.items()} == {
        first: ["20260101", "20260102"]
    }
    assert wandb_sync.waiting(tmp_path, [tmp_path / "toybirds/b.s0"]) == {}
    with pytest.raises(ResultError, match="nowhere: there is no such run folder"):
        wandb_sync.waiting(tmp_path, [tmp_path / "nowhere"])


def test_a_dry_run_names_what_would_be_uploaded_and_no_login_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(tmp_path, "toybirds/a.s0", "20260101_000000-a")
    assert verb("wandb", "sync", "--runs", str(tmp_path), "--dry-run") == 0
    said = capsys.readouterr().out
    assert f"would upload {tmp_path / 'toybirds/a.s0'}: offline-run-20260101_000000-a" in said
    assert account.LOGIN in str(verb("wandb", "sync", "--runs", str(tmp_path)))
    commands: list[list[str]] = []

    def call(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr(subprocess, "run", call)
    assert verb("wandb", "sync", "--runs", str(tmp_path)) == 3
    assert [command[1:4] for command in commands] == [["-m", "wandb", "sync"]]
    assert commands[0][4:] == [str(tmp_path / "toybirds/a.s0/wandb/offline-run-20260101_000000-a")]
