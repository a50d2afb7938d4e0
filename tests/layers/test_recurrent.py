"""The LSTM step by step, against numpy and torch's own."""

import numpy as np
import torch
from torch import nn

from fgbench.layers.recurrent import gradients, unroll


def numpy_lstm(lstm, inputs):
    """States of the top layer; gates in the order input, forget, cell, output; ``inputs`` one row per step."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    rows = [row.double().numpy() for row in inputs]
    for layer in range(lstm.num_layers):
        w, u, b, c = (
            getattr(lstm, f"{name}_l{layer}").detach().double().numpy()
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        size = lstm.hidden_size
        h, memory, found = np.zeros(size), np.zeros(size), []
        for x in rows:
            gates = w @ x + b + u @ h + c
            i, f, g, o = (gates[n * size : (n + 1) * size] for n in range(4))
            memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(memory)
            found.append(h)
        rows = found
    return np.stack(rows)


def test_a_constant_input_gives_the_states_of_a_hand_written_lstm_and_of_torchs():
    lstm, x = nn.LSTM(5, 7, 2, batch_first=True), torch.randn(3, 5)
    found = torch.stack(unroll(lstm, x, 6), 1)
    for row in range(3):
        np.testing.assert_allclose(found[row].detach().numpy(), numpy_lstm(lstm, [x[row]] * 6), atol=1e-6)
    torch.testing.assert_close(found, lstm(x[:, None].expand(-1, 6, -1))[0])


def test_an_input_can_depend_on_the_state_before():
    lstm, x = nn.LSTM(4, 4, 2, batch_first=True), torch.randn(1, 4)
    seen = []

    def look(state):
        seen.append(x if state is None else state)
        return seen[-1]

    found = unroll(lstm, look, 4)
    np.testing.assert_allclose(
        torch.cat(found).detach().numpy(), numpy_lstm(lstm, [row[0].detach() for row in seen]), atol=1e-6
    )
    assert seen[1] is found[0]


def test_gradients_of_each_step_are_differences():
    lstm = nn.LSTM(3, 4, 2, batch_first=True).double()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    states = unroll(lstm, x, 3)
    slopes = gradients([state[:, 1] for state in states], x)
    step = 1e-6
    for t in range(3):
        for column in range(3):
            moved = x.detach().clone()
            moved[:, column] += step
            difference = (unroll(lstm, moved, 3)[t][:, 1] - states[t][:, 1]) / step
            torch.testing.assert_close(slopes[:, t, column], difference, atol=1e-5, rtol=1e-4)
