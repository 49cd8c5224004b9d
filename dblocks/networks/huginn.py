"""Huginn, a network of recurrent depth (Geiping et al. 2025): the next-token baseline, and the same as a denoiser.

Tokens are read once by a prelude; then a state is iterated by the same few layers, each time beside what the prelude
read; a coda and the tied head read the last state. Shapes: N sequences, T tokens, D width, K in the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dblocks.networks.attention import Attend, KeyValues, causal
from dblocks.networks.embedding_target import EmbeddingTarget
from dblocks.networks.transformer import Attention, GatedMlp, Modulation, NoiseEmbedding, RotaryPositions, modulate
from dblocks.noise import Preconditioning
from dblocks.partition import Partition
from dblocks.spec import DiffusionBlocksSpec, HuginnSpec

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

    def rotation(self, start: int, stop: int, device: torch.device) -> Rotation:
        """Rotary positions `start` … `stop` − 1."""
        cosines, sines = self.rotary(stop, device)
        return cosines[start:], sines[start:]

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
        rotation = self.rotation(0, tokens.shape[1], tokens.device)
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


class Kept:
    """Keys and values of a stack of layers."""

    def __init__(self, layers: Sequence[nn.Module], capacity: int):
        self.caches = [KeyValues(capacity) for _ in layers]

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
        self.prelude, self.coda = Kept(network.prelude, capacity), Kept(network.coda, capacity)
        self.core = [Kept(network.core, capacity) for _ in range(iterations)]

    def read(self, tokens: Tensor) -> Tensor:
        """Logits [N, K] after the last of some further tokens [N, m]."""
        network, start = self.network, self.length
        self.length += tokens.shape[1]
        rotation = network.rotation(start, self.length, tokens.device)
        e = network.read(tokens, rotation, self.prelude.attends)
        state = self.states[:, start : self.length]
        for kept in self.core:
            state = network.iterate(state, e, rotation, attends=kept.attends)
        return network.head(network.finish(state, rotation, attends=self.coda.attends)[:, -1])


class HuginnDenoiser(EmbeddingTarget, Huginn):
    """The same network as a denoiser of the next token's embedding, D(z, σ | tokens so far): one pass of the iterated
    layers and the coda takes the state for the noisy embedding. There is no partition: one block holds all layers.

    A position reads clean tokens up to its own by the prelude, and the noisy embeddings of those after them up to its
    own target's, so nothing it must predict is seen without noise and the sequence is not doubled.
    """

    def __init__(self, spec: HuginnSpec, method: DiffusionBlocksSpec, partition: Partition, vocabulary: int):
        super().__init__(spec, vocabulary, method.adaln)
        self.partition, self.method = partition, method
        self.precondition = Preconditioning(0.5 if method.noise.sigma_data == "paper" else spec.width**-0.5)
        self.target_shape = (spec.width,)
        self.noise = NoiseEmbedding(spec.width, method.c_noise_scale)
        self.embedding.weight.requires_grad_(method.target_table == "trained")

    @property
    def table(self) -> nn.Embedding:
        """The table of targets is the one that tokens are embedded with and the head reads."""
        return self.embedding

    def denoise(self, block: int, z: Tensor, sigma: Tensor, inputs: Context) -> Tensor:
        """Logits [N·T, K] for z [N·T, D] at σ [N·T], after what `inputs` has read."""
        return inputs.denoise(z, sigma)

    def one_pass(
        self,
        z: Tensor,
        sigma: Tensor,
        e: Tensor,
        rotation: Rotation,
        core: Sequence[Attend] | None = None,
        coda: Sequence[Attend] | None = None,
    ) -> Tensor:
        """Logits [N, T, K] for z [N, T, D] at σ [N, T], or [N, 1] where it is the same along a sequence."""
        condition = self.noise(self.precondition.c_noise(sigma))
        c_in, c_skip, c_out = (
            f(sigma)[..., None] for f in (self.precondition.c_in, self.precondition.c_skip, self.precondition.c_out)
        )
        hidden = self.finish(self.iterate(c_in * z, e, rotation, condition, core), rotation, condition, coda)
        if self.method.head_preconditioning == "edm":
            # within the head's norm, as everywhere: at low σ this is z, of unit length, whose logits would stay so
            # small that no token could be told with confidence
            hidden = c_skip * z + c_out * hidden
        return self.head(hidden)


class Context:
    """What N sequences have read, T tokens each; denoises the token after every one of them."""

    def __init__(self, network: HuginnDenoiser, tokens: Tensor):
        self.network, self.shape = network, tokens.shape
        self.rotation = network.rotation(0, tokens.shape[1], tokens.device)
        self.e = network.read(tokens, self.rotation)

    def denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Logits [N·T, K] for z [N·T, D] at σ [N·T]."""
        z, sigma = z.view(*self.shape, -1), level_of(self.network, sigma.view(self.shape))
        return self.network.one_pass(z, sigma, self.e, self.rotation).flatten(0, 1)


class CachedContext:
    """The same for further tokens alone, read piece by piece; every step of the sampler, always as many, keeps keys
    and values of its own, as every iteration of the baseline does."""

    def __init__(self, network: HuginnDenoiser, capacity: int, steps: int):
        self.network, self.length, self.step = network, 0, 0
        self.prelude = Kept(network.prelude, capacity)
        self.kept = [(Kept(network.core, capacity), Kept(network.coda, capacity)) for _ in range(steps)]

    def read(self, tokens: Tensor) -> CachedContext:
        """Read some further tokens [N, m]; what is denoised next are those after them."""
        start, self.length, self.step, self.shape = self.length, self.length + tokens.shape[1], 0, tokens.shape
        self.rotation = self.network.rotation(start, self.length, tokens.device)
        self.e = self.network.read(tokens, self.rotation, self.prelude.attends)
        return self

    def denoise(self, z: Tensor, sigma: Tensor) -> Tensor:
        """The next step of the sampler: logits [N·m, K] for z [N·m, D] at σ [N·m]."""
        core, coda = self.kept[self.step]
        self.step += 1
        z, sigma = z.view(*self.shape, -1), level_of(self.network, sigma.view(self.shape))
        return self.network.one_pass(z, sigma, self.e, self.rotation, core.attends, coda.attends).flatten(0, 1)


def level_of(network: HuginnDenoiser, sigma: Tensor) -> Tensor:
    """σ [N, T] as it conditions: one level a token, or [N, 1] where a sequence has one level, which is cheaper."""
    return sigma if network.method.sigma_per == "token" else sigma[:, :1]
