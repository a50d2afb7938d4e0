"""What all tests share: one thread a process (two busy processes on two cores slow each other tenfold), fixed seeds."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch


@pytest.fixture(autouse=True)
def _fixed_seed_and_one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
