"""Who attends to whom in language models: causal, over [noisy | clean] halves, and with keys and values that are kept.

Each is a function of queries, keys and values [N, H, T, d] that have been turned by their positions, and gives
[N, H, T, d]; `Attention` takes it as `attend`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dblocks.errors import UserError

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token attends to itself and those before it."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def sees(query: Tensor, key: Tensor, length: int) -> Tensor:
    """Block Diffusion's mask (Arriola et al. 2025) at block size 1, over [noisy | clean] of 2 × `length` tokens.

    Noisy i sees noisy i and clean j < i; clean i sees clean j ≤ i; clean never sees noisy. Indices broadcast.
    """
    noisy_query, noisy_key = query < length, key < length
    i, j = query % length, key % length
    to_noisy = noisy_query & (i == j)
    to_clean = torch.where(noisy_query, j < i, j <= i)
    return torch.where(noisy_key, to_noisy, to_clean)


def halves_mask(length: int, device: torch.device) -> Tensor:
    """`sees` as a boolean array [2 × length, 2 × length]."""
    places = torch.arange(2 * length, device=device)
    return sees(places[:, None], places, length)


def masked_halves(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """[noisy | clean] by one call with a boolean mask."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def split_halves(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The same in two calls: the clean half is plainly causal, and only the noisy half's queries need a mask."""
    n = q.shape[2] // 2
    noisy = F.scaled_dot_product_attention(q[:, :, :n], k, v, attn_mask=mask[:n])
    return torch.cat([noisy, causal(q[:, :, n:], k[:, :, n:], v[:, :, n:])], dim=2)


def flex_halves(q: Tensor, k: Tensor, v: Tensor, flex: Callable, mask: Any) -> Tensor:
    """The same by FlexAttention, which leaves out what the mask leaves out."""
    return flex(q, k, v, block_mask=mask)


def flex_mask(length: int, device: torch.device) -> Any:
    """`sees` as FlexAttention's block mask."""
    from torch.nn.attention.flex_attention import create_block_mask

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees(query, key, length)

    return create_block_mask(mask, None, None, 2 * length, 2 * length, device=device)


@lru_cache(maxsize=8)
def attend_halves(kind: str, length: int, device: torch.device) -> Attend:
    """The way named in LlamaSpec.attention over halves of `length` tokens; `auto` is `split`, on CUDA `flex`.

    One object a length, mask and all: made outside the layers, so that compiled ones find it unchanged.
    Raises: UserError for `flex` without CUDA, where it has no backward pass.
    """
    if kind == "auto":
        kind = "flex" if device.type == "cuda" else "split"
    if kind == "flex":
        if device.type != "cuda":
            raise UserError("network.attention: 'flex' needs CUDA; take auto, masked or split")
        from torch.nn.attention.flex_attention import flex_attention

        return partial(flex_halves, flex=torch.compile(flex_attention), mask=flex_mask(length, device))
    return partial({"masked": masked_halves, "split": split_halves}[kind], mask=halves_mask(length, device))


class KVCache:
    """Keys and values [N, H, T, d] of the tokens that one layer has read, up to `capacity` of them."""

    def __init__(self, capacity: int):
        self.capacity, self.length = capacity, 0
        self.keys = self.values = torch.empty(0)

    def extend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keeps what some further tokens bring; they attend causally to each other and to all before them."""
        if self.length == 0:
            shape = (*k.shape[:2], self.capacity, k.shape[3])
            self.keys, self.values = k.new_empty(shape), v.new_empty(shape)
        before, self.length = self.length, self.length + k.shape[2]
        self.keys[:, :, before : self.length], self.values[:, :, before : self.length] = k, v
        if before == 0:
            return causal(q, k, v)
        places = torch.arange(self.length, device=q.device)
        mask = places <= places[before:, None]
        return F.scaled_dot_product_attention(
            q, self.keys[:, :, : self.length], self.values[:, :, : self.length], attn_mask=mask
        )

    def peek(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """A single noisy token attends to all that is kept and to itself; nothing of it is kept."""
        if self.length == 0:
            return v
        keys = torch.cat([self.keys[:, :, : self.length], k], dim=2)
        values = torch.cat([self.values[:, :, : self.length], v], dim=2)
        return F.scaled_dot_product_attention(q, keys, values)
