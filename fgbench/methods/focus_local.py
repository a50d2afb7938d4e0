"""The streams of Focus Longer: what comes before and after the global trunk, and the local stream.

A patch's features, made once, go through an LSTM again and again.
"""

import re
from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from fgbench.backbones import Backbone
from fgbench.layers.recurrent import gradients, unroll
from fgbench.methods.focus_attention import Looking, SelfAttention, channel_slopes, look

Kind = Literal["lstm", "self_attention", "cnn"]
TimeAttention = Literal["shared", "per_step"]
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


def shrunk(image: Float[Tensor, "b 3 h w"], size: int | None) -> Float[Tensor, "b 3 h2 w2"]:
    """Images whose shorter side has at most so many pixels, all of the former ones averaged into them.

    >>> [tuple(shrunk(torch.zeros(1, 3, 60, 90), size).shape[2:]) for size in (20, 80, None)]
    [(20, 30), (60, 90), (60, 90)]
    """
    height, width = image.shape[2:]
    if size is None or size >= min(height, width):
        return image
    scale = size / min(height, width)
    sides = (round(scale * height), round(scale * width))
    with torch.autocast(image.device.type, enabled=False):
        return nn.functional.interpolate(image.float(), sides, mode="bilinear", antialias=True)


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
            weights = self.looks.weights(lstm)
            keys, values = self.looks.split(features)
            states, attention = Looking.apply(keys, values, self.steps, self.looks.scale, *weights)  # type: ignore[no-untyped-call]  # torch's
            return Steps(states, attention.unflatten(2, features.shape[2:]))

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
        by the cells, which is the derivative by a number added to the whole channel, over the number of cells: no
        gradient passes through the map.

        Args:
            features: of the patches.
            choose: from the stream's logits to the class of each patch that is to be explained.
        """
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            if self.lstm is None:
                logits = self.logits(features, None)
                weight = self.classifier.weight[choose(logits.detach())] / features[0, 0].numel()
                pooled = _cam(weight[:, None].detach(), features.detach())[:, 0]
                return logits, None, Evidence(pooled, None)
            explain = self._explain_same if self.looks is None else self._explain_looks
            logits, steps, slopes = explain(features, choose)
            maps = _cam(slopes.detach() / features[0, 0].numel(), features.detach())
        return logits, steps, Evidence(maps[:, -1], maps[:, :-1].relu())

    def _explain_same(self, features: Tensor, choose: Callable[[Tensor], Tensor]) -> tuple[Tensor, Steps, Tensor]:
        """Logits, states, and derivatives ``b t d`` of all steps' and the stream's logit by the averaged features."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            mean = features.mean((2, 3))
            leaf = mean if mean.requires_grad else mean.detach().requires_grad_()
            listed = unroll(cast(nn.LSTM, self.lstm), leaf, self.steps)
            states = torch.stack(listed, 1)
            logits = self.logits(features, states)
            index = choose(logits.detach())
            weight, bias = self.classifier.weight[index], self.classifier.bias[index]
            scores = [(state * weight).sum(1) + bias for state in listed]
            slopes = gradients([*scores, logits.gather(1, index[:, None])[:, 0]], leaf)
        if not differentiable:
            logits, states = logits.detach(), states.detach()
        return logits, Steps(states), slopes

    def _explain_looks(self, features: Tensor, choose: Callable[[Tensor], Tensor]) -> tuple[Tensor, Steps, Tensor]:
        """The same with self-attention, by a number that is added to a whole channel.

        A channel of the keys has none: attention stays as it is when a key changes in all cells alike.
        """
        looks, lstm = cast(SelfAttention, self.looks), cast(nn.LSTM, self.lstm)
        weights = looks.weights(lstm)
        with torch.no_grad():
            keys, values = looks.split(features)
            found = look(keys, values, weights, self.steps, looks.scale)
            states = torch.stack([step.layers[-1].state for step in found], 1)
        leaf = states.clone().requires_grad_()
        with torch.enable_grad():
            scores = self.logits(features, leaf)
            index = choose(scores.detach())
            (pooled,) = torch.autograd.grad(scores.gather(1, index[:, None]).sum(), leaf)
        with torch.no_grad():
            # the pooled logit has a derivative by each state, the logit of a step by its own alone
            own = self.classifier.weight[index][:, None]
            silent = own.new_zeros(len(own), self.steps, own.shape[2])
            tops = [torch.cat([pooled[:, step, None], silent[:, step + 1 :], own], 1) for step in range(self.steps)]
            slopes = channel_slopes(found, tops, keys, values, weights, looks.scale).flip(1)
            slopes = pad(slopes[..., : features.shape[1] - looks.keys], (looks.keys, 0))
        if torch.is_grad_enabled():
            steps = self.forward(features)
            return self.logits(features, steps.states), steps, slopes
        attention = torch.stack([step.attention for step in found], 1).unflatten(2, features.shape[2:])
        return scores.detach(), Steps(states, attention), slopes


def _cam(weights: Float[Tensor, "b t d"], features: Float[Tensor, "b d u v"]) -> Float[Tensor, "b t u v"]:
    maps: Tensor = torch.bmm(weights, features.flatten(2)).unflatten(2, features.shape[2:])
    return maps
