"""Datasets small enough for every test: the fakes opened, and toybirds of 48 px."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FAKES
from fakes.toybirds import ARGUMENTS

import fgbench.data


@pytest.fixture
def fake_copy(fake_root, tmp_path: Path) -> Callable[[str], Path]:
    """Root of a dataset's fake that a test may damage."""

    def root(name: str) -> Path:
        return Path(shutil.copytree(fake_root(name), tmp_path / "damaged"))

    return root


@pytest.fixture(scope="session")
def open_fake() -> Callable:
    """The datamodule of a fake, ready to use."""

    def make(name: str, root: Path, **kwargs) -> fgbench.data.BenchDataModule:
        kind = getattr(fgbench.data, fgbench.data.DATASETS[name])
        data = kind(**{"root": str(root), **FAKES[name].arguments, **kwargs})
        data.prepare_data()
        data.setup("fit")
        return data

    return make


@pytest.fixture(scope="session")
def toy_root(fake_root) -> Path:
    """A folder in which the small toybirds are drawn once for all tests."""
    return fake_root("toybirds")


@pytest.fixture(scope="session")
def toybirds(toy_root: Path, open_fake) -> Callable:
    """Datamodules of 36 toybirds (3 species, 18 train, 18 test, 48 px), ready to use."""

    def make(**kwargs):
        return open_fake("toybirds", toy_root, **{**ARGUMENTS, **kwargs})

    return make


@pytest.fixture
def cub(fake_copy) -> Path:
    """A root with a fake ``CUB_200_2011``: 3 classes of 4 JPEG images, non-square, the third grey; 15 parts."""
    return fake_copy("cub200")


@pytest.fixture
def inat(fake_copy) -> Path:
    """A root with a fake ``inat2017``: 4 classes, 12 train and 8 test images; boxes for the birds, one in val."""
    return fake_copy("inat2017")
