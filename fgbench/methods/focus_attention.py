"""Self-attention of Focus Longer between the steps of its LSTM, with a backward pass of its own.

Autograd would write a gradient of all weights in each step and add it to that of the steps before, and would carry the
scores of all steps through all steps. Here a weight's gradient is one product over images and steps, and a score
enters where its step is: of the steps after it, it knows nothing.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

MLP = 512  # width of the query's and the answer's hidden layers; the thesis
QUERY, ANSWER, CELL = 6, 4, 4  # tensors of the query's layers, of the answer's, and of one layer of the LSTM


def cosine_basis(size: int, rows: int, columns: int, device: torch.device) -> Float[Tensor, "s r c"]:
    """``cos(pi p i / rows) cos(pi q j / columns)`` for ``p`` and ``q`` from 0 to ``size - 1``: a cell's place."""

    def waves(cells: int) -> Tensor:
        return torch.outer(
            torch.arange(size, device=device), torch.arange(cells, device=device) * (math.pi / cells)
        ).cos()

    return torch.einsum("pr,qc->pqrc", waves(rows), waves(columns)).flatten(0, 1)


class SelfAttention(nn.Module):
    """What the next step sees of the map, asked for by the state of the step before (thesis, chapter 7); float32.

    Args:
        channels: of the map; the first ``keys`` are keys, the others values.
        keys: channels of the keys.
        basis: waves along each side that tell where a cell is, joined to keys and values; 0 for none.
        hidden: features of the state.
    """

    def __init__(self, channels: int, keys: int, basis: int, hidden: int) -> None:
        super().__init__()
        if not 1 <= keys < channels or basis < 0:
            raise ValueError(
                f"keys is {keys} of {channels} channels and basis is {basis}: need 1 key, 1 value, basis 0"
            )
        self.keys, self.basis, self.hidden = keys, basis, hidden
        asked, answered = keys + basis**2, channels - keys + basis**2
        self.scale = asked**-0.5  # Eq. 7.1; the prose does not scale
        self.query = nn.Sequential(
            *(nn.Linear(hidden, MLP), nn.ReLU(), nn.Linear(MLP, MLP), nn.ReLU(), nn.Linear(MLP, asked))
        )
        self.answer = nn.Sequential(nn.Linear(answered, MLP), nn.ReLU(), nn.Linear(MLP, hidden))

    def split(self, features: Float[Tensor, "b d u v"]) -> tuple[Float[Tensor, "b k n"], Float[Tensor, "b e n"]]:
        """Keys and values of the cells, each with the cells' places."""
        rows, columns = features.shape[2:]
        keys, values = features[:, : self.keys], features[:, self.keys :]
        place = cosine_basis(self.basis, rows, columns, features.device).to(features)
        place = place.expand(len(features), -1, -1, -1)
        return torch.cat([keys, place], 1).flatten(2), torch.cat([values, place], 1).flatten(2)

    def weights(self, lstm: nn.LSTM) -> list[Tensor]:
        """Of query, answer and LSTM, in the order in which ``look`` wants them."""
        return [*self.query.parameters(), *self.answer.parameters(), *lstm.parameters()]

    def attend(
        self, query: Float[Tensor, "b k"], keys: Float[Tensor, "b k n"], values: Float[Tensor, "b e n"]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b e"]]:
        """Attention over cells, and the mean of the values under it."""
        return attend(query, keys, values, self.scale)


def attend(
    query: Float[Tensor, "b k"], keys: Float[Tensor, "b k n"], values: Float[Tensor, "b e n"], scale: float
) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b e"]]:
    """See ``SelfAttention.attend``."""
    attention = (torch.bmm(query[:, None], keys)[:, 0] * scale).softmax(1)
    return attention, torch.bmm(values, attention[..., None])[..., 0]


class Layer(NamedTuple):
    """One layer of the LSTM in one step; all ``b h``, gates after their functions."""

    given: Tensor  # its input
    before: Tensor  # its state before
    remembered: Tensor  # its memory before
    gates: tuple[Tensor, Tensor, Tensor, Tensor]  # input, forget, cell, output
    squashed: Tensor  # tanh of the memory after
    state: Tensor
    memory: Tensor


class Step(NamedTuple):
    """What one step computed."""

    first: Float[Tensor, "b m"]  # the query's hidden layers
    second: Float[Tensor, "b m"]
    query: Float[Tensor, "b k"]
    attention: Float[Tensor, "b n"]
    seen: Float[Tensor, "b e"]
    hidden: Float[Tensor, "b m"]  # the answer's hidden layer
    layers: list[Layer]


def look(
    keys: Float[Tensor, "b k n"], values: Float[Tensor, "b e n"], weights: Sequence[Tensor], steps: int, scale: float
) -> list[Step]:
    """Ask the map, go on with the answer, ``steps`` times, from zero states."""
    query, answer, cells = weights[:QUERY], weights[QUERY : QUERY + ANSWER], _cells(weights)
    zero = keys.new_zeros(len(keys), cells[0][1].shape[1])
    states, memories = [zero] * len(cells), [zero] * len(cells)
    found: list[Step] = []
    for step in range(steps):
        first = linear(states[-1], *query[:2]).relu()
        second = linear(first, *query[2:4]).relu()
        asked = linear(second, *query[4:])
        attention, seen = attend(asked, keys, values, scale)
        hidden = linear(seen, *answer[:2]).relu()
        given, layers = linear(hidden, *answer[2:]), []
        for layer, weight in enumerate(cells):
            layers.append(_advance(given, states[layer], memories[layer], weight, step == 0))
            given = layers[-1].state
        states, memories = [layer.state for layer in layers], [layer.memory for layer in layers]
        found.append(Step(first, second, asked, attention, seen, hidden, layers))
    return found


def _cells(weights: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    return [weights[at : at + CELL] for at in range(QUERY + ANSWER, len(weights), CELL)]


def _advance(given: Tensor, before: Tensor, remembered: Tensor, weight: Sequence[Tensor], begins: bool) -> Layer:
    gates = linear(given, weight[0], weight[2] + weight[3])
    if not begins:
        gates = gates + linear(before, weight[1])
    gate_in, forget, cell, out = gates.chunk(4, 1)
    gate_in, forget, cell, out = gate_in.sigmoid(), forget.sigmoid(), cell.tanh(), out.sigmoid()
    memory = gate_in * cell + forget * remembered
    squashed = memory.tanh()
    return Layer(given, before, remembered, (gate_in, forget, cell, out), squashed, out * squashed, memory)


class Slopes(NamedTuple):
    """Derivatives of scores, of which each image has ``s``, by what a step computed; before its functions.

    Of the answer's hidden layer for all scores in every step; the others are kept where weights' gradients are wanted.
    """

    first: Float[Tensor, "b s m"]
    second: Float[Tensor, "b s m"]
    query: Float[Tensor, "b s k"]
    products: Float[Tensor, "b s n"]  # before the softmax, and before they are scaled
    seen: Float[Tensor, "b s e"]
    hidden: Float[Tensor, "b s m"]
    given: Float[Tensor, "b s h"]  # the LSTM's input
    gates: list[Float[Tensor, "b s gates"]]  # of each layer


def look_back(
    found: Sequence[Step],
    tops: Sequence[Float[Tensor, "b _ h"]],
    keys: Float[Tensor, "b k n"],
    values: Float[Tensor, "b e n"],
    weights: Sequence[Tensor],
    scale: float,
) -> list[Slopes]:
    """Derivatives of scores by what all steps computed, the last step first.

    Args:
        found: by ``look``.
        tops: of each step: derivatives of the scores by the step's state. A step has the scores of the step after it
            first, in their order, then those that begin here.
        keys: see ``look``.
        values: see ``look``.
        weights: see ``look``.
        scale: see ``look``.
    """
    query, answer, cells = weights[:QUERY], weights[QUERY : QUERY + ANSWER], _cells(weights)
    none = tops[-1].new_zeros(())
    states: list[Tensor] = [none] * len(cells)  # what later steps say of this one's states and memories
    memories: list[Tensor] = [none] * len(cells)
    slopes: list[Slopes] = []
    for step, top in zip(reversed(found), reversed(tops), strict=True):
        coming: Tensor = top
        gates: list[Tensor] = []
        for layer in reversed(range(len(cells))):
            coming = coming + _longer(states[layer], top)
            gate, memories[layer] = _retreat(step.layers[layer], coming, _longer(memories[layer], top))
            states[layer] = none if step is found[0] else gate @ cells[layer][1]
            coming = gate @ cells[layer][0]
            gates.insert(0, gate)
        hidden = (coming @ answer[2]) * (step.hidden > 0)[:, None]
        seen = hidden @ answer[0]
        weighed = step.attention[:, None] * torch.bmm(seen, values)
        products = (weighed - step.attention[:, None] * weighed.sum(2, keepdim=True)) * scale
        asked = torch.bmm(products, keys.transpose(1, 2))
        second = (asked @ query[4]) * (step.second > 0)[:, None]
        first = (second @ query[2]) * (step.first > 0)[:, None]
        states[-1] = states[-1] + first @ query[0]
        slopes.append(Slopes(first, second, asked, products, seen, hidden, coming, gates))
    return slopes


def _longer(slope: Tensor, top: Float[Tensor, "b s h"]) -> Tensor:
    """With zeros for the scores that begin here."""
    return slope if slope.ndim == 0 else pad(slope, (0, 0, 0, top.shape[1] - slope.shape[1]))


def _retreat(layer: Layer, state: Float[Tensor, "b s h"], memory: Tensor) -> tuple[Tensor, Tensor]:
    """From derivatives by state and memory to those by the gates, before their functions, and by the memory before."""
    gate_in, forget, cell, out = (gate[:, None] for gate in layer.gates)
    squashed, remembered = layer.squashed[:, None], layer.remembered[:, None]
    memory = memory + state * (out * (1 - squashed * squashed))
    of_gates = [
        memory * (cell * gate_in * (1 - gate_in)),
        memory * (remembered * forget * (1 - forget)),
        memory * (gate_in * (1 - cell * cell)),
        state * (squashed * out * (1 - out)),
    ]
    return torch.cat(of_gates, 2), memory * forget


class Looking(torch.autograd.Function):
    """``look`` for training: states ``b t h`` of the last layer, and attention ``b t n``, which has no gradient."""

    @staticmethod
    def forward(
        ctx: Any, keys: Tensor, values: Tensor, steps: int, scale: float, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``look``."""
        found = look(keys, values, weights, steps, scale)
        ctx.found, ctx.scale = found, scale
        ctx.save_for_backward(keys, values, *weights)
        attention = torch.stack([step.attention for step in found], 1)
        ctx.mark_non_differentiable(attention)
        return torch.stack([step.layers[-1].state for step in found], 1), attention

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, states: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of keys, values and weights: one product over all images and steps for each weight."""
        keys, values, *weights = ctx.saved_tensors
        found: list[Step] = ctx.found
        with torch.autocast(keys.device.type, enabled=False):
            slopes = look_back(found, states.split(1, 1), keys, values, weights, ctx.scale)[::-1]
            asked, attention = (_over([getattr(s, name) for s in found]) for name in ("query", "attention"))
            products, seen = (_joined([getattr(s, name) for s in slopes]) for name in ("products", "seen"))
            of_keys = torch.bmm(asked.transpose(1, 2), products)
            of_values = torch.bmm(seen.transpose(1, 2), attention)
            return of_keys, of_values, None, None, *_of_weights(found, slopes)


def _of_weights(found: Sequence[Step], slopes: Sequence[Slopes]) -> list[Tensor]:
    """One product over images and steps for each weight, in their order."""
    pairs = [
        ([s.first for s in slopes], [s.layers[-1].before for s in found]),
        ([s.second for s in slopes], [s.first for s in found]),
        ([s.query for s in slopes], [s.second for s in found]),
        ([s.hidden for s in slopes], [s.seen for s in found]),
        ([s.given for s in slopes], [s.hidden for s in found]),
    ]
    gradients: list[Tensor] = []
    for slope, given in pairs:
        flat = _joined(slope).flatten(0, 1)
        gradients += [flat.T @ _over(given).flatten(0, 1), flat.sum(0)]
    for layer in range(len(found[0].layers)):
        flat = _joined([s.gates[layer] for s in slopes]).flatten(0, 1)
        for name in ("given", "before"):
            gradients.append(flat.T @ _over([getattr(s.layers[layer], name) for s in found]).flatten(0, 1))
        gradients += [flat.sum(0), flat.sum(0)]
    return gradients


def _over(each: list[Tensor]) -> Float[Tensor, "b t d"]:
    return torch.stack(each, 1)


def _joined(each: list[Float[Tensor, "b one d"]]) -> Float[Tensor, "b t d"]:
    return torch.cat(each, 1)


def channel_slopes(
    found: Sequence[Step],
    tops: Sequence[Float[Tensor, "b _ h"]],
    keys: Float[Tensor, "b k n"],
    values: Float[Tensor, "b e n"],
    weights: Sequence[Tensor],
    scale: float,
) -> Float[Tensor, "b scores e"]:
    """Derivative of each score by a number that is added to a channel of the values in all cells.

    Attention does not change, and all answers change by that number: so the derivatives by the answers' hidden layers
    are added up before they go through its weight, which all steps share.
    """
    total: Tensor = tops[-1].new_zeros(())
    for slope in look_back(found, tops, keys, values, weights, scale):
        total = _longer(total, slope.hidden) + slope.hidden
    return total @ weights[QUERY]
