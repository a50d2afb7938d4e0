"""The streams of Focus Longer: what follows the global trunk, and the local stream.

A patch's features, made once, go through an LSTM again and again.
"""

import math
import re
from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from fgbench.backbones import Backbone
from fgbench.layers.recurrent import gradients, unroll

Kind = Literal["lstm", "self_attention", "cnn"]
TimeAttention = Literal["shared", "per_step"]
MLP = 512  # width of the query's and the answer's hidden layers; the thesis
POOLS = ("attention", "sum", "mean", "last")


def fixed_weights(time_pool: str, steps: int) -> Float[Tensor, " t"] | None:
    """Weight of each step's state in the pooled one; None for attention.

    >>> fixed_weights("step_2", 3)
    tensor([0., 1., 0.])

    Raises:
        ValueError: there is no such pooling.
    """
    one_step = re.fullmatch(r"step_(\d+)", time_pool)
    if one_step and 1 <= int(one_step[1]) <= steps:
        return nn.functional.one_hot(torch.tensor(int(one_step[1]) - 1), steps).float()
    if time_pool not in POOLS:
        raise ValueError(f"time_pool is {time_pool!r}; known: {', '.join(POOLS)}, and step_1 to step_{steps}")
    if time_pool == "attention":
        return None
    if time_pool == "last":
        return fixed_weights(f"step_{steps}", steps)
    return torch.ones(steps) / (steps if time_pool == "mean" else 1)


def time_attention(states: Float[Tensor, "b t d"], weight: Float[Tensor, "rows d"]) -> Float[Tensor, "b t"]:
    """Softmax over steps of each state's product with the weights: one row for all steps, or one for each (Eq. 3.6)."""
    return (states * weight).sum(2).softmax(1)


def cosine_basis(size: int, rows: int, columns: int, device: torch.device) -> Float[Tensor, "s r c"]:
    """``cos(pi p i / rows) cos(pi q j / columns)`` for ``p`` and ``q`` from 0 to ``size - 1``: a cell's place."""

    def waves(cells: int) -> Tensor:
        return torch.outer(
            torch.arange(size, device=device), torch.arange(cells, device=device) * (math.pi / cells)
        ).cos()

    return torch.einsum("pr,qc->pqrc", waves(rows), waves(columns)).flatten(0, 1)


def global_layers(backbone: Backbone, addon: bool) -> nn.Sequential:
    """What is between the global trunk and its average: VGG's last pool, and the code's two convolutions."""
    layers: list[nn.Module] = [nn.MaxPool2d(2)] if backbone.arch.startswith("vgg") else []
    if addon:
        first, second = nn.Conv2d(backbone.out_channels, 1024, 1), nn.Conv2d(1024, 1024, 1)
        for layer in (first, second):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, layer.bias))
        layers += [first, nn.ReLU(), second, nn.ReLU()]
    return nn.Sequential(*layers)


class SelfAttention(nn.Module):
    """What the next step sees of the map, asked for by the state of the step before (thesis, chapter 7); float32.

    Args:
        channels: of the map; the first ``keys`` are keys, the others values.
        keys: channels of the keys.
        basis: waves along each side that tell where a cell is, joined to keys and values; 0 for none.
        hidden: features of the state.
        scaled: divide the products by the root of their length (Eq. 7.1; the prose does not).
    """

    def __init__(self, channels: int, keys: int, basis: int, hidden: int, scaled: bool = True) -> None:
        super().__init__()
        if not 1 <= keys < channels or basis < 0:
            raise ValueError(
                f"keys is {keys} of {channels} channels and basis is {basis}: need 1 key, 1 value, basis 0"
            )
        self.keys, self.basis, self.hidden = keys, basis, hidden
        asked, answered = keys + basis**2, channels - keys + basis**2
        self.scale = asked**-0.5 if scaled else 1.0
        self.query = nn.Sequential(
            *(nn.Linear(hidden, MLP), nn.ReLU(), nn.Linear(MLP, MLP), nn.ReLU(), nn.Linear(MLP, asked))
        )
        self.answer = nn.Sequential(nn.Linear(answered, MLP), nn.ReLU(), nn.Linear(MLP, hidden))

    def split(self, features: Float[Tensor, "b d u v"]) -> tuple[Float[Tensor, "b k n"], Float[Tensor, "b e n"]]:
        """Keys and values of the cells, each with the cells' places."""
        rows, columns = features.shape[2:]
        keys, values = features[:, : self.keys], features[:, self.keys :]
        place = cosine_basis(self.basis, rows, columns, features.device).expand(len(features), -1, -1, -1)
        return torch.cat([keys, place], 1).flatten(2), torch.cat([values, place], 1).flatten(2)

    def attend(
        self, query: Float[Tensor, "b k"], keys: Float[Tensor, "b k n"], values: Float[Tensor, "b e n"]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b e"]]:
        """Attention over cells, and the mean of the values under it."""
        attention = (torch.bmm(query[:, None], keys)[:, 0] * self.scale).softmax(1)
        return attention, torch.bmm(values, attention[..., None])[..., 0]


class Steps(NamedTuple):
    """What the recurrent part says of patches.

    Attributes:
        states: of the last layer, after each step.
        attention: over the cells of the map in each step; None without self-attention.
    """

    states: Float[Tensor, "b t h"]
    attention: Float[Tensor, "b t u v"] | None = None


class Evidence(NamedTuple):
    """Why a patch got its score for one class.

    Attributes:
        pooled: ``b u v``, Grad-CAM of the stream's logit, with its sign: the class' evidence per cell.
        steps: ``b t u v``, Grad-CAM of each step's logit, cut at zero; None without an LSTM.
    """

    pooled: Tensor
    steps: Tensor | None


class LocalStream(nn.Module):
    """Trunk, LSTM, attention over time, classifier.

    Args:
        trunk: the network for patches.
        num_outputs: classes or attributes.
        kind: ``lstm``; ``self_attention`` between its steps; ``cnn`` without an LSTM.
        steps: of the LSTM.
        hidden: features of its state.
        layers: of the LSTM.
        time_pool: ``attention``, ``sum``, ``mean``, ``last`` or ``step_<number>``.
        attention: one vector for all steps, or one for each.
        keys: see ``SelfAttention``.
        basis: see ``SelfAttention``.
    """

    fixed: Tensor | None

    def __init__(
        self,
        trunk: Backbone,
        num_outputs: int,
        kind: Kind,
        steps: int,
        hidden: int,
        layers: int,
        time_pool: str,
        attention: TimeAttention,
        keys: int | None,
        basis: int,
    ) -> None:
        super().__init__()
        if min(steps, hidden, layers) < 1:
            raise ValueError(f"steps={steps}, hidden={hidden}, layers={layers}: each must be at least 1")
        self.trunk, self.steps = trunk, 0 if kind == "cnn" else steps
        channels = trunk.out_channels
        self.register_buffer("fixed", fixed_weights(time_pool, steps), persistent=False)
        self.lstm: nn.LSTM | None = None
        self.looks: SelfAttention | None = None
        self.time_weight: nn.Parameter | None = None
        if kind != "cnn":
            self.lstm = nn.LSTM(hidden if kind == "self_attention" else channels, hidden, layers, batch_first=True)
            if self.fixed is None:
                self.time_weight = nn.Parameter(torch.empty(steps if attention == "per_step" else 1, hidden))
                nn.init.uniform_(self.time_weight, -(hidden**-0.5), hidden**-0.5)
        if kind == "self_attention":
            self.looks = SelfAttention(channels, max(1, channels // 8) if keys is None else keys, basis, hidden)
        self.classifier = nn.Linear(channels if kind == "cnn" else hidden, num_outputs)
        nn.init.normal_(self.classifier.weight, std=0.01)  # the authors' code
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features: Float[Tensor, "b d u v"]) -> Steps:
        """States after each step; cuDNN's LSTM where every step sees the same."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            lstm = cast(nn.LSTM, self.lstm)
            if self.looks is None:
                same = features.mean((2, 3))[:, None].expand(-1, self.steps, -1)
                return Steps(lstm(same.contiguous())[0])
            return self._stack(*self._attend(features), features.shape[2:])

    def logits(self, features: Float[Tensor, "b d u v"], states: Tensor | None) -> Float[Tensor, "b k"]:
        """Of the pooled states; of the pooled map without an LSTM."""
        with torch.autocast(features.device.type, enabled=False):
            if states is None:
                pooled = features.float().mean((2, 3))
            else:
                pooled = (self.weights(states)[..., None] * states).sum(1)
            logits: Tensor = self.classifier(pooled)
            return logits

    def weights(self, states: Float[Tensor, "b t h"]) -> Float[Tensor, "b t"]:
        """Of each step in the pooled state."""
        if self.time_weight is not None:
            return time_attention(states, self.time_weight)
        return cast(Tensor, self.fixed).expand(len(states), -1)

    def step_scores(self, states: Float[Tensor, "b t h"]) -> Float[Tensor, "b t k"]:
        """The classifier on each step's state, without its bias: those of a weighted sum are weighted sums of these."""
        with torch.autocast(states.device.type, enabled=False):
            return linear(states, self.classifier.weight)

    # ---- evidence

    def explain(
        self, features: Float[Tensor, "b d u v"], choose: Callable[[Tensor], Int[Tensor, " b"]]
    ) -> tuple[Tensor, Steps | None, Evidence]:
        """Logits, states, and Grad-CAM of the stream and of all its steps, without a backward pass through the trunk.

        Averaging comes before the LSTM, so a score's derivative is the same in all cells of a channel: the weights of
        Grad-CAM are its derivative by the averaged features. With self-attention they are the mean of the derivatives
        by the cells, which is the derivative by a number added to the whole channel, over the number of cells.
        Attention does not change when all keys change alike, and an answer changes as all its values do: so the number
        is added to the answers, keys have none, and no gradient passes through the map.

        Args:
            features: of the patches.
            choose: from the stream's logits to the class of each patch that is to be explained.
        """
        differentiable = torch.is_grad_enabled()
        with torch.autocast(features.device.type, enabled=False), torch.enable_grad():
            features = features.float()
            if self.lstm is None:
                logits = self.logits(features, None)
                weight = self.classifier.weight[choose(logits.detach())] / features[0, 0].numel()
                pooled = _cam(weight[:, None].detach(), features.detach())[:, 0]
                return logits if differentiable else logits.detach(), None, Evidence(pooled, None)
            leaf = self._leaf(features)
            listed, attention = self._states(features, leaf)
            steps = self._stack(listed, attention, features.shape[2:])
            logits = self.logits(features, steps.states)
            index = choose(logits.detach())
            weight, bias = self.classifier.weight[index], self.classifier.bias[index]
            scores = [(state * weight).sum(1) + bias for state in listed]
            chosen = logits.gather(1, index[:, None])[:, 0]
            slopes = gradients([*scores, chosen], leaf).detach() / features[0, 0].numel()
            if self.looks is not None:
                slopes = pad(slopes[..., : features.shape[1] - self.looks.keys], (self.looks.keys, 0))
            maps = _cam(slopes, features.detach())
        if not differentiable:
            logits, steps = (
                logits.detach(),
                Steps(steps.states.detach(), None if steps.attention is None else steps.attention.detach()),
            )
        return logits, steps, Evidence(maps[:, -1], maps[:, :-1].relu())

    def _leaf(self, features: Tensor) -> Float[Tensor, "b d"]:
        """By what scores are derived: averaged features, or, with self-attention, what is added to its answers."""
        if self.looks is not None:
            size = features.shape[1] - self.looks.keys + self.looks.basis**2
            return features.new_zeros(len(features), size, requires_grad=True)
        mean = features.mean((2, 3))
        return mean if mean.requires_grad else mean.detach().requires_grad_()

    def _states(self, features: Tensor, leaf: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """States and attention of each step."""
        if self.looks is not None:
            return self._attend(features, leaf)
        return unroll(cast(nn.LSTM, self.lstm), leaf, self.steps), []

    def _attend(self, features: Tensor, added: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        looks = cast(SelfAttention, self.looks)
        keys, values = looks.split(features)
        first = features.new_zeros(len(features), looks.hidden)
        attention: list[Tensor] = []

        def look(state: Tensor | None) -> Tensor:
            over, seen = looks.attend(looks.query(first if state is None else state), keys, values)
            attention.append(over)
            answer: Tensor = looks.answer(seen if added is None else seen + added)
            return answer

        return unroll(cast(nn.LSTM, self.lstm), look, self.steps), attention

    @staticmethod
    def _stack(states: list[Tensor], attention: list[Tensor], cells: tuple[int, ...]) -> Steps:
        return Steps(torch.stack(states, 1), torch.stack(attention, 1).unflatten(2, cells) if attention else None)


def _cam(weights: Float[Tensor, "b t d"], features: Float[Tensor, "b d u v"]) -> Float[Tensor, "b t u v"]:
    maps: Tensor = torch.bmm(weights, features.flatten(2)).unflatten(2, features.shape[2:])
    return maps
