"""What all tests share: one thread a process (two busy ones on two cores slow each other tenfold), seeds, fakes."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fakes import FAKES


@pytest.fixture(autouse=True)
def _fixed_seed_and_one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def fake_root(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Root of a dataset's fake, written once for all tests, which leave it as it is."""
    roots: dict[str, Path] = {}

    def root(name: str) -> Path:
        if name not in roots:
            roots[name] = tmp_path_factory.mktemp(name)
            FAKES[name].write(roots[name])
        return roots[name]

    return root
