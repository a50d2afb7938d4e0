"""The project as a whole: what is committed, what is pinned, what `make` offers."""

import argparse
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fgbench import options

ROOT = Path(__file__).resolve().parents[1]


def load_bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "tools/bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("lock", ["requirements.lock", "tools/bootstrap.lock"])
def test_the_lock_pins_every_package_by_hash_and_names_no_host(lock):
    text = (ROOT / lock).read_text()
    assert "://" not in text
    requirements = re.split(r"\n(?=\S)", text.strip())
    for requirement in requirements:
        assert re.match(r"[A-Za-z0-9_.-]+==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement


def test_the_environment_is_the_lock():
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+) \\$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    for name in ("torch", "torchvision", "lightning", "torchmetrics", "albumentations"):
        assert importlib.metadata.version(name).split("+")[0] == pinned[name]
    assert pinned["lightning"] not in ("2.6.2", "2.6.3")  # malicious releases


def test_make_help_lists_every_verb_that_is_there():
    makefile = (ROOT / "Makefile").read_text()
    [phony] = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([a-z-]+) ", shown, re.MULTILINE)) == set(phony.split())


def test_every_verb_of_the_command_is_a_make_target_or_named_by_make_help():
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [line] = [line for line in shown.splitlines() if "-m fgbench --help" in line]
    action = next(a for a in options.build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    made_by_others = {"prepare", "fit", "test", "wandb"}  # bench calls the first three; make wandb-sync
    targets = set(re.findall(r"^  make ([a-z-]+) ", shown, re.MULTILINE))
    assert set(action.choices) - targets - made_by_others == set(re.findall(r"[a-z]+", line.split("verbs:")[1]))


def test_make_passes_the_cell_on():
    command = ["make", "-n", "bench", "METHOD=tasn", "DATASET=cub200", "SEED=3", "ARGS=--optim.lr 0.1"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "bench --methods tasn --datasets cub200 --seeds 3 --optim.lr 0.1" in shown


def test_make_passes_the_loss_on():
    command = ["make", "-n", "bench", "METHOD=baseline", "LOSS=arcface", "DATASET=cub200"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "bench --methods baseline --datasets cub200 --seeds 0 --losses arcface" in shown


def test_an_interpreter_with_the_packages_is_used_as_it_is():
    command = ["make", "-n", "bench", "FGBENCH_PYTHON=some-python"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "some-python -m fgbench bench" in shown
    assert "bootstrap" not in shown


def test_the_environment_is_stale_when_what_it_was_made_from_changes(tmp_path, monkeypatch):
    bootstrap = load_bootstrap()
    for name in ("requirements.lock", "pyproject.toml", "tools/bootstrap.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(bootstrap, "PYTHON", Path(sys.executable))
    key = bootstrap.key_of(sys.executable)
    assert not bootstrap.is_fresh(key)
    (tmp_path / "stamp").write_text(key)
    assert bootstrap.is_fresh(bootstrap.key_of(sys.executable))
    (tmp_path / "requirements.lock").write_text("another")
    assert not bootstrap.is_fresh(bootstrap.key_of(sys.executable))


def test_a_full_disk_is_said_before_anything_is_installed(monkeypatch):
    bootstrap = load_bootstrap()
    monkeypatch.setattr(bootstrap, "DISK_GB", 10**9)
    monkeypatch.setattr(bootstrap, "run", lambda *command: pytest.fail(f"ran {command}"))
    with pytest.raises(SystemExit, match="GB free; make room"):
        bootstrap.install(sys.executable)


def test_an_interpreter_of_another_version_or_none_is_not_taken():
    bootstrap = load_bootstrap()
    assert bootstrap.version_of(sys.executable) == sys.version_info[:2]
    assert bootstrap.version_of(str(ROOT / "no-such-python")) is None
