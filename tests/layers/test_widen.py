"""Networks with other widths keep what they are otherwise."""

import pytest
import torch
from torch import nn

from fgbench.backbones import Backbone
from fgbench.layers.embedding import Embedding
from fgbench.layers.widen import keep_resolution, widen_input, widen_stage


@pytest.mark.parametrize("arch", ["vgg16_bn", "vgg16", "resnet18", "resnet_tiny", "resnet_nano"])
def test_a_widened_stage_and_the_next_one_fit_together(arch):
    backbone = Backbone(arch)
    widen_stage(backbone.stages[-2], 30)
    widen_input(backbone.stages[-1], 30)
    widen_stage(backbone.stages[-1], 12)
    image, shapes = torch.randn(2, 3, 64, 64), []
    for stage in backbone.stages:
        image = stage(image)
        shapes.append(image.shape[1])
    assert shapes[-2:] == [30, 12]
    assert (image >= 0).all()
    image.sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_a_vgg_keeps_all_its_other_convolutions():
    plain, wide = Backbone("vgg16_bn"), Backbone("vgg16_bn")
    wide.load_state_dict(plain.state_dict())
    widen_stage(wide.stages[-1], 12)
    kept = [n for n, p in wide.state_dict().items() if p.shape == plain.state_dict()[n].shape and p.ndim == 4]
    assert len(kept) == 12  # of 13
    assert all(torch.equal(wide.state_dict()[n], plain.state_dict()[n]) for n in kept)


@pytest.mark.parametrize("arch", ["resnet50", "mobilenet_v2", "squeezenet1_1"])
def test_a_stage_of_other_blocks_is_refused_with_what_to_do(arch):
    backbone = Backbone(arch)
    with pytest.raises(ValueError, match="append"):
        widen_stage(backbone.stages[-1], 12)


def test_a_stage_without_its_stride_gives_the_strided_ones_map_in_between():
    stage = Backbone("resnet18").stages[-1].eval()
    nn.init.zeros_(stage[0][0].bn2.weight)  # only the shortcuts count: a 1 x 1 convolution, strided or not
    nn.init.zeros_(stage[0][1].bn2.weight)
    x = torch.randn(1, 256, 8, 8)
    before = stage(x)
    keep_resolution(stage)
    assert stage(x).shape == (1, 512, 8, 8)
    torch.testing.assert_close(stage(x)[..., ::2, ::2], before)
    with pytest.raises(ValueError, match="last_stride"):
        keep_resolution(Backbone("vgg16_bn").stages[-1])


def test_seven_cells_of_a_fourteen_cell_map_are_vggs_last_pool():
    maps, embedding = torch.randn(2, 6, 14, 14), Embedding(6, 7)
    assert torch.equal(embedding.pool(maps), nn.functional.max_pool2d(maps, 2))
    assert embedding(maps).shape == (2, 512)
    assert embedding.layers[2].in_features == 6 * 49
    with pytest.raises(ValueError, match="cells=0"):
        Embedding(6, 0)
