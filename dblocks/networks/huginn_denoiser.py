"""Huginn as a denoiser of the next token's embedding: one pass of its layers, where the baseline iterates them.

Shapes: N sequences, T tokens, D width, K in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dblocks.networks.attention import Attend
from dblocks.networks.embedding_target import EmbeddingTarget
from dblocks.networks.huginn import Huginn, KVCaches, Rotation
from dblocks.networks.transformer import NoiseEmbedding
from dblocks.partition import Partition, preconditioning
from dblocks.spec import DiffusionBlocksSpec, HuginnSpec


class HuginnDenoiser(EmbeddingTarget, Huginn):
    """The same network as a denoiser of the next token's embedding, D(z, σ | tokens so far): one pass of the iterated
    layers and the coda takes the state for the noisy embedding. There is no partition: one block holds all layers.

    A position reads clean tokens up to its own by the prelude, and the noisy embeddings of those after them up to its
    own target's, so nothing it must predict is seen without noise and the sequence is not doubled.
    """

    def __init__(self, spec: HuginnSpec, method: DiffusionBlocksSpec, partition: Partition, vocabulary: int):
        super().__init__(spec, vocabulary, method.adaln)
        self.partition, self.method = partition, method
        self.precondition = preconditioning(method.noise, spec.width)
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
        c_in, c_skip, c_out = self.precondition.scalings(sigma, z)
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
        self.rotation = network.rotary(tokens.shape[1], tokens.device)
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
        self.prelude = KVCaches(network.prelude, capacity)
        self.kept = [(KVCaches(network.core, capacity), KVCaches(network.coda, capacity)) for _ in range(steps)]

    def read(self, tokens: Tensor) -> CachedContext:
        """Read some further tokens [N, m]; what is denoised next are those after them."""
        start, self.length, self.step, self.shape = self.length, self.length + tokens.shape[1], 0, tokens.shape
        self.rotation = self.network.rotary(self.length, tokens.device, start)
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
