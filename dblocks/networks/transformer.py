"""The transformer layer of ViT, DiT, Llama and masked language model, and its noise conditioning.

Shapes: N samples, T tokens, D width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dblocks.networks.attention import Attend


class Attention(nn.Module):
    """Multi-head self-attention, [N, T, D] → [N, T, D]; every token sees every token, unless `attend` says otherwise.

    With `rotation`, cosines and sines of `RotaryPositions`, queries and keys are turned by their positions.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, bias: bool = True, qk_bias: bool = False):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        # of queries and keys alone, where the rest has none (Huginn)
        self.qk_bias = nn.Parameter(torch.zeros(2, heads, 1, width // heads)) if qk_bias else None
        self.qkv = nn.Linear(width, 3 * width, bias)
        self.out = nn.Linear(width, width, bias)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None = None, attend: Attend | None = None) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if self.qk_bias is not None:
            q, k = q + self.qk_bias[0], k + self.qk_bias[1]
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        if attend is not None:
            x = attend(q, k, v)
        else:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out(x.transpose(1, 2).reshape(n, t, d))


class RotaryPositions(nn.Module):
    """Rotary positions (Su et al. 2021): cosines and sines [T, head width / 2] of position × rate."""

    def __init__(self, head_width: int, base: float = 10000.0):
        super().__init__()
        rates = base ** (-torch.arange(0, head_width, 2) / head_width)
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, stop: int, device: torch.device, start: int = 0) -> tuple[Tensor, Tensor]:
        angles = torch.arange(start, stop, device=device)[:, None] * self.rates
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + D/2}) of x [..., T, D] by their angles [T, D/2]; dtype is kept."""
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)
    return turned.to(x.dtype)


class Mlp(nn.Module):
    """Two linear layers with GELU between, [..., D] → [..., D]."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.up, self.down, self.dropout = nn.Linear(width, hidden), nn.Linear(hidden, width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.gelu(self.up(x))))


class GatedMlp(nn.Module):
    """SwiGLU (Shazeer 2020) without biases, as in Llama: down(silu(gate(x))·up(x)), [..., D] → [..., D]."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


Vector = Tensor | tuple[Tensor, Tensor]  # of AdaLN; a pair is of the two halves of a sequence


class Modulation(nn.Module):
    """`count` AdaLN vectors [N, 1, D] from a condition [N, D]; zero at initialisation (DiT, adaLN-zero).

    From one condition a token, [N, T, D], they are [N, T, D]. Of a pair of conditions, for the two halves of a
    sequence, each vector is a pair too: what all tokens of a half share is held once.

    `dit` puts SiLU before the linear layer, `official` (DiffusionBlocks' ViT code, vit.py) before and after it.

    Args:
        condition_width: of the condition, where it is not the network's.
    """

    def __init__(self, width: int, count: int, adaln: str, condition_width: int | None = None):
        super().__init__()
        self.count, self.silu_after = count, adaln == "official"
        self.linear = nn.Linear(condition_width or width, count * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Tensor | tuple[Tensor, Tensor]) -> tuple[Vector, ...]:
        if isinstance(condition, tuple):
            return tuple(zip(*map(self.forward, condition), strict=True))
        vectors = self.linear(F.silu(condition))
        vectors = F.silu(vectors) if self.silu_after else vectors
        return (vectors.unsqueeze(1) if condition.ndim == 2 else vectors).chunk(self.count, dim=-1)


class TransformerLayer(nn.Module):
    """Pre-norm transformer layer [N, T, D] → [N, T, D].

    With `adaln` the norms are shifted and scaled and the branches gated by a condition [N, D] (Peebles & Xie 2023),
    by one a token, [N, T, D], or by a pair, one for each half of the sequence; without, it is the plain layer of the
    baseline. With `gated_hidden`, the width inside a gated MLP, it is Llama's layer: RMSNorm, SwiGLU, no biases.

    Args:
        mlp_dropout: whether `dropout` acts inside the MLP too.
        condition_width: of the condition, where it is not `width`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        adaln: str | None = None,
        gated_hidden: int | None = None,
        mlp_dropout: bool = True,
        condition_width: int | None = None,
    ):
        super().__init__()
        llama, norm = gated_hidden is not None, {"eps": 1e-6, "elementwise_affine": adaln != "dit"}
        kind = nn.RMSNorm if llama else nn.LayerNorm
        self.norm1, self.norm2 = kind(width, **norm), kind(width, **norm)
        self.attention = Attention(width, heads, dropout, bias=not llama)
        inside = dropout if mlp_dropout else 0.0
        self.mlp = GatedMlp(width, gated_hidden) if llama else Mlp(width, int(width * mlp_ratio), inside)
        self.dropout = nn.Dropout(dropout)
        self.modulation = Modulation(width, 6, adaln, condition_width) if adaln else None

    def forward(
        self,
        x: Tensor,
        condition: Any = None,
        rotation: tuple[Tensor, Tensor] | None = None,
        attend: Attend | None = None,
    ) -> Tensor:
        if self.modulation is None:
            x = x + self.dropout(self.attention(self.norm1(x), rotation, attend))
            return x + self.dropout(self.mlp(self.norm2(x)))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)
        x = x + gated(self.dropout(self.attention(modulate(self.norm1(x), shift1, scale1), rotation, attend)), gate1)
        return x + gated(self.dropout(self.mlp(modulate(self.norm2(x), shift2, scale2))), gate2)


def modulate(x: Tensor, shift: Vector, scale: Vector) -> Tensor:
    """x·(1 + scale) + shift."""
    if isinstance(scale, tuple):
        # vectors of each token: 1 + scale would be one more of them to be kept for backward
        halves = zip(x.chunk(2, dim=1), shift, scale, strict=True)
        return torch.cat([part + part * its_scale + its_shift for part, its_shift, its_scale in halves], dim=1)
    return x * (1 + scale) + shift


def gated(x: Tensor, gate: Vector) -> Tensor:
    """gate·x."""
    if isinstance(gate, tuple):
        return torch.cat([part * its_gate for part, its_gate in zip(x.chunk(2, dim=1), gate, strict=True)], dim=1)
    return gate * x


class NoiseEmbedding(nn.Module):
    """c_noise [N] → condition [N, D]: sinusoid of `frequencies` numbers, then a two-layer MLP (DiT)."""

    def __init__(self, width: int, scale: float = 1.0, frequencies: int = 256):
        super().__init__()
        half = frequencies // 2
        self.register_buffer("rates", scale * torch.exp(-math.log(10000) * torch.arange(half) / half), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, c_noise: Tensor) -> Tensor:
        angles = c_noise[..., None].float() * self.rates
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))
