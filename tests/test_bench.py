"""Whole runs on a few drawn birds: phases, exactness over processes, kills, failures, grids."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors import safe_open

from fgbench import bench, cells, cli, config, resume, run
from fgbench.backbones import Backbone
from fgbench.cells import ROOT, Cell, ConfigError
from fgbench.config import resolve
from fgbench.predictions import read_predictions
from fgbench.result import read_result

SMALL = [
    *("--data.init_args.num_images", "100", "--data.init_args.num_classes", "5", "--data.init_args.image_size", "96"),
    *("--data.init_args.batch_size", "8", "--data.init_args.eval_batch_size", "7", "--machine.accelerator", "cpu"),
    *("--method.init_args.backbone", "resnet_nano", "--method.init_args.weights", "null"),
    *("--machine.progress", "false", "--trainer.precision", "32-true"),
]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def place(tmp_path, data_root):
    """Overrides that keep everything of a run in a folder of its own."""
    return [
        *SMALL,
        *("--machine.data_root", str(data_root), "--machine.runs", str(tmp_path / "runs")),
        *("--machine.leaderboard", str(tmp_path / "board"), "--machine.logger", "none"),
    ]


@pytest.fixture
def in_process(monkeypatch):
    """Phases in this process instead of one of their own: saves the imports where that is not what is tested."""
    monkeypatch.setattr(bench, "run_phase", lambda phase, folder, held: run.run_phase(phase, folder))


def cell(method, overrides, epochs=1, seed=0):
    return Cell(method, "toybirds", seed, overrides=(*overrides, "--trainer.max_epochs", str(epochs)))


def start(arguments, **kwargs):
    command = [sys.executable, "-m", "fgbench", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)


def fit_here(plan):
    """The fit phase in this process: what ``bench`` starts as another."""
    plan.run_folder.mkdir(parents=True)
    bench.write_config(plan)
    assert run.run_phase("fit", plan.run_folder) == 0


def weights_of(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_one_command_makes_one_traceable_row_and_a_second_repeats_nothing(place, tmp_path):
    arguments = shlex.join([*place, "--trainer.max_epochs", "1", "--machine.logger", "wandb"])
    command = ["make", "bench", "METHOD=baseline", f"ARGS={arguments}", f"FGBENCH_PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accuracy %" in done.stdout
    assert "floor" in done.stdout
    [path] = (tmp_path / "board/results/toybirds").glob("*.json")
    result = read_result(path)
    assert (result.n_train, result.n_eval, result.classes, result.epochs) == (50, 50, 5, 1)
    assert result.landmark_error is None
    assert result.reasons["landmark_error"] == "the method has no parts"
    assert result.track == "custom"  # the command line changed numbers
    assert len(result.history["loss"]) == 1
    assert "loss_weights" not in result.details
    assert result.command.startswith("make bench METHOD=baseline DATASET=toybirds SEED=0 ARGS=")
    predictions = read_predictions(path.with_suffix(".parquet"))
    correct = predictions["predicted"] == predictions["target"]
    assert 100 * correct.mean() == pytest.approx(result.accuracy, abs=1e-3)
    assert len(set(predictions["image_id"])) == 50
    [folder] = (tmp_path / "runs/toybirds").iterdir()
    assert (folder / "figures/examples.png").stat().st_size > 10_000
    assert list(folder.glob("wandb/offline-run-*"))
    row = pd.read_csv(tmp_path / "board/leaderboard.csv").iloc[0]
    assert (row["method"], row["n_eval"]) == ("baseline", 50)

    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    plan = resolve(Cell("baseline", "toybirds", overrides=(*place, "--trainer.max_epochs", "1")))
    assert bench.run_cell(plan).state == "skipped"
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(("method", "precision", "counts"), [
    ("region_grouping", "bf16-mixed", (1, 2, 3)),
    ("baseline", "32-true", (1, 3)),
])  # fmt: skip
def test_any_number_of_processes_gives_identical_digits(method, precision, counts, place, tmp_path):
    plan = resolve(cell(method, [*place, "--trainer.precision", precision]))
    fit_here(plan)
    seen, predictions = {}, {}
    for processes in counts:  # 50 test images divide by neither 3 nor the batch of 7
        folder = tmp_path / f"with{processes}" / plan.run_folder.name
        shutil.copytree(plan.run_folder, folder)
        content = yaml.safe_load((folder / "config.yaml").read_text())
        content["tree"]["machine"]["devices"] = processes
        (folder / "config.yaml").write_text(yaml.safe_dump(content))
        process = start(["test", str(folder)])
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        result = json.loads((folder / "result.json").read_text())
        for name in ("date", "test_images_per_s"):
            del result[name]
        seen[processes] = result
        predictions[processes] = (folder / "predictions.parquet").read_bytes()
    assert seen[1]["n_eval"] == 50
    assert (seen[1]["landmark_error"] or 0) > 0 or method == "baseline"
    for processes in counts[1:]:
        assert seen[processes] == seen[1]
        assert predictions[processes] == predictions[1]


@pytest.mark.parametrize("method", ["baseline", "region_grouping"])
def test_two_processes_train_like_one_with_the_same_global_batch(method, place, tmp_path):
    # 10 validation images in batches of 4: one process has two batches, the other one
    uneven = [
        "--selection",
        "validation",
        "--data.init_args.val_fraction",
        "0.2",
        "--data.init_args.eval_batch_size",
        "4",
    ]
    # float32 and plain SGD: bfloat16 and Adam's division by tiny moments would amplify the order of additions
    plain = ["--trainer.precision", "32-true", "--optim.name", "sgd", "--optim.lr", "0.003", "--optim.warmup", "0"]
    plain += ["--optim.new_layer_factor", "1", "--optim.weight_decay", "5e-4"]
    plain += ["--method.init_args.parts", "5"] if method == "region_grouping" else []
    one = resolve(cell(method, [*place, *uneven, *plain]))
    fit_here(one)
    overrides = one.cell.overrides[:-2]
    two = resolve(cell(method, [*overrides, "--machine.devices", "2", "--machine.runs", str(tmp_path / "2")]))
    assert two.digest == one.digest
    two.run_folder.mkdir(parents=True)
    bench.write_config(two)
    process = start(["fit", str(two.run_folder)])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    start_weights = resolve(cell(method, [*overrides, "--machine.runs", str(tmp_path / "0")], epochs=0))
    fit_here(start_weights)
    alone, together, untrained = (weights_of(plan.run_folder) for plan in (one, two, start_weights))
    learned = {name for name, value in alone.items() if value.dtype.is_floating_point}
    moved = sum(float((alone[name] - untrained[name]).square().sum()) for name in learned) ** 0.5
    apart = sum(float((alone[name] - together[name]).square().sum()) for name in learned) ** 0.5
    assert moved > 0.1  # else the comparison would show nothing
    assert apart < 0.02 * moved, apart / moved  # per-process batch norm gives above 0.1


def test_a_run_killed_at_any_moment_ends_in_the_same_weights_and_one_row(place, tmp_path):
    epochs = 6
    unbroken = resolve(cell("region_grouping", [*place, "--machine.runs", str(tmp_path / "unbroken")], epochs))
    fit_here(unbroken)
    plan = resolve(cell("region_grouping", place, epochs))
    arguments = ["bench", "--methods", "region_grouping", "--datasets", "toybirds", *plan.cell.overrides]
    checkpoint = plan.run_folder / "checkpoints/last.ckpt"
    rng = random.Random(0)
    for _ in range(2):  # once early, once somewhere after another epoch was saved
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = start(arguments, start_new_session=True)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.2))
        assert process.poll() is None, "the run ended before it could be killed"
        os.killpg(os.getpgid(process.pid), signal.SIGKILL)
        process.communicate()
    final = start(arguments)
    output, _ = final.communicate(timeout=300)
    assert final.returncode == 0, output
    expected, got = weights_of(unbroken.run_folder), weights_of(plan.run_folder)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(value, got[name]), f"{name} differs after the kills"
    assert len(list((tmp_path / "board/results").rglob("*.json"))) == 1
    assert len(pd.read_csv(tmp_path / "board/leaderboard.csv")) == 1
    history = read_result(next((tmp_path / "board/results").rglob("*.json"))).history["loss"]
    assert len(history) == epochs
    assert history == json.loads((unbroken.run_folder / "fit.json").read_text())["history"]["loss"]


def test_a_run_whose_parent_is_killed_stays_locked_until_its_phase_ends(place, in_process):
    plan = resolve(cell("baseline", place, epochs=15))
    process = start(["bench", "--methods", "baseline", "--datasets", "toybirds", *plan.cell.overrides])
    while not (plan.run_folder / "checkpoints/last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    assert bench.run_cell(plan).state == "busy"  # the orphan still trains: a second trainer would fight with it
    deadline = time.monotonic() + 120
    while bench.run_cell(plan).state == "busy" and time.monotonic() < deadline:
        time.sleep(0.5)
    process.communicate()
    outcome = bench.run_cell(plan)
    assert outcome.state == "skipped"
    assert len(read_result(Path(outcome.detail)).history["loss"]) == 15


def test_a_run_stopped_between_any_two_files_goes_on(place, tmp_path, in_process):
    plan = resolve(cell("region_grouping", place, epochs=2))
    outcome = bench.run_cell(plan)
    row, weights = read_result(Path(outcome.detail)), weights_of(plan.run_folder)
    published = Path(outcome.detail)
    for gone in (
        [published],  # the predictions were copied, the result not
        [published, plan.run_folder / "result.json"],  # evaluated, not written down
        [published, plan.run_folder / "result.json", plan.run_folder / "fit.json"],  # trained, not written down
    ):
        for file in gone:
            file.unlink()
        assert bench.run_cell(plan).state == "done"
        again = read_result(published)
        assert (again.accuracy, again.landmark_error, again.history) == (row.accuracy, row.landmark_error, row.history)
        assert all(torch.equal(value, weights[name]) for name, value in weights_of(plan.run_folder).items())
        assert len(pd.read_csv(tmp_path / "board/leaderboard.csv")) == 1


def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    resume.WholeCheckpoints().save_checkpoint({"state_dict": {"x": torch.ones(3)}}, path)
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"last\.ckpt: the checkpoint could not be written .*No space left"):
        resume.WholeCheckpoints().save_checkpoint({"state_dict": {"x": torch.zeros(3)}}, path)
    assert torch.equal(resume.read_checkpoint(path)["state_dict"]["x"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_damaged_row_or_checkpoint_stops_its_cell_only(place, tmp_path, capfd, in_process):
    merged, torn, good = (resolve(cell("baseline", place, epochs=0, seed=seed)) for seed in (0, 1, 2))
    target = tmp_path / "board/results/toybirds" / f"{merged.name}.json"
    target.parent.mkdir(parents=True)
    target.write_text("<<<<<<< HEAD")
    checkpoint = torn.run_folder / "checkpoints/last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"PK")
    assert bench.bench([merged.cell, torn.cell, good.cell]) == 1
    said = capfd.readouterr().err
    assert "grid: 1 done, 2 failed" in said
    assert f"{target}: line 1: not JSON" in said
    assert f"{checkpoint}: not a checkpoint of this suite" in said


def test_a_diverging_cell_fails_with_a_report_and_the_grid_goes_on(place, tmp_path, capfd, in_process):
    bad = resolve(cell("baseline", [*place, "--optim.lr", "1e30"]))
    good = resolve(cell("baseline", place, epochs=0))
    status = bench.bench([bad.cell, good.cell])
    assert status == 1
    report = (bad.run_folder / "failure.txt").read_text()
    assert "the loss is not finite since epoch 0" in report.splitlines()[0]
    assert "Traceback" in report
    assert "1 done, 1 failed" in capfd.readouterr().err
    assert [read_result(p).epochs for p in (tmp_path / "board/results").rglob("*.json")] == [0]
    assert not list(bad.run_folder.rglob("*.ckpt"))


def test_no_cell_starts_when_one_is_misconfigured(place, tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        bench.bench([cell("baseline", place), Cell("nowhere", "toybirds")])
    assert not (tmp_path / "runs").exists()


def grid(methods, datasets, losses="cross_entropy", overrides=(), variant=""):
    return cells.grid(methods, datasets, "0", variant, "paper", overrides, losses)


def test_what_all_stands_for_is_left_out_where_it_is_not_defined_and_said(capfd, monkeypatch):
    monkeypatch.setattr(cells, "available", lambda kind: ["cross_entropy", "mc_loss"] if kind == "losses" else ["tdsa"])
    assert [plan.cell.variant for plan in bench.resolve_all(grid("region_grouping", "toybirds", "all"))] == [""]
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("left out: toybirds/region_grouping.mc_loss seed 0: this method shows the loss no map")
    with pytest.raises(ConfigError, match="celeba/tdsa seed 0: TDSA is not defined for a target of attributes"):
        bench.resolve_all(grid("all", "celeba"))  # nothing is left of it


@pytest.mark.parametrize(("asked", "says"), [
    (("region_grouping", "toybirds", "mc_loss"), "no map"),
    (("baseline,dpnet", "toybirds", "arcface"), "takes no LOSS"),
    (("region_grouping", "toybirds", "all", ["--optim.lr", "-1"]), "optim.lr is -1"),
    (("dpnet", "toybirds", "all", (), "nope"), "no variant 'nope'"),
    (("all", "nowhere"), "no dataset 'nowhere'"),
])  # fmt: skip
def test_what_is_named_is_refused_even_beside_an_all(asked, says):
    with pytest.raises(ConfigError, match=says):
        bench.resolve_all(grid(*asked))


def test_no_cell_starts_whose_batch_the_gpus_of_this_machine_cannot_share(place, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    given = [word.replace("cpu", "auto") for word in place]
    with pytest.raises(ConfigError, match="cannot be divided over 3"):
        bench.bench([cell("baseline", [*given, "--data.init_args.batch_size", "32"])])
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def old_cpu(monkeypatch, tmp_path):
    """A machine without GPUs and without bfloat16; its board and runs, as overrides."""
    monkeypatch.setattr(bench, "imitates_bf16", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return ("--machine.leaderboard", str(tmp_path / "board"), "--machine.runs", str(tmp_path / "runs"))


def precision_here(overrides, track="paper"):
    plan = bench.suited(resolve(Cell("region_grouping", "toybirds", 0, "", track, overrides)))
    return plan.tree["trainer"]["precision"]


def test_a_cpu_without_bfloat16_trains_in_32_bits_and_says_so_once(old_cpu, capfd):
    here = [Cell("region_grouping", "toybirds", seed, overrides=old_cpu) for seed in (0, 1)]
    assert bench.bench([*here, Cell("dpnet", "toybirds", overrides=old_cpu)], dry_run=True) == 0
    said = capfd.readouterr()
    assert said.out.count("precision: 32-true") == 3
    assert said.err.count("this CPU computes no bfloat16") == 1
    assert "in 32 bits: toybirds/region_grouping seed 0, toybirds/region_grouping seed 1; this CPU" in said.err


def test_the_row_of_such_a_run_can_be_made_again_anywhere(old_cpu):
    cell = Cell("region_grouping", "toybirds", overrides=old_cpu)
    plan = bench.suited(resolve(cell))
    assert config.is_customised(plan)
    words = shlex.split(plan.cell.command)
    again = Cell("region_grouping", "toybirds", overrides=tuple(shlex.split(words[-1].removeprefix("ARGS="))))
    assert resolve(again).digest == plan.digest != resolve(cell).digest


def test_a_precision_that_is_asked_for_stays(old_cpu, tmp_path):
    (tmp_path / "own.yaml").write_text("trainer:\n  precision: bf16-mixed\n")
    for asked in (
        ("--trainer.precision", "bf16-mixed"),
        ("--trainer.precision=bf16-mixed",),
        ("--trainer.prec", "bf16-mixed"),
        ("--trainer", "{precision: bf16-mixed}"),
        ("--config", str(tmp_path / "own.yaml")),
    ):
        assert precision_here((*old_cpu, *asked)) == "bf16-mixed", asked
    assert precision_here(old_cpu, "bf16") == "bf16-mixed"


def test_what_says_nothing_of_precision_does_not_ask_for_it(old_cpu, tmp_path):
    (tmp_path / "own.yaml").write_text("trainer:\n  max_epochs: 2\n")
    for other in (("--trainer", "{max_epochs: 2}"), ("--config", str(tmp_path / "own.yaml"))):
        assert precision_here((*old_cpu, *other)) == "32-true", other


def test_a_machine_with_bfloat16_or_a_gpu_trains_as_the_files_say(old_cpu, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        assert precision_here(old_cpu) == "bf16-mixed"
        assert precision_here((*old_cpu, "--machine.accelerator", "cpu")) == "32-true"
    monkeypatch.setattr(bench, "imitates_bf16", lambda: False)
    assert precision_here(old_cpu) == "bf16-mixed"


def test_whatever_trains_or_tests_keeps_its_memory(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(run, "keep_memory", lambda: calls.append(1))
    run.make_trainer(resolve(Cell("baseline", "toybirds")).tree, tmp_path, [], None)
    assert calls == [1]


@pytest.mark.parametrize("what", ["row", "checkpoint"])
def test_a_cell_that_is_done_or_begun_stays_unless_it_was_begun_in_32_bits(what, old_cpu):
    plan = resolve(Cell("region_grouping", "toybirds", overrides=old_cpu))
    other = bench.suited(plan)
    path = bench.row_of(plan) if what == "row" else plan.run_folder / "checkpoints/last.ckpt"
    path.parent.mkdir(parents=True)
    path.touch()
    assert bench.suited(plan) is plan
    other.run_folder.mkdir(parents=True)
    assert bench.suited(plan).digest == other.digest


def test_two_benches_do_not_run_one_cell_at_once(place):
    plan = resolve(cell("baseline", place))
    plan.run_folder.mkdir(parents=True)
    with bench.lock(plan.run_folder / ".lock") as mine:
        assert mine is not None
        outcome = bench.run_cell(plan)
    assert outcome.state == "busy"
    assert bench.summarise([outcome]) == 1


def test_a_wrong_or_damaged_checkpoint_is_named(place):
    plan = resolve(cell("baseline", place, epochs=0))
    fit_here(plan)
    checkpoint = plan.run_folder / "checkpoints/last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert run.run_phase("test", plan.run_folder) == 1
    assert f"{checkpoint}: not a checkpoint of this suite" in (plan.run_folder / "failure.txt").read_text()
    torch.save({"state_dict": {"other": torch.zeros(1)}}, checkpoint)
    assert run.run_phase("test", plan.run_folder) == 1
    assert "does not fit the configured method" in (plan.run_folder / "failure.txt").read_text()
    checkpoint.unlink()
    assert run.run_phase("test", plan.run_folder) == 1
    assert "the checkpoint is missing" in (plan.run_folder / "failure.txt").read_text()


@pytest.mark.parametrize("selection", ["validation", "legacy_best_on_test"])
def test_an_epoch_can_be_selected_and_the_row_says_how(selection, place, in_process):
    extra = ["--selection", selection]
    extra += ["--data.init_args.val_fraction", "0.2"] if selection == "validation" else []
    plan = resolve(cell("baseline", [*place, *extra], epochs=2))
    outcome = bench.run_cell(plan)
    assert outcome.state == "done", outcome.detail
    result = read_result(Path(outcome.detail))
    assert result.selection == selection
    assert result.n_train == (40 if selection == "validation" else 50)
    best = torch.load(plan.run_folder / "checkpoints/best.ckpt", weights_only=True)
    last = torch.load(plan.run_folder / "checkpoints/last.ckpt", weights_only=True)
    [kept] = [state for name, state in last["callbacks"].items() if "val/accuracy" in name]
    assert kept["best_model_path"].endswith("best.ckpt")  # what a resumed run compares its epochs with
    assert best["epoch"] <= last["epoch"] == 1


def test_a_trained_backbone_is_where_another_run_starts(place, tmp_path, capsys):
    plan = resolve(cell("baseline", place))
    file = tmp_path / "nano.safetensors"
    plan.run_folder.mkdir(parents=True)
    bench.write_config(plan)
    assert status_of("weights", plan.run_folder, file) == 1
    assert "not trained to its end" in capsys.readouterr().err
    assert run.run_phase("fit", plan.run_folder) == 0
    assert status_of("weights", plan.run_folder, file) == 0
    trained = {k.removeprefix("backbone."): v for k, v in weights_of(plan.run_folder).items() if "backbone" in k}
    found = Backbone("resnet_nano", str(file)).state_dict()
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], trained[name]) for name in found)
    with safe_open(file, "pt") as content:
        assert plan.name in content.metadata()["source"]
    other = resolve(cell("region_grouping", [*place, "--method.init_args.weights", str(file)]))
    assert config.instantiate(other.tree)[1].backbone.weight_tag.startswith("file:nano.safetensors@")


def status_of(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code
