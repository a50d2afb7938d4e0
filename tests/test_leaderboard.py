"""The leaderboard is what the result files say, whoever writes when."""

import csv
import io
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fgbench import cli, leaderboard
from fgbench.data import cub200
from fgbench.leaderboard import files
from fgbench.report import terminal
from fgbench.result import Result, ResultError, columns, read_result, write_result

PAPERS = """paper,table,page,method,variant,backbone,resolution,dataset,subset,metric,value,unit,note,method_file
"A & B, 2020",3,,Region Grouping,,resnet101,448,cub200,,accuracy,87.30,%,,region_grouping
"C, 2021",1,,Region Grouping,,resnet101,,cub200,,accuracy,80.0,%,quoted,region_grouping
"A & B, 2020",4,,Region Grouping,,resnet101,448,cub200,class 001,landmark_error,15.6,%,,region_grouping
"""


CUB = {"dataset": "cub200", "classes": 200}


def make_result(**changes: object) -> Result:
    values: dict[str, object] = {
        "dataset": "toybirds", "classes": 10, "method": "region_grouping", "backbone": "resnet101", "weights": "none",
        "resolution": 64, "track": "default", "seed": 0, "selection": "last", "epochs": 3, "n_train": 100, "n_eval": 41,
        "accuracy": 91.5, "class_accuracy": 90.25, "landmark_error": 12.0, "landmark_floor": 30.0,
        "pointing_error": 2.0, "pointing_floor": 9.5, "params_m": 0.5, "gmacs": 0.01, "train_images_per_s": 100.0,
        "test_images_per_s": 300.0, "peak_memory_gb": 0.5, "train_hours": 0.1, "gflops": 0.021,
        "devices": 1, "device_name": "a CPU",
        "precision": "32-true", "energy_kwh": 0.25,
        "config": "methods/region_grouping.yaml", "config_digest": "0123456789ab",
        "data_digest": "abcdef", "commit": "deadbeef", "versions": {"torch": "2.11.0", "numpy": "2"},
        "date": "2026-01-02T03:04:05Z", "command": "fgbench bench",
    }  # fmt: skip
    return Result(**(values | changes))


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "leaderboard.csv").read_text())))


def test_every_result_is_a_row_in_a_fixed_order(tmp_path: Path) -> None:
    results = [
        make_result(dataset=dataset, method=method, seed=seed)
        for dataset in ("toybirds", "cub200") for method in ("tasn", "baseline") for seed in (10, 2)
    ]  # fmt: skip
    for result in results:
        write_result(result, tmp_path / "results")
    rebuilt = leaderboard.rebuild(tmp_path)
    assert not rebuilt.damaged
    found = [(row["dataset"], row["method"], row["seed"]) for row in rows(tmp_path)]
    assert found == [
        ("cub200", "baseline", "2"), ("cub200", "baseline", "10"), ("cub200", "tasn", "2"), ("cub200", "tasn", "10"),
        ("toybirds", "baseline", "2"), ("toybirds", "baseline", "10"),
        ("toybirds", "tasn", "2"), ("toybirds", "tasn", "10"),
    ]  # fmt: skip
    assert leaderboard.to_csv(list(rebuilt.results)) == (tmp_path / "leaderboard.csv").read_text()


def test_cells_have_four_digits_and_empty_is_empty(tmp_path: Path) -> None:
    reasons = {"pointing_error": "no boxes", "pointing_floor": "no boxes"}
    result = make_result(accuracy=200 / 3, pointing_error=None, pointing_floor=None, reasons=reasons)
    write_result(result, tmp_path / "results")
    leaderboard.rebuild(tmp_path)
    (row,) = rows(tmp_path)
    assert list(row) == [column.name for column in columns()]
    assert (row["accuracy"], row["pointing_error"], row["versions"]) == ("66.6667", "", "numpy 2; torch 2.11.0")
    frame = leaderboard.load(tmp_path)
    assert frame["accuracy"][0] == 66.6667
    assert math.isnan(frame["pointing_error"][0])
    assert frame["variant"][0] == ""
    assert frame["seed"][0] == 0


def test_a_damaged_file_is_named_and_the_others_make_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_result(make_result(), tmp_path / "results")
    torn = good.with_name("tasn.01234567.s0.json")
    torn.write_bytes(good.read_bytes()[:-20])
    (good.parent / ".tasn.01234567.s1.json.77.tmp").write_text("{")
    rebuilt = leaderboard.rebuild(tmp_path)
    assert list(rebuilt.damaged) == [torn]
    assert str(torn) in rebuilt.damaged[torn]
    for status in (1, 0):
        with pytest.raises(SystemExit) as ended:
            cli.main(["leaderboard", "--folder", str(tmp_path)])
        assert ended.value.code == status
        assert (str(torn) in capsys.readouterr().err) == bool(status)
        torn.unlink(missing_ok=True)
    assert [row["method"] for row in rows(tmp_path)] == ["region_grouping"]


def test_no_results_make_a_header_and_a_page(tmp_path: Path) -> None:
    assert leaderboard.rebuild(tmp_path).results == ()
    assert len(leaderboard.load(tmp_path)) == 0
    assert "No results yet" in (tmp_path / "README.md").read_text()


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "leaderboard.csv").write_text("dataset,classes\n")
    with pytest.raises(ResultError, match="column method is missing"):
        leaderboard.load(tmp_path)


def table_of(page: str, heading: str) -> list[dict[str, str]]:
    """The first table below a heading of a markdown page."""
    lines = page.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    width = len(table[0])
    end = next((i for i, row in enumerate(table) if i > 1 and row[0] == "paper"), len(table))
    assert all(len(row) == width for row in table[:end])
    return [dict(zip(table[0], row, strict=True)) for row in table[2:end]]


def test_the_page_has_a_row_per_setting_with_mean_and_deviation(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((80.0, 82.0, 87.0)):  # mean 83, deviations -3 -1 4, variance 26 / 2
        write_result(make_result(**CUB, seed=seed, accuracy=accuracy), tmp_path / "results")
    empty = {"landmark_error": None, "reasons": {"landmark_error": "none"}}
    write_result(make_result(**CUB, method="baseline", accuracy=99.0, **empty), tmp_path / "results")
    write_result(
        make_result(**CUB, method="tasn", accuracy=1.0, selection="legacy_best_on_test"),
        tmp_path / "results",
    )
    peeked = CUB | {"method": "ssn", "selection": "legacy_best_on_test", "accuracy": 0.5}
    for seed, curve in enumerate(([0.25, 0.5, 0.125], [0.5, 0.25, 0.375])):
        write_result(make_result(**peeked, seed=seed, history={"val_accuracy": curve}), tmp_path / "results")
    (tmp_path / "published.csv").write_text(PAPERS)
    leaderboard.rebuild(tmp_path)
    page = (tmp_path / "README.md").read_text()
    table = table_of(page, "cub200")
    assert [row["method"] for row in table] == ["baseline", "region_grouping", "tasn", "ssn"]
    assert table[1]["accuracy %"] == f"83.00 ± {13**0.5:.2f}"
    assert table[1]["seeds"] == "3"
    assert table[0]["accuracy %"] == "99.00"
    assert table[0]["landmark error / floor %"] == "- / 30.00"
    assert table[2]["selection"] == "**chosen on the test set**"
    assert table[3]["selection"] == "**chosen on the test set** (last epoch 0.25 ± 0.18)"
    assert table[1]["selection"] == "last"
    assert "87.30" in page.split("<details>")[1]
    assert "87.30" not in page.split("<details>")[0]
    assert {row["column"] for row in table_of(page, "Columns of leaderboard.csv")} == {c.name for c in columns()}


def test_settings_that_differ_are_not_averaged() -> None:
    runs = [make_result(), make_result(seed=1, config_digest="1" * 12), make_result(seed=2, resolution=128)]
    assert [len(entry.runs) for entry in leaderboard.entries(runs)] == [1, 1, 1]


def test_another_track_or_number_of_classes_is_ranked_in_a_table_of_its_own(tmp_path: Path) -> None:
    for changes in (
        {"method": "tasn", "accuracy": 80.0},
        {"method": "baseline", "accuracy": 70.0},
        {"method": "easy", "accuracy": 99.0, "classes": 20},
        {"method": "quick", "accuracy": 98.0, "classes": 20, "track": "cub20_224"},
        {"method": "dataset", "accuracy": 97.0, "dataset": "toybirds"},
    ):
        write_result(make_result(**(CUB | {"track": "paper"} | changes)), tmp_path / "results")
    (tmp_path / "published.csv").write_text(PAPERS)
    leaderboard.rebuild(tmp_path)
    page = (tmp_path / "README.md").read_text().split("\n## cub200\n")[1].split("\n## toybirds\n")[0]
    found = {}
    for section in page.split("<details>")[0].split("\n### ")[1:]:
        heading, table = section.split("\n")[0], table_of(f"## {section}", section.split("\n")[0])
        found[heading] = [(row["method"], row["track"], row["classes"]) for row in table]
    assert found == {
        "track cub20_224, classes 20": [("quick", "cub20_224", "20")],
        "track paper, classes 200": [("tasn", "paper", "200"), ("baseline", "paper", "200")],
        "track paper, classes 20": [("easy", "paper", "20")],
    }
    assert page.count("<details>") == 1


CROWD = """
import dataclasses, fcntl, os, pathlib, sys, time
from fgbench import leaderboard
from fgbench.leaderboard import files
from fgbench.result import read_result, write_result

def refuse(*given):
    raise OSError("this file system has no locks")

fcntl.flock = fcntl.lockf = fcntl.fcntl = refuse
folder, adders, each, builders = pathlib.Path(sys.argv[1]), 16, 50, 2
first = read_result(next((folder / "results" / "toybirds").glob("seed.*.json")))
gate_in, gate_out = os.pipe()

def child(work):
    number = os.fork()
    if number:
        return number
    os.close(gate_out)
    os.read(gate_in, 1)  # until all are there
    try:
        work()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)

def add(worker):
    for seed in range(each):
        write_result(dataclasses.replace(first, method=f"worker{worker}", seed=seed), folder / "results")
    # one that has written builds, as bench does; others may be at it
    leaderboard.rebuild(folder) if worker % 8 == 0 else None

def build():
    found = 0
    while found < adders * each + 1:
        found = len(leaderboard.rebuild(folder).results)
        text = (folder / "leaderboard.csv").read_text()
        assert text.endswith("\\n") and text.startswith("dataset,"), "torn"

os.fsync = lambda descriptor: None  # of a power cut nothing is tested here
children = [child(lambda worker=worker: add(worker)) for worker in range(adders)]
children += [child(build) for _ in range(builders)]
os.close(gate_out)
sys.exit(max(os.waitpid(number, 0)[1] for number in children) != 0)
"""


def test_sixteen_processes_that_add_while_others_rebuild_lose_nothing(tmp_path: Path) -> None:
    """50 results each, no locks; nobody rebuilds when all is over, and still the tables hold everything."""
    write_result(make_result(method="seed"), tmp_path / "results")
    subprocess.run([sys.executable, "-c", CROWD, str(tmp_path)], check=True, timeout=300)
    assert len(rows(tmp_path)) == 16 * 50 + 1
    before = [(tmp_path / name).read_bytes() for name in ("leaderboard.csv", "README.md")]
    scratch = tmp_path / "scratch"
    shutil.copytree(tmp_path / "results", scratch / "results")
    leaderboard.rebuild(scratch)
    assert before == [(scratch / name).read_bytes() for name in ("leaderboard.csv", "README.md")]
    shutil.rmtree(scratch)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "leaderboard.csv", "results"]
    assert not [path for path in (tmp_path / "results").rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("at", range(6))
def test_rebuilding_may_be_overtaken_at_any_step(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process adds a result and rebuilds between any two steps of the first one."""
    write_result(make_result(), tmp_path / "results")
    steps = []

    def between(original):  # type: ignore[no-untyped-def]
        def step(*given, **options):  # type: ignore[no-untyped-def]
            steps.append(1)
            if len(steps) == at + 1:
                monkeypatch.undo()
                write_result(make_result(seed=1), tmp_path / "results")
                leaderboard.rebuild(tmp_path)
            return original(*given, **options)

        return step

    for name in ("_snapshot", "_read", "write_atomically"):
        monkeypatch.setattr(files, name, between(getattr(files, name)))
    leaderboard.rebuild(tmp_path)
    if at < 5:  # snapshot, read, CSV, page, snapshot; a later step there is not
        assert [row["seed"] for row in rows(tmp_path)] == ["0", "1"]
        assert len(steps) == at + 1
    else:
        assert (len(steps), [row["seed"] for row in rows(tmp_path)]) == (5, ["0"])


def test_a_result_added_while_the_page_is_made_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_result(make_result(), tmp_path / "results")
    original, late = files.to_csv, [make_result(seed=1), make_result(seed=2)]

    def slow_to_csv(results: list[Result]) -> str:
        if late:
            write_result(late.pop(), tmp_path / "results")
        return original(results)

    monkeypatch.setattr(files, "to_csv", slow_to_csv)
    leaderboard.rebuild(tmp_path)
    assert [row["seed"] for row in rows(tmp_path)] == ["0", "1", "2"]


def show(result: Result, folder: Path, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, no_color=True, force_terminal=False)
    with console.capture() as capture:
        terminal.show(read_result(folder / "results" / result.dataset / f"{result.name}.json"), folder, console)
    return capture.get()


def test_the_terminal_shows_run_baseline_floor_and_paper(tmp_path: Path) -> None:
    (tmp_path / "published.csv").write_text(PAPERS)
    result = make_result(
        **CUB, pointing_error=None, pointing_floor=None,
        reasons={"pointing_error": "no boxes are annotated", "pointing_floor": "no boxes are annotated"},
        floors={"landmark_error": {"mean landmark": 30.0, "random parts": 31.5}},
    )  # fmt: skip
    baselines = [
        make_result(**CUB, method="baseline", backbone="resnet18", accuracy=11.0),
        make_result(**CUB, method="baseline", seed=1, accuracy=88.75),
        make_result(method="baseline", accuracy=12.0),
        make_result(**CUB, method="baseline", track="matched", accuracy=13.0, config_digest="2" * 12),
    ]
    for other in [result, *baselines]:
        write_result(other, tmp_path / "results")
    for width in (60, 120):
        text = show(result, tmp_path, width)
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= width
        (accuracy,) = [line.split() for line in text.splitlines() if line.strip().startswith("accuracy")]
        assert accuracy == ["accuracy", "%", "91.50", "88.75", "87.30"]
        (landmark,) = [line.split() for line in text.splitlines() if line.strip().startswith("landmark")]
        assert landmark == ["landmark", "error", "%", "12.00", "12.00", "30.00"]
        flat = re.sub(r"\s+", " ", text)
        assert "no pointing error: no boxes are annotated" in flat
        assert "baseline: differs in seed 1" in flat
        assert "mean landmark 30.00, random parts 31.50" in flat
        assert "paper: A & B, 2020, table 3 (resnet101, 448 px)" in flat


@pytest.mark.parametrize(
    ("dataset", "options", "shown"),
    [
        ("celeba", {}, True),
        ("celeba", {"images": None}, True),
        ("celeba", {"images": 500}, False),
        ("celeba_wild", {"test_list": "landmarks"}, True),
        ("celeba_wild", {"test_list": "attributes"}, False),
    ],
)
def test_papers_stand_beside_rows_of_all_their_test_images_only(
    dataset: str, options: dict[str, object], shown: bool, tmp_path: Path
) -> None:
    line = f'"A & B, 2020",2,,Region Grouping,,resnet101,256,{dataset},,landmark_error,8.4,%,,region_grouping\n'
    (tmp_path / "published.csv").write_text(PAPERS.splitlines(keepends=True)[0] + line)
    papers = leaderboard.published(tmp_path)
    resolved = {"data": {"init_args": options}}
    result = make_result(dataset=dataset, classes=40, resolved=resolved)
    assert (terminal.find_published(result, papers, ["landmark_error"]) is not None) == shown


def test_the_baseline_is_not_compared_with_itself(tmp_path: Path) -> None:
    results = [make_result(method="baseline"), make_result(method="baseline", seed=3)]
    for result in results:
        write_result(result, tmp_path / "results")
    assert "baseline:" not in show(results[1], tmp_path, 80)


@pytest.mark.parametrize("change", [{"classes": 20}, {"data_digest": "of 20"}, {"track": "cub20_224"}])
def test_a_baseline_on_other_data_or_another_track_is_no_baseline(change: dict[str, object]) -> None:
    result = make_result(**CUB)
    same = make_result(**CUB, method="baseline", backbone="resnet18")
    assert (
        terminal.find_baseline(result, [result, make_result(**(CUB | {"method": "baseline"} | change)), same]) is same
    )


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({}, "the same backbone, weights, resolution, epochs, selection, n_train, seed"),
        ({"seed": 4}, "differs in seed 4"),
        ({"selection": "validation", "n_train": 90}, "differs in selection validation, n_train 90"),
    ],
)
def test_the_note_on_the_baseline_is_true(tmp_path: Path, change: dict[str, object], note: str) -> None:
    result = make_result()
    for run in (result, make_result(method="baseline", **change)):
        write_result(run, tmp_path / "results")
    assert f"baseline: {note}\n" in show(result, tmp_path, 120)


def test_only_the_whole_dataset_stands_beside_a_paper(tmp_path: Path) -> None:
    (tmp_path / "published.csv").write_text(PAPERS)
    papers = leaderboard.published(tmp_path)
    for track in ("paper", "custom"):
        whole, part = make_result(**CUB, track=track), make_result(dataset="cub200", classes=20, track=track)
        assert (terminal.find_published(whole, papers, ["accuracy"]) or {})["printed"] == "87.30"
        assert terminal.find_published(part, papers, ["accuracy"]) is None


def test_the_whole_of_every_published_dataset_is_known() -> None:
    papers = leaderboard.published(Path(__file__).parents[1] / "leaderboard")
    assert set(papers["dataset"]) == leaderboard.FULL_CLASSES.keys()
    assert leaderboard.FULL_CLASSES["cub200"] == cub200.CLASSES
