"""Huginn, a network of recurrent depth (Geiping et al. 2025), as it is trained on next tokens.

Tokens are read once by a prelude; then a state is iterated by the same few layers, each time beside what the prelude
read; a coda and the tied head read the last state. Shapes: N sequences, T tokens, D width, K in the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dblocks.networks.attention import Attend, KVCache, causal
from dblocks.networks.transformer import Attention, GatedMlp, Modulation, RotaryPositions, modulate
from dblocks.spec import HuginnSpec

STATE_VARIANCE = 2 / 5  # of a number of the first state, whatever the width (recpre/model_dynamic.py)
Rotation = tuple[Tensor, Tensor]


class SandwichLayer(nn.Module):
    """Huginn's layer [N, T, D] → [N, T, D]: norms before each branch, and on the sum after it.

    With `adaln` the norms before the branches are shifted and scaled and the branches gated by a condition [N, T, D]
    or [N, 1, D], as in the shared layer; the norms on the sums stay as they are.
    """

    def __init__(self, spec: HuginnSpec, adaln: str | None = None):
        super().__init__()
        before, after = {"eps": 1e-6, "elementwise_affine": adaln != "dit"}, {"eps": 1e-6}
        self.norm1, self.norm2 = nn.RMSNorm(spec.width, **before), nn.RMSNorm(spec.width, **after)
        self.norm3, self.norm4 = nn.RMSNorm(spec.width, **before), nn.RMSNorm(spec.width, **after)
        self.attention = Attention(spec.width, spec.heads, bias=False, qk_bias=True)
        self.mlp = GatedMlp(spec.width, spec.hidden)
        self.modulation = Modulation(spec.width, 6, adaln) if adaln else None

    def forward(self, x: Tensor, condition: Tensor | None, rotation: Rotation, attend: Attend) -> Tensor:
        if self.modulation is None:
            x = self.norm2(x + self.attention(self.norm1(x), rotation, attend))
            return self.norm4(x + self.mlp(self.norm3(x)))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)
        x = self.norm2(x + gate1 * self.attention(modulate(self.norm1(x), shift1, scale1), rotation, attend))
        return self.norm4(x + gate2 * self.mlp(modulate(self.norm3(x), shift2, scale2)))


class Huginn(nn.Module):
    """Tokens [N, T] and a first state [N, T, D] → logits [N, T, K] of the token after each.

    Args:
        adaln: of the layers that are iterated and of the coda, where they are conditioned on noise; the prelude, which
            reads clean tokens, never is.
    """

    def __init__(self, spec: HuginnSpec, vocabulary: int, adaln: str | None = None):
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(vocabulary, spec.width)
        self.prelude = nn.ModuleList(SandwichLayer(spec) for _ in range(spec.prelude))
        self.adapter = nn.Linear(2 * spec.width, spec.width, bias=False)
        self.core = nn.ModuleList(SandwichLayer(spec, adaln) for _ in range(spec.recurrent))
        self.coda = nn.ModuleList(SandwichLayer(spec, adaln) for _ in range(spec.coda))
        self.norm = nn.RMSNorm(spec.width, eps=1e-6)
        self.rotary = RotaryPositions(spec.width // spec.heads, spec.rotary_base)
        initialise(self)

    @property
    def layers(self) -> list[nn.Module]:
        """All of them, in order."""
        return [*self.prelude, *self.core, *self.coda]

    def start(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """A random first state [*shape, D], on the generator's device: normal, cut at three deviations."""
        deviation = math.sqrt(STATE_VARIANCE)
        state = torch.empty((*shape, self.spec.width), device=generator.device)
        return nn.init.trunc_normal_(state, std=deviation, a=-3 * deviation, b=3 * deviation, generator=generator)

    def read(self, tokens: Tensor, rotation: Rotation, attends: Sequence[Attend] | None = None) -> Tensor:
        """What the prelude makes of tokens [N, T]: e [N, T, D]."""
        x = self.embedding(tokens) * math.sqrt(self.spec.width)
        return run(self.prelude, x, None, rotation, attends)

    def iterate(
        self,
        state: Tensor,
        e: Tensor,
        rotation: Rotation,
        condition: Tensor | None = None,
        attends: Sequence[Attend] | None = None,
    ) -> Tensor:
        """The next state [N, T, D]: what was read is put beside the state each time anew."""
        return run(self.core, self.adapter(torch.cat([state, e], dim=-1)), condition, rotation, attends)

    def finish(
        self,
        state: Tensor,
        rotation: Rotation,
        condition: Tensor | None = None,
        attends: Sequence[Attend] | None = None,
    ) -> Tensor:
        """What the coda makes of the last state [N, T, D]."""
        return run(self.coda, self.norm(state), condition, rotation, attends)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., K] of hidden states [..., D], by the table that tokens are embedded with; the same norm stands
        before the coda and here."""
        return F.linear(self.norm(hidden), self.embedding.weight)

    def forward(self, tokens: Tensor, state: Tensor, iterations: int, backpropagated: int | None = None) -> Tensor:
        """Logits after so many iterations, of which only the last `backpropagated` (None: all) have a gradient.

        What was read enters every iteration, so the prelude has its gradient from those.
        """
        rotation = self.rotary(tokens.shape[1], tokens.device)
        e = self.read(tokens, rotation)
        free = 0 if backpropagated is None else max(0, iterations - backpropagated)
        with torch.no_grad():
            for _ in range(free):
                state = self.iterate(state, e, rotation)
        for _ in range(iterations - free):
            state = self.iterate(state, e, rotation)
        return self.head(self.finish(state, rotation))


def run(
    layers: nn.ModuleList, x: Tensor, condition: Tensor | None, rotation: Rotation, attends: Sequence[Attend] | None
) -> Tensor:
    """x through layers one after another, each with its own way to attend; without any, causally."""
    if attends is None:
        for layer in layers:
            x = layer(x, condition, rotation, causal)
    else:
        for layer, attend in zip(layers, attends, strict=True):
            x = layer.forward(x, condition, rotation, attend)  # past torch.compile, which shapes that grow defeat
    return x


def initialise(network: Huginn) -> None:
    """Weights normal, cut at three deviations, of variance 2/(5·D); those that end a branch 1/(5·D·l), with l the
    layers that a token passes at the mean depth (Geiping et al. 2025, init.py). Modulations stay zero."""
    spec, deviation = network.spec, math.sqrt(2 / (5 * network.spec.width))
    depth = spec.prelude + spec.coda + spec.recurrent * spec.iterations
    small = math.sqrt(1 / (5 * spec.width * depth))
    for layer in network.layers:
        attention, mlp = layer.attention, layer.mlp
        weights = {attention.qkv: deviation, mlp.gate: deviation, mlp.up: deviation, attention.out: small}
        for linear, std in (weights | {mlp.down: small}).items():
            nn.init.trunc_normal_(linear.weight, std=std, a=-3 * std, b=3 * std)
    for module in (network.embedding, network.adapter):
        nn.init.trunc_normal_(module.weight, std=deviation, a=-3 * deviation, b=3 * deviation)


class KVCaches:
    """Keys and values of a stack of layers."""

    def __init__(self, layers: Sequence[nn.Module], capacity: int):
        self.caches = [KVCache(capacity) for _ in layers]

    @property
    def attends(self) -> list[Attend]:
        return [cache.extend for cache in self.caches]


class HuginnReader:
    """Reads up to `capacity` tokens piece by piece; every iteration keeps keys and values of its own.

    Args:
        states: the first state of every position, [N, capacity, D].
    """

    def __init__(self, network: Huginn, states: Tensor, iterations: int):
        self.network, self.states, self.length = network, states, 0
        capacity = states.shape[1]
        self.prelude, self.coda = KVCaches(network.prelude, capacity), KVCaches(network.coda, capacity)
        self.core = [KVCaches(network.core, capacity) for _ in range(iterations)]

    def read(self, tokens: Tensor) -> Tensor:
        """Logits [N, K] after the last of some further tokens [N, m]."""
        network, start = self.network, self.length
        self.length += tokens.shape[1]
        rotation = network.rotary(self.length, tokens.device, start)
        e = network.read(tokens, rotation, self.prelude.attends)
        state = self.states[:, start : self.length]
        for kept in self.core:
            state = network.iterate(state, e, rotation, attends=kept.attends)
        return network.head(network.finish(state, rotation, attends=self.coda.attends)[:, -1])
