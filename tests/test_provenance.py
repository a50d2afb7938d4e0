"""A number's origin is stated."""

import re
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from fgbench import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout


def test_a_commit_is_dirty_when_code_changed_but_not_when_results_did(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "fgbench").mkdir()
    (tmp_path / "fgbench" / "a.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    name = git(tmp_path, "rev-parse", "HEAD")[:12]
    (tmp_path / "leaderboard").mkdir()
    (tmp_path / "leaderboard" / "new.json").write_text("{}")
    assert str(provenance.commit(tmp_path)) == name
    (tmp_path / "fgbench" / "new.py").write_text("2")
    assert str(provenance.commit(tmp_path)) == f"{name}+dirty"
    (tmp_path / "fgbench" / "new.py").unlink()
    (tmp_path / "fgbench" / "a.py").write_text("3")
    assert provenance.commit(tmp_path) == (name, True)


def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(provenance.commit(tmp_path)) == "unknown"
    monkeypatch.setenv("PATH", "")
    assert str(provenance.commit()) == "unknown"


def test_versions_and_device_are_named() -> None:
    assert provenance.versions()["torch"] == torch.__version__
    assert re.search(r"\w{3}", provenance.device_name(torch.device("cpu")))
    assert provenance.environment()["python"].startswith("3.")


def test_parameters_count_and_buffers_do_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Linear(8, 10))
    model[0].requires_grad_(False)  # a frozen network counts: it is part of what a prediction costs
    assert provenance.params_m(model) * 1e6 == pytest.approx(8 * 27 + 16 + 90)
