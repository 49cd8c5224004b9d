"""Noise interval ↔ block ↔ layers: the one road from a noise level to the block that owns it.

Boundaries σ_0 < … < σ_B ascend and blocks run the other way: block b (paper's count, from 1) owns
[σ_{B−b}, σ_{B−b+1}], of whose ends the tie rule decides. In code blocks are counted from 0, so block 0
holds the first layers and the most noise. Training, evaluation and sampling all ask the same `Partition`.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from dblocks.noise import NoiseDistribution, NoiseLevel, Preconditioning
from dblocks.spec import DiffusionBlocksSpec, NoiseSpec


@dataclass(frozen=True)
class Partition:
    """B blocks: their noise intervals, their training intervals, their layers.

    Attributes:
        boundaries: σ_0 < … < σ_B, float64.
        layers_per_block: layers of block 0, 1, …
        overlap: γ ≥ 0.
        exact_mass: whether boundary k holds exactly the share k/B of the probability mass, so that a grid
            point with a known mass is compared in integers.
        tie_rule: who owns a level on a boundary: `lower` the block below it, `official` the noisier one.
    """

    boundaries: tuple[float, ...]
    layers_per_block: tuple[int, ...]
    overlap: float = 0.0
    exact_mass: bool = False
    tie_rule: str = "lower"

    @property
    def num_blocks(self) -> int:
        return len(self.boundaries) - 1

    def layers(self, block: int) -> range:
        """Layers of `block`, counted from the network's input."""
        start = sum(self.layers_per_block[:block])
        return range(start, start + self.layers_per_block[block])

    def interval(self, block: int) -> tuple[float, float]:
        """(low, high) of σ that `block` owns."""
        k = self.num_blocks - 1 - block
        return self.boundaries[k], self.boundaries[k + 1]

    def training_interval(self, block: int) -> tuple[float, float]:
        """`interval` widened in log σ: α = (σ_high/σ_low)^γ, [σ_low/α, σ_high·α], clipped (Section 3.3)."""
        low, high = self.interval(block)
        alpha = (high / low) ** self.overlap
        return max(low / alpha, self.boundaries[0]), min(high * alpha, self.boundaries[-1])

    def evaluations(self, levels: Sequence[NoiseLevel]) -> list[int]:
        """How often a sampler that runs at these levels runs each block."""
        route = [self.owner(level) for level in levels]
        return [route.count(block) for block in range(self.num_blocks)]

    def owner(self, level: NoiseLevel | float) -> int:
        """The block that denoises at `level`; levels outside [σ_0, σ_B] go to the nearest block."""
        if not isinstance(level, NoiseLevel):
            level = NoiseLevel(level)
        if level.mass is not None and self.exact_mass:
            inner: Sequence = [Fraction(k, self.num_blocks) for k in range(1, self.num_blocks)]
            value: float | Fraction = level.mass
        else:
            inner, value = self.boundaries[1:-1], level.sigma
        find = bisect_left if self.tie_rule == "lower" else bisect_right
        return self.num_blocks - 1 - find(inner, value)


def equi_probability_boundaries(noise: NoiseDistribution, num_blocks: int) -> tuple[float, ...]:
    """Each block gets 1/B of the probability mass (paper, Section 3.3)."""
    return tuple(noise.quantile(k / num_blocks) for k in range(num_blocks + 1))


def uniform_boundaries(noise: NoiseDistribution, num_blocks: int) -> tuple[float, ...]:
    """Equal intervals in log σ (Appendix E.6.2, the runs of Table 7)."""
    low, high = math.log(noise.sigma_min), math.log(noise.sigma_max)
    inner = [math.exp(low + (high - low) * k / num_blocks) for k in range(1, num_blocks)]
    return noise.sigma_min, *inner, noise.sigma_max


def uniform_linear_boundaries(noise: NoiseDistribution, num_blocks: int) -> tuple[float, ...]:
    """Equal intervals in σ (the reading of Section 3.3)."""
    width = (noise.sigma_max - noise.sigma_min) / num_blocks
    inner = [noise.sigma_min + width * k for k in range(1, num_blocks)]
    return noise.sigma_min, *inner, noise.sigma_max


BOUNDARIES = {
    "equi_probability": equi_probability_boundaries,
    "uniform": uniform_boundaries,
    "uniform_linear": uniform_linear_boundaries,
}


def noise_distribution(spec: NoiseSpec) -> NoiseDistribution:
    """The distribution a NoiseSpec describes."""
    return NoiseDistribution(spec.p_mean, spec.p_std, spec.sigma_min, spec.sigma_max)


def preconditioning(spec: NoiseSpec, dimension: int) -> Preconditioning:
    """EDM's for unit-norm targets of `dimension` numbers, with the σ_data that a NoiseSpec names."""
    return Preconditioning(0.5 if spec.sigma_data == "paper" else dimension**-0.5)


def block_layers(spec: DiffusionBlocksSpec, num_layers: int) -> tuple[int, ...]:
    """Layers of block 0, 1, … of a network of `num_layers`: as given, or cut evenly."""
    return tuple(spec.layers_per_block or (num_layers // spec.num_blocks,) * spec.num_blocks)


def sets_of(embedders: str, num_blocks: int) -> tuple[int, int]:
    """How many embedders and heads a network cut into blocks has, by DiffusionBlocksSpec.embedders."""
    return (num_blocks if embedders == "own" else 1), (1 if embedders == "shared" else num_blocks)


def partition_of(spec: DiffusionBlocksSpec, num_layers: int) -> Partition:
    """The partition a DiffusionBlocksSpec describes, for a network of `num_layers` layers."""
    return Partition(
        boundaries=BOUNDARIES[spec.partition](noise_distribution(spec.noise), spec.num_blocks),
        layers_per_block=block_layers(spec, num_layers),
        overlap=spec.overlap,
        exact_mass=spec.partition == "equi_probability",
        tie_rule=spec.sampling.tie_rule,
    )
