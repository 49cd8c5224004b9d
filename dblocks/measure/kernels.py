"""Attention, RMSNorm and dropout as a GPU's kernels have them, so that what they save for backward can be counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class FusedAttention(torch.autograd.Function):
    """Attention as one operation: it saves q, k, v, its output and a log-sum-exp a query, and no T×T matrix.

    A mask is a constant of the run and none of it. It has shapes and no values: for accounting only.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        n, heads, queries, _ = query.shape
        # laid out token by token, as the kernels do, so that heads are joined without a copy
        output = query.new_empty(n, queries, heads, value.shape[-1]).transpose(1, 2)
        log_sum_exp = query.new_empty(n, heads, queries, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sum_exp)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class FusedRMSNorm(torch.autograd.Function):
    """RMSNorm as one operation: it saves its input, one number a row and its weight. It has shapes and no values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(*x.shape[:-1], 1, dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), None if weight is None else torch.empty_like(weight)


class AsOnGPU(TorchFunctionMode):
    """While it is on, attention is `FusedAttention`, RMSNorm `FusedRMSNorm`, and dropout saves one byte an element.

    Args:
        fused_norm: without, RMSNorm is what a CPU makes of it, several operations.
    """

    def __init__(self, fused_norm: bool = True):
        super().__init__()
        self.fused_norm = fused_norm

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            return FusedAttention.apply(*args[:3])
        if function is F.rms_norm and self.fused_norm:
            return FusedRMSNorm.apply(args[0], kwargs.get("weight"))
        if function is F.dropout:
            return fused_dropout(*args, **kwargs)
        return function(*args, **kwargs)


def fused_dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout whose mask is bool."""
    return torch.native_dropout(x, p, True)[0] if training and p > 0 else x
