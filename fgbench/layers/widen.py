"""Other widths in a network that is cut into stages: the last convolutions of a stage, or what the next one reads.

What is re-made starts from random weights, as its network's own layers do; all else keeps its weights.
"""

from typing import cast

from torch import nn
from torchvision.models.resnet import BasicBlock

ADVICE = "take another way to get the channels: high: append for the last stage; for the one before it mid: side (tdsa)"


def conv_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    """A 1 x 1 convolution that gives a map more channels: non-negative ones.

    >>> import torch
    >>> conv_norm_relu(4, 6)(torch.ones(2, 4, 3, 3)).shape
    torch.Size([2, 6, 3, 3])
    """
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def widen_stage(stage: nn.Sequential, channels: int) -> None:
    """Give the map after a stage another number of channels.

    A flat stage (VGG) gets a wider last convolution, a stage of basic residual blocks gets wider blocks.

    Raises:
        ValueError: for a stage of any other kind.
    """
    if any(isinstance(layer, nn.Conv2d) for layer in stage):
        last = max(i for i, layer in enumerate(stage) if isinstance(layer, nn.Conv2d))
        stage[last] = _remade(cast(nn.Conv2d, stage[last]), outputs=channels)
        if last + 1 < len(stage) and isinstance(stage[last + 1], nn.BatchNorm2d):
            stage[last + 1] = nn.BatchNorm2d(channels)
        return
    blocks = [block for block in stage.modules() if isinstance(block, BasicBlock)]
    if not blocks or len(stage) != 1:
        raise ValueError(f"a stage of this backbone cannot be made {channels} channels wide: {ADVICE}")
    inputs, stride = blocks[0].conv1.in_channels, blocks[0].conv1.stride[0]
    shortcut = nn.Sequential(nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
    made = [BasicBlock(inputs, channels, stride, shortcut)]
    made += [BasicBlock(channels, channels) for _ in blocks[1:]]
    for module in (module for block in made for module in block.modules() if isinstance(module, nn.Conv2d)):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    stage[0] = made[0] if isinstance(stage[0], BasicBlock) else nn.Sequential(*made)


def widen_input(stage: nn.Sequential, channels: int) -> None:
    """Let a stage read a map of another number of channels; the same kinds of stages as ``widen_stage``.

    Raises:
        ValueError: for a stage of any other kind.
    """
    flat = [i for i, layer in enumerate(stage) if isinstance(layer, nn.Conv2d)]
    if flat:
        stage[flat[0]] = _remade(cast(nn.Conv2d, stage[flat[0]]), inputs=channels)
        return
    block = next((block for block in stage.modules() if isinstance(block, BasicBlock)), None)
    if block is None:
        raise ValueError(f"a stage of this backbone cannot be made to read {channels} channels: {ADVICE}")
    block.conv1 = _remade(block.conv1, inputs=channels)
    if block.downsample is None:
        shortcut = nn.Conv2d(channels, block.conv2.out_channels, 1, block.stride, bias=False)
        nn.init.kaiming_normal_(shortcut.weight, mode="fan_out", nonlinearity="relu")
        block.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(block.conv2.out_channels))
    else:
        block.downsample[0] = _remade(block.downsample[0], inputs=channels)


def keep_resolution(stage: nn.Sequential) -> None:
    """Take the stride out of a stage's convolutions; nothing is dilated instead, so this is for training from scratch.

    Raises:
        ValueError: the stage halves its map with a pool.
    """
    if any(isinstance(layer, nn.MaxPool2d) for layer in stage.modules()):
        raise ValueError("the last stage of this backbone halves its map with a pool: leave last_stride at 2")
    for layer in stage.modules():
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)


def _remade(conv: nn.Conv2d, inputs: int | None = None, outputs: int | None = None) -> nn.Conv2d:
    """The same with other widths; initialised as a residual network does where it has no bias, else as torch does."""
    made = nn.Conv2d(
        conv.in_channels if inputs is None else inputs,
        conv.out_channels if outputs is None else outputs,
        cast(tuple[int, int], conv.kernel_size),
        cast(tuple[int, int], conv.stride),
        cast(tuple[int, int], conv.padding),
        cast(tuple[int, int], conv.dilation),
        bias=conv.bias is not None,
    )
    if conv.bias is None:
        nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made
