"""A field of view at several scales: one convolution applied with several dilations, the responses added up."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SharedDilation(nn.Module):
    """``sum over dilations of ReLU(convolution)``; all dilations share one 3 x 3 kernel and bias.

    Args:
        inputs: channels in.
        outputs: channels out.
        dilations: cells between the taps.
    """

    def __init__(self, inputs: int, outputs: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.dilations = dilations
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Float[Tensor, "b i u v"]) -> Float[Tensor, "b o u v"]:
        """The same number of cells, non-negative."""
        total = nn.functional.conv2d(x, self.weight, self.bias, padding=self.dilations[0], dilation=self.dilations[0])
        total = total.relu_()
        for d in self.dilations[1:]:
            total = total + nn.functional.conv2d(x, self.weight, self.bias, padding=d, dilation=d).relu_()
        return total
