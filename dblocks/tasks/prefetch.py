"""Batches that are cut from files, made on the host while the GPU is at the step before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor


class Prefetcher:
    """Tensors of each step, on a device. For CUDA a thread makes those of the next step, in memory that can be copied
    from without a halt; the steps asked for are expected to go on as they went last.

    Args:
        make: step → tensors on the host, a function of the step alone.
    """

    def __init__(self, make: Callable[[int], tuple[Tensor, ...]], device: torch.device):
        self.make, self.device = make, device
        self._pool = ThreadPoolExecutor(1) if device.type == "cuda" else None
        self._coming: dict[int, Future] = {}
        self._last: int | None = None

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """The tensors of `step`."""
        if self._pool is None:
            return tuple(tensor.to(self.device) for tensor in self.make(step))
        ready = self._coming.pop(step, None) or self._pool.submit(self._pinned, step)
        following = step + (1 if self._last is None else max(1, step - self._last))
        self._last, self._coming = step, {following: self._pool.submit(self._pinned, following)}
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in ready.result())

    def anew(self) -> Prefetcher:
        """The same tensors, with none made yet."""
        return Prefetcher(self.make, self.device)

    def _pinned(self, step: int) -> tuple[Tensor, ...]:
        return tuple(tensor.pin_memory() for tensor in self.make(step))
