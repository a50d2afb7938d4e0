"""A number's origin is stated, and its cost is counted as a hand would."""

import re
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

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


class Tiny(nn.Module):
    """Every kind of product once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.grouped(self.conv(image)))
        tokens = x.flatten(2).transpose(1, 2)
        tokens = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.linear(tokens.mean(1))


def test_gmacs_equal_a_count_by_hand() -> None:
    model = Tiny()
    cells = 4 * 6
    conv, grouped, attention, linear = cells * 8 * 27, cells * 8 * 2 * 9, 2 * cells * cells * 8, 8 * 10
    assert provenance.gmacs(model, (8, 12)) * 1e9 == pytest.approx(conv + grouped + attention + linear, rel=1e-12)
    assert provenance.params_m(model) * 1e6 == pytest.approx(8 * 27 + 8 * 2 * 9 + 8 + 16 + 90)


def test_gmacs_of_known_networks() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(weights=None)
    assert provenance.gmacs(model, (224, 224)) == pytest.approx(1.814, abs=0.005)  # He et al. 2016: 1.8 10^9
    assert provenance.params_m(model) == pytest.approx(11.69, abs=0.005)


def test_counting_leaves_the_module_as_it_was() -> None:
    model = Tiny().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    provenance.gmacs(model, (8, 8))
    assert model.training
    assert not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
