"""Small networks for explainers, in float64 so that they can be compared with loops."""

import pytest
import torch
from torch import nn

from fgbench.methods import METHODS, Optim

SMALL = {
    "ssn": {"attention_size": 64, "sampled": 64},
    "tasn": {"attention_size": 64, "sampled": 64},
    "dpnet": {"regions": 6, "parts_per_class": 2, "shown_parts": 3},
    "focus_longer": {"hidden": 24, "steps": 2, "patch_size": 48, "patch_count": 3, "patches": "random"},
}


def make(name="baseline", target="class", outputs=5, **kwargs):
    torch.manual_seed(3)
    kwargs = {"backbone": "resnet_nano", "weights": None, **SMALL.get(name, {}), **kwargs}
    method = METHODS[name](outputs, target, Optim(), **kwargs)
    for module in method.modules():  # fresh residual blocks are the identity: let everything count
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.1, 0.3)
            module.running_mean.uniform_(-0.2, 0.2)
    return method.eval()


@pytest.fixture
def network():
    return make


@pytest.fixture
def images():
    return torch.randn(3, 3, 64, 80, generator=torch.Generator().manual_seed(5))
