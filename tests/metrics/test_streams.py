"""Accuracy of further logits, counted by hand."""

import pytest
import torch

from fgbench.metrics.streams import Streams
from fgbench.types import Batch, Output


def batch_of(target):
    return Batch(torch.empty(0), target, *[torch.empty(0)] * 6)


def test_each_stream_has_its_share_of_right_classes_over_all_batches():
    metric = Streams(("global", "local"), "class")
    logits = torch.zeros(3, 2, 4)
    logits[[0, 1, 2], 0, [1, 2, 3]] = 1.0  # global: right, right, wrong
    logits[[0, 1, 2], 1, [1, 0, 3]] = 1.0  # local: right, wrong, wrong
    target = torch.tensor([1, 2, 0])
    for rows in ([0], [1, 2]):
        batch = batch_of(target[rows])
        metric.update(metric.columns(Output(logits[rows, 0], streams=logits[rows]), batch), batch)
    found = metric.compute()
    assert float(found["accuracy_global"]) == pytest.approx(200 / 3)
    assert float(found["accuracy_local"]) == pytest.approx(100 / 3)


def test_attributes_are_counted_one_by_one():
    metric = Streams(("only",), "attributes")
    batch = batch_of(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    logits = torch.tensor([[[2.0, 3.0]], [[-1.0, -1.0]]])
    metric.update(metric.columns(Output(logits[:, 0], streams=logits), batch), batch)
    assert float(metric.compute()["accuracy_only"]) == 75


def test_streams_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="does not give the 2 logits"):
        Streams(("a", "b"), "class").columns(Output(torch.zeros(1, 2)), batch_of(torch.zeros(1).long()))
