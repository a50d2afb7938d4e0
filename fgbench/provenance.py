"""Where a number comes from: the code, the packages, the device.

May import: the standard library, torch. Reads: git, the installed packages, the machine. Nothing
here names the machine or its user.
"""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
CODE = ("fgbench", "experiments", "pyproject.toml", "requirements.lock")  # changes of these can change a number
PACKAGES = (
    "albumentations",
    "fgbench",
    "lightning",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "scipy",
    "torch",
    "torchmetrics",
    "torchvision",
)


class Commit(NamedTuple):
    """State of the code: the commit, ``unknown`` without git, and whether files changed since."""

    name: str
    dirty: bool

    def __str__(self) -> str:
        return f"{self.name}+dirty" if self.dirty else self.name


def commit(root: Path = ROOT) -> Commit:
    """The commit of the code in ``root``; new files count as changes, results do not."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=60
        ).stdout

    try:
        return Commit(git("rev-parse", "HEAD").strip()[:12], bool(git("status", "--porcelain", "--", *CODE).strip()))
    except (OSError, subprocess.SubprocessError):
        return Commit("unknown", False)


def versions() -> dict[str, str]:
    """Versions of the packages that make numbers; those that are not installed are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "torch": str(torch.__version__)}  # with the build, which the metadata leaves out


def device_name(device: torch.device) -> str:
    """What kind of device it is, in its maker's words; never a host's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine() or "CPU"


def environment() -> dict[str, str]:
    """Python, system, and the libraries below torch."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cuda": torch.version.cuda or "",
        "cudnn": str(torch.backends.cudnn.version() or "") if torch.cuda.is_available() else "",
        "threads": str(torch.get_num_threads()),
        "tf32": f"matmul {torch.backends.cuda.matmul.allow_tf32}, cudnn {torch.backends.cudnn.allow_tf32}",
    }


def params_m(module: nn.Module) -> float:
    """Parameters in millions, trained or frozen; buffers do not count."""
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6
