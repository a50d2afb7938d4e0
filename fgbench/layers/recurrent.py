"""A stacked LSTM step by step: the same numbers as ``nn.LSTM``, where each step's input, or its gradient, is wanted."""

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

State = list[tuple[Tensor, Tensor]]
"""Hidden state and memory of each layer, ``b d`` each."""


def layer_weights(lstm: nn.LSTM, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of input and state, and the sum of both biases; gates in torch's order: input, forget, cell, output."""
    names = (f"weight_ih_l{layer}", f"weight_hh_l{layer}", f"bias_ih_l{layer}", f"bias_hh_l{layer}")
    of_input, of_state, first, second = (cast(Tensor, getattr(lstm, name)) for name in names)
    return of_input, of_state, first + second


def unroll(
    lstm: nn.LSTM, inputs: Float[Tensor, "b d"] | Callable[[Tensor | None], Tensor], steps: int
) -> list[Float[Tensor, "b h"]]:
    """States of the last layer after each step, from zero states; each is its own node, so gradients go no further.

    In float32. Unlike cuDNN's LSTM this has a backward pass in evaluation mode.

    Args:
        lstm: one direction, no projection, batch first.
        inputs: the same features for every step, or what makes those of a step from the last layer's state (None in the
            first).
        steps: how many.
    """
    weights = [layer_weights(lstm, layer) for layer in range(lstm.num_layers)]
    fixed = None if callable(inputs) else linear(inputs, weights[0][0], weights[0][2])
    state: State = []
    found: list[Tensor] = []
    for _ in range(steps):
        after: State = []
        for layer, (of_input, of_state, bias) in enumerate(weights):
            if layer == 0 and fixed is not None:
                gates = fixed
            elif layer == 0 and callable(inputs):
                gates = linear(inputs(found[-1] if found else None), of_input, bias)
            else:
                gates = linear(after[-1][0], of_input, bias)
            if state:
                gates = gates + linear(state[layer][0], of_state)
            gate_in, forget, cell, out = gates.chunk(4, 1)
            memory = gate_in.sigmoid() * cell.tanh()
            if state:
                memory = memory + forget.sigmoid() * state[layer][1]
            after.append((out.sigmoid() * memory.tanh(), memory))
        state = after
        found.append(after[-1][0])
    return found


def gradients(scores: list[Float[Tensor, " b"]], inputs: Float[Tensor, "b ..."]) -> Float[Tensor, "b t ..."]:
    """The gradient of each of several scores per image with respect to the inputs; the graph is kept.

    All in one backward pass that carries as many gradients: weights are read once a step, not once for each score.
    """
    totals = torch.stack([score.sum() for score in scores])
    each = torch.eye(len(scores), device=totals.device, dtype=totals.dtype)
    (found,) = torch.autograd.grad(totals, inputs, each, retain_graph=True, is_grads_batched=True)
    return found.transpose(0, 1)
