import copy

import pytest
import torch
from torch import nn

from fgbench.layers.batchnorm import SyncBatchNorm, convert_sync_batchnorm
from fgbench.layers.distributed import gather, world_size


@pytest.mark.parametrize("kwargs", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
@pytest.mark.parametrize("training", [True, False])
def test_without_a_process_group_it_is_torchs_batch_norm(kwargs, training):
    plain = nn.BatchNorm2d(4, **kwargs).train(training)
    synced = convert_sync_batchnorm(copy.deepcopy(plain))
    assert isinstance(synced, SyncBatchNorm)
    x = torch.randn(6, 4, 3, 3) * 2 + 1
    for _ in range(3):
        torch.testing.assert_close(synced(x), plain(x), rtol=0, atol=0)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, synced.state_dict()[name])


def test_conversion_keeps_parameters_names_and_mode():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), nn.BatchNorm2d(4)).eval()
    parameters = dict(net.named_parameters())
    converted = convert_sync_batchnorm(net)
    assert all(parameter is parameters[name] for name, parameter in converted.named_parameters())
    assert isinstance(converted[1][0], SyncBatchNorm)
    assert not converted[1][0].training
    assert convert_sync_batchnorm(converted)[2] is converted[2]


def test_one_dimensional_rows_are_converted_too():
    assert convert_sync_batchnorm(nn.BatchNorm1d(5))(torch.randn(7, 5)).shape == (7, 5)


def test_one_process_gathers_its_own_rows():
    x = torch.randn(3, 2, requires_grad=True)
    assert world_size() == 1
    assert gather(x) is x
