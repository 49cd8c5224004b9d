"""Attention and dropout as a GPU's kernels have them, so that what they save for backward can be counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class FusedAttention(torch.autograd.Function):
    """Attention as one operation: it saves q, k, v, its output and a log-sum-exp a query, and no T×T matrix.

    It has shapes and no values: for accounting only.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        n, heads, queries, _ = query.shape
        # laid out token by token, as the kernels do, so that heads are joined without a copy
        output = query.new_empty(n, queries, heads, value.shape[-1]).transpose(1, 2)
        log_sum_exp = query.new_empty(n, heads, queries, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sum_exp, mask)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


class AsOnGPU(TorchFunctionMode):
    """While it is on, attention is `FusedAttention`, and dropout saves one byte an element."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            query, key, value, *rest = args
            return FusedAttention.apply(query, key, value, rest[0] if rest else kwargs.get("attn_mask"))
        if function is F.dropout:
            return fused_dropout(*args, **kwargs)
        return function(*args, **kwargs)


def fused_dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout whose mask is bool."""
    return torch.native_dropout(x, p, True)[0] if training and p > 0 else x
