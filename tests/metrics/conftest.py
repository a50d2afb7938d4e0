"""Batches with everything known, for the tests of metrics."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fgbench.types import Batch

MakeBatch = Callable[..., Batch]


def make_batch(
    size: int = 4,
    *,
    height: int = 32,
    width: int = 48,
    landmarks: int = 3,
    boxes: Tensor | None = None,
    frame: Tensor | None = None,
    seed: int = 0,
    hidden: float = 1 / 6,
    target: Tensor | None = None,
) -> Batch:
    """Random boxes and landmarks inside of them, some of the landmarks hidden."""
    random = torch.Generator().manual_seed(seed)
    if boxes is None:
        corner = torch.rand(size, 1, 2, generator=random) * torch.tensor([width, height]) * 0.3
        extent = torch.tensor([width, height]) * (0.3 + 0.4 * torch.rand(size, 1, 2, generator=random))
        boxes = torch.cat([corner, corner + extent], dim=2)
    points = boxes[:, :1, :2] + torch.rand(size, landmarks, 2, generator=random) * (boxes[:, :1, 2:] - boxes[:, :1, :2])
    visible = torch.rand(size, landmarks, generator=random) >= hidden
    identity = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64).expand(size, 6)
    return Batch(
        image=torch.zeros(size, 3, height, width),
        target=torch.randint(0, 3, (size,), generator=random) if target is None else target,
        image_id=torch.arange(size) + 1000 * seed,
        boxes=boxes.float(),
        box_valid=torch.ones(boxes.shape[:2], dtype=torch.bool),
        landmarks=torch.where(visible[..., None], points, 0.0).float(),
        visible=visible,
        frame=identity if frame is None else frame,
        prepared=torch.zeros(size, 0),
        mask=torch.zeros(size, 0),
    )


@pytest.fixture(name="make_batch", scope="session")
def _make_batch() -> MakeBatch:
    return make_batch
