"""Self-attention between an LSTM's steps: its own backward pass against finite differences and against torch's."""

import pytest
import torch
from torch import nn

from fgbench.methods import focus_attention
from fgbench.methods.focus_attention import Looking, SelfAttention, channel_slopes, look


def parts(layers=2, steps=3, channels=5, keys=2, basis=1, hidden=4, n=2):
    torch.manual_seed(0)
    module = SelfAttention(channels, keys, basis, hidden).double()
    lstm = nn.LSTM(hidden, hidden, layers, batch_first=True).double()
    for weight in module.weights(lstm):
        nn.init.normal_(weight, std=0.5)
    features = torch.randn(n, channels, 2, 3, dtype=torch.float64)
    return module, lstm, features, steps


def in_plain_words(module, lstm, features, steps):
    """``torch.nn`` alone, a state at a time, each image and cell by itself."""
    cells = [nn.LSTMCell(module.hidden, module.hidden).double() for _ in range(lstm.num_layers)]
    for number, cell in enumerate(cells):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            delattr(cell, name)
            setattr(cell, name, getattr(lstm, f"{name}_l{number}"))
    keys, values = module.split(features)
    states = [[(torch.zeros(1, module.hidden).double(),) * 2 for _ in cells] for _ in features]
    found = []
    for _ in range(steps):
        for image, state in enumerate(states):
            query = module.query(state[-1][0])[0]
            products = [torch.dot(query, key) * module.scale for key in keys[image].T]
            exponents = [product.exp() for product in products]
            answer = sum(e / sum(exponents) * value for e, value in zip(exponents, values[image].T, strict=True))
            given = module.answer(answer[None])
            for number, cell in enumerate(cells):
                state[number] = cell(given, state[number])
                given = state[number][0]
        found.append(torch.cat([state[-1][0] for state in states]))
    return torch.stack(found, 1)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr(focus_attention, "MLP", 6)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_states_and_all_gradients_are_those_of_plain_modules(layers):
    module, lstm, features, steps = parts(layers)
    features.requires_grad_()
    each = torch.randn(2, steps, 4, dtype=torch.float64)
    expected = in_plain_words(module, lstm, features, steps)
    leaves = [features, *module.weights(lstm)]
    wanted = torch.autograd.grad((expected * each).sum(), leaves)
    states, attention = Looking.apply(*module.split(features), steps, module.scale, *module.weights(lstm))
    torch.testing.assert_close(states, expected)
    torch.testing.assert_close(attention.sum(2), torch.ones(2, steps, dtype=torch.float64))
    for mine, theirs in zip(torch.autograd.grad((states * each).sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_backward_pass_is_that_of_finite_differences():
    module, lstm, features, steps = parts(steps=2)
    inputs = [x.detach().requires_grad_() for x in (*module.split(features), *module.weights(lstm))]

    def states(keys, values, *weights):
        return Looking.apply(keys, values, steps, module.scale, *weights)[0]

    assert torch.autograd.gradcheck(states, inputs)


def test_slopes_of_a_channel_are_what_a_number_added_to_it_changes():
    module, lstm, features, steps = parts()
    weights, score = module.weights(lstm), torch.randn(4, dtype=torch.float64)
    keys, values = module.split(features)
    with torch.no_grad():
        found = look(keys, values, weights, steps, module.scale)
        # in the last step one score begins, in each before it another: the scores of steps 3, 2, 1
        tops = [torch.stack([*[0 * score] * (steps - 1 - t), score])[None].expand(2, -1, -1) for t in range(steps)]
        slopes = channel_slopes(found, tops, keys, values, weights, module.scale)
        assert slopes.shape == (2, 3, 4)
        for channel in range(values.shape[1]):
            added = torch.zeros_like(values)
            added[:, channel] = 1e-5
            up, down = (in_plain_words_of(module, lstm, keys, values + sign * added, steps) for sign in (1, -1))
            expected = ((up - down) @ score / 2e-5).flip(1)
            torch.testing.assert_close(slopes[..., channel], expected, atol=1e-8, rtol=1e-6)


def in_plain_words_of(module, lstm, keys, values, steps):
    module.split, split = (lambda _: (keys, values)), module.split
    try:
        return in_plain_words(module, lstm, keys, steps)
    finally:
        module.split = split
