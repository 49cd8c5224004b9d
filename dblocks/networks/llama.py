"""A causal transformer over tokens after Llama 2: the next-token baseline, and its layers as denoisers of tokens.

Shapes: N sequences, T tokens, D width, K tokens in the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dblocks.networks.attention import KVCache, attend_halves, causal
from dblocks.networks.embedding_target import EmbeddingTarget
from dblocks.networks.transformer import Modulation, NoiseEmbedding, RotaryPositions, TransformerLayer, modulate
from dblocks.partition import Partition, preconditioning, sets_of
from dblocks.spec import DiffusionBlocksSpec, LlamaSpec

DEVIATION = 0.02  # of all weights at first, as in the published Llama's configuration


def llama_layers(spec: LlamaSpec, adaln: str | None = None) -> nn.ModuleList:
    """Llama's layers, with noise conditioning where `adaln` names one (zero at first, as everywhere)."""
    layers = nn.ModuleList(
        TransformerLayer(spec.width, spec.heads, dropout=spec.dropout, adaln=adaln, gated_hidden=spec.hidden)
        for _ in range(spec.layers)
    )
    for layer in layers:
        for weight in (*layer.attention.parameters(), *layer.mlp.parameters()):
            nn.init.normal_(weight, std=DEVIATION)
    return layers


def token_embedding(vocabulary: int, width: int) -> nn.Embedding:
    """An embedding initialised as Llama's."""
    embedding = nn.Embedding(vocabulary, width)
    nn.init.normal_(embedding.weight, std=DEVIATION)
    return embedding


class Llama(nn.Module):
    """The baseline: tokens [N, T] → logits [N, T, K] of the token after each."""

    def __init__(self, spec: LlamaSpec, vocabulary: int):
        super().__init__()
        self.embedding = token_embedding(vocabulary, spec.width)
        self.layers = llama_layers(spec)
        self.norm = nn.RMSNorm(spec.width, eps=1e-6)
        self.head = nn.Linear(spec.width, vocabulary, bias=False)
        nn.init.normal_(self.head.weight, std=DEVIATION)
        self.rotary = RotaryPositions(spec.width // spec.heads, spec.rotary_base)

    def features(self, tokens: Tensor) -> Tensor:
        """What the head reads, [N, T, D]."""
        x, rotation = self.embedding(tokens), self.rotary(tokens.shape[1], tokens.device)
        for layer in self.layers:
            x = layer(x, None, rotation, causal)
        return self.norm(x)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.features(tokens))

    def reader(self, capacity: int) -> LlamaReader:
        """Reads up to `capacity` tokens piece by piece, keeping keys and values."""
        return LlamaReader(self, capacity)


class LlamaReader:
    """What a network has read of N sequences."""

    def __init__(self, network: Llama, capacity: int):
        self.network, self.length = network, 0
        self.kept = [KVCache(capacity) for _ in network.layers]

    def read(self, tokens: Tensor) -> Tensor:
        """Logits [N, K] after the last of some further tokens [N, m]."""
        network, start = self.network, self.length
        self.length += tokens.shape[1]
        x = network.embedding(tokens)
        rotation = network.rotary(self.length, tokens.device, start)
        for layer, kept in zip(network.layers, self.kept, strict=True):
            x = layer.forward(x, None, rotation, kept.extend)  # past torch.compile, which shapes that grow defeat
        return network.head(network.norm(x[:, -1]))


class TokenEmbedders(nn.Module):
    """What a block needs besides its layers to read its input: the clean tokens before, and the noise level."""

    def __init__(self, spec: LlamaSpec, method: DiffusionBlocksSpec, vocabulary: int):
        super().__init__()
        self.context = token_embedding(vocabulary, spec.width)
        self.noise = NoiseEmbedding(spec.width, method.c_noise_scale)


class TokenHead(nn.Module):
    """Hidden states [N, T, D] under conditions → logits [N, T, K]: modulated RMSNorm, then linear."""

    def __init__(self, width: int, vocabulary: int, adaln: str):
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = Modulation(width, 2, adaln)
        self.linear = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.linear.weight, std=DEVIATION)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.linear(modulate(self.norm(x), *self.modulation(condition)))


class LlamaDenoiser(EmbeddingTarget, nn.Module):
    """Llama's layers cut into blocks, each a denoiser D_b(z, σ | tokens before) of a token's embedding.

    Every token is a sample of its own: z [M, D] and σ [M] are those of M = N·T tokens in N sequences. A block reads
    [noisy | clean], 2·T tokens, under the mask of `attention.sees`: noisy position i is asked for token i, its target
    not shifted. Both halves have the same rotary positions. The clean half is conditioned on σ_min whatever σ is, so
    its keys and values can be kept while tokens are generated.
    """

    def __init__(self, spec: LlamaSpec, method: DiffusionBlocksSpec, partition: Partition, vocabulary: int):
        super().__init__()
        self.partition, self.method, self.attention = partition, method, spec.attention
        self.precondition = preconditioning(method.noise, spec.width)
        self.target_shape = (spec.width,)
        self.table = token_embedding(vocabulary, spec.width)
        self.table.weight.requires_grad_(method.target_table == "trained")
        copies, heads = sets_of(method.embedders, partition.num_blocks)
        self.embedders = nn.ModuleList(TokenEmbedders(spec, method, vocabulary) for _ in range(copies))
        self.embedders.requires_grad_(method.embedders != "frozen")
        self.heads = nn.ModuleList(TokenHead(spec.width, vocabulary, method.adaln) for _ in range(heads))
        self.layers = llama_layers(spec, method.adaln)
        self.rotary = RotaryPositions(spec.width // spec.heads, spec.rotary_base)

    def embedders_of(self, block: int) -> TokenEmbedders:
        """The embedders that `block` reads its input with."""
        return self.embedders[block % len(self.embedders)]

    def clean_condition(self, block: int) -> Tensor:
        """The condition [1, 1, D] of every clean token: the least noise there is."""
        return self.condition(block, torch.full((1, 1), self.method.noise.sigma_min, device=self.table.weight.device))

    def condition(self, block: int, sigma: Tensor) -> Tensor:
        """What tells `block` the noise of each token: σ [N, T] → [N, T, D]."""
        return self.embedders_of(block).noise(self.precondition.c_noise(sigma))

    def denoise(self, block: int, z: Tensor, sigma: Tensor, inputs: Tensor | Prefix) -> Tensor:
        """Logits [M, K] of block `block` for z [M, D] at σ [M].

        Args:
            inputs: the clean tokens [N, T] behind M = N·T noisy ones; or what N sequences begin with, whose next
                tokens (M = N) are denoised.
        """
        if isinstance(inputs, Prefix):
            return inputs.denoise(block, z, sigma)
        z, sigma = z.view(*inputs.shape, -1), sigma.view(inputs.shape)
        condition = self.condition(block, sigma)
        hidden, _ = self.halves(block, z, sigma, inputs, condition)
        return self.head(block, z, sigma, hidden, condition).flatten(0, 1)

    def halves(
        self, block: int, z: Tensor, sigma: Tensor, tokens: Tensor, noisy_condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Last hidden states of the noisy and of the clean half, each [N, T, D]; z [N, T, D], σ and tokens [N, T]."""
        length, condition = tokens.shape[1], (noisy_condition, self.clean_condition(block))
        clean = self.embedders_of(block).context(tokens)
        x = torch.cat([self.precondition.c_in(sigma)[..., None] * z, clean], dim=1)
        rotation = tuple(part.repeat(2, 1) for part in self.rotary(length, tokens.device))
        attend = attend_halves(self.attention, length, tokens.device)
        for i in self.partition.layers(block):
            x = self.layers[i](x, condition, rotation, attend)
        return x[:, :length], x[:, length:]

    def head(self, block: int, z: Tensor, sigma: Tensor, hidden: Tensor, condition: Tensor) -> Tensor:
        """Logits [N, T, K] from a block's last hidden states of noisy tokens [N, T, D]."""
        if self.method.head_preconditioning == "edm":
            _, c_skip, c_out = self.precondition.scalings(sigma, z)
            hidden = c_skip * z + c_out * hidden
        return self.heads[block % len(self.heads)](hidden, condition)


class Prefix:
    """What N sequences begin with; denoises the token that comes next. This one reads it all again at every call."""

    def __init__(self, network: LlamaDenoiser, tokens: Tensor):
        self.network, self.tokens = network, tokens

    def append(self, tokens: Tensor) -> None:
        """The next tokens [N] are known."""
        self.tokens = torch.cat([self.tokens, tokens[:, None]], dim=1)

    def denoise(self, block: int, z: Tensor, sigma: Tensor) -> Tensor:
        """Logits [N, K] of the next token for z [N, D] at σ [N]."""
        # the place that is asked for is the last noisy one; no noisy token sees the others, nor the clean one there
        tokens = torch.cat([self.tokens, self.tokens[:, :1]], dim=1)
        noisy = z[:, None].expand(-1, tokens.shape[1], -1)
        levels = sigma[:, None].expand(tokens.shape)
        return self.network.denoise(block, noisy.flatten(0, 1), levels.flatten(), tokens).view(*tokens.shape, -1)[:, -1]


class CachedPrefix(Prefix):
    """The same with the clean half's keys and values kept, for every layer of every block: a block's clean half does
    not depend on σ, so a denoising step costs one token."""

    def __init__(self, network: LlamaDenoiser, tokens: Tensor, capacity: int):
        super().__init__(network, tokens[:, :0])
        self.kept = [KVCache(capacity) for _ in network.layers]
        self._read(tokens)

    def append(self, tokens: Tensor) -> None:
        self._read(tokens[:, None])

    def _read(self, tokens: Tensor) -> None:
        """Each finished token is read once as a clean one, by every block straight from its embedding."""
        network, start = self.network, self.tokens.shape[1]
        self.tokens = torch.cat([self.tokens, tokens], dim=1)
        rotation = network.rotary(self.tokens.shape[1], tokens.device, start)
        for block in range(network.partition.num_blocks):
            x, condition = network.embedders_of(block).context(tokens), network.clean_condition(block)
            for i in network.partition.layers(block):
                # past torch.compile, which shapes that grow defeat
                x = network.layers[i].forward(x, condition, rotation, self.kept[i].extend)

    def denoise(self, block: int, z: Tensor, sigma: Tensor) -> Tensor:
        network, place = self.network, self.tokens.shape[1]
        z, sigma = z[:, None], sigma[:, None]
        condition = network.condition(block, sigma)
        x = network.precondition.c_in(sigma)[..., None] * z
        rotation = network.rotary(place + 1, z.device, place)
        for i in network.partition.layers(block):
            x = network.layers[i].forward(x, condition, rotation, self.kept[i].peek)
        return network.head(block, z, sigma, x, condition)[:, 0]
