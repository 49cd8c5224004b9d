"""Operations of a training step, counted on tensors without numbers: multiplications and additions of matrices.

`torch.utils.flop_counter` counts what runs, forward and backward; on the meta device attention is taken apart into its
matrix products, where on a CPU it counts as nothing. A product of [a, b] and [b, c] is 2·a·b·c operations. Attention is
counted whole, T×T, though a causal kernel may leave half of it out; the rest (norms, softmax, optimiser) is not.
Shapes: N sequences of T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dblocks.networks.huginn import Huginn
from dblocks.networks.huginn_denoiser import Context, HuginnDenoiser
from dblocks.partition import partition_of
from dblocks.spec import DiffusionBlocksSpec, HuginnSpec, RecurrentDepthSpec, RunSpec

NODES = 32  # of the Gauss–Hermite rule over τ


@dataclass(frozen=True)
class Operations:
    """Of one training step.

    Attributes:
        layers: in transformer layers, attention and modulation included.
        whole: in everything: adapter, noise embedding and head besides.
    """

    layers: float
    whole: float

    def __add__(self, other: Operations) -> Operations:
        return Operations(self.layers + other.layers, self.whole + other.whole)

    def __mul__(self, factor: float) -> Operations:
        return Operations(self.layers * factor, self.whole * factor)

    __rmul__ = __mul__


class Added(nn.Module):
    """In the adapter's place, and without a matrix: the two halves of [..., 2·D] added."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : x.shape[-1] // 2] + x[..., x.shape[-1] // 2 :]


class AnyNoise(nn.Module):
    """In the noise embedding's place, and without a matrix: the same condition [..., D] for every σ."""

    def __init__(self, width: int):
        super().__init__()
        self.condition = nn.Parameter(torch.zeros(width))

    def forward(self, c_noise: Tensor) -> Tensor:
        return self.condition.expand(*c_noise.shape, -1)


def counted(network: Huginn, forward: Callable[[], Tensor]) -> Operations:
    """Operations of a step of `network`: of `forward` and of its way back, with all and with the layers alone."""

    def count() -> int:
        with FlopCounterMode(display=False) as counter:
            forward().sum().backward()
        return counter.get_total_flops()

    whole = count()
    network.adapter, network.noise = Added(), AnyNoise(network.spec.width)
    network.__dict__["head"] = lambda hidden: hidden  # before the method of that name
    return Operations(count(), whole)


def baseline_step(
    spec: HuginnSpec, vocabulary: int, batch: int, length: int, depth: int, backpropagated: int
) -> Operations:
    """One step of stochastic depth that drew `depth` iterations, on N = `batch` sequences of T = `length`."""
    with torch.device("meta"):
        network = Huginn(spec, vocabulary)
        tokens, state = torch.zeros(batch, length, dtype=torch.int64), torch.zeros(batch, length, spec.width)
        return counted(network, lambda: network(tokens, state, depth, backpropagated))


def denoiser_step(
    spec: HuginnSpec, method: DiffusionBlocksSpec, vocabulary: int, batch: int, length: int, doubled: bool = False
) -> Operations:
    """One step of the same network as a denoiser: a single pass at one σ.

    Args:
        doubled: what it would be if a clean copy stood beside the noisy sequence, as in Table 4, and only the noisy
            half were read by the head.
    """
    with torch.device("meta"):
        network = HuginnDenoiser(spec, method, partition_of(method, spec.layers), vocabulary)
        if doubled:
            noisy, length = length, 2 * length
            network.__dict__["head"] = lambda hidden: Huginn.head(network, hidden[:, :noisy])
        tokens, sigma = torch.zeros(batch, length, dtype=torch.int64), torch.zeros(batch * length)
        return counted(network, lambda: Context(network, tokens).denoise(network.target(tokens.flatten()), sigma))


def depth_masses(mean: int, log_deviation: float, backpropagated: int) -> np.ndarray:
    """Probabilities of r = 1, …, `backpropagated` iterations; the rest is of more."""
    from scipy.stats import poisson

    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    rates = np.exp(np.log(mean) - log_deviation**2 / 2 + log_deviation * nodes)
    masses = poisson.pmf(np.arange(backpropagated)[:, None], rates)  # r − 1 is Poisson
    return masses @ (weights / weights.sum())


def expected_depth(mean: int, log_deviation: float, backpropagated: int) -> tuple[float, float]:
    """Expected iterations with a gradient, E[min(r, k)], and without one, E[max(r − k, 0)]; together mean + 1."""
    masses, counts = depth_masses(mean, log_deviation, backpropagated), np.arange(1, backpropagated + 1)
    with_gradient = float(masses @ counts + (1 - masses.sum()) * backpropagated)
    return with_gradient, mean + 1 - with_gradient


def mean_baseline_step(
    spec: HuginnSpec, method: RecurrentDepthSpec, vocabulary: int, batch: int, length: int
) -> Operations:
    """A step's operations averaged over its depth. They are linear in iterations with and without a gradient, so three
    counts give them all: of one iteration, of as many as have a gradient, and of one more."""
    k, sizes = method.backpropagated, (vocabulary, batch, length)
    one, full, more = (baseline_step(spec, *sizes, depth, k) for depth in (1, k, k + 1))
    with_gradient, without = expected_depth(spec.iterations, method.log_deviation, k)
    # of k = 1 every step has it, and nothing is taken off
    each = (full + -1 * one) * (1 / max(1, k - 1))
    return full + (with_gradient - k) * each + without * (more + -1 * full)


def steps_of(spec: RunSpec, vocabulary: int) -> Operations:
    """Operations of a training step of a run of network huginn, averaged over its depth where that is random."""
    sizes = (vocabulary, spec.training.batch_size, spec.task.length - 1)  # the last token of a window is a target only
    if isinstance(spec.method, RecurrentDepthSpec):
        return mean_baseline_step(spec.network, spec.method, *sizes)
    return denoiser_step(spec.network, spec.method, *sizes)
