"""What every task on images shares: splits of prepared arrays, and the order of samples in each epoch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dblocks import seeds
from dblocks.data.prepared import PreparedData


class EpochOrder:
    """Sample indices of each step: every sample once an epoch, shuffled, the last incomplete batch dropped."""

    def __init__(self, seed: int, count: int, batch_size: int, device: torch.device):
        self.seed, self.count, self.batch_size, self.device = seed, count, batch_size, device
        self.steps_per_epoch = count // batch_size
        self._of = (-1, torch.empty(0))

    def indices(self, step: int) -> Tensor:
        """Indices [batch_size] of `step`, a function of (seed, step)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._of[0] != epoch:
            draws = seeds.generator("cpu", self.seed, "order", epoch)
            self._of = (epoch, torch.randperm(self.count, generator=draws).to(self.device))
        return self._of[1][position * self.batch_size : (position + 1) * self.batch_size]


def split_indices(data: PreparedData, split: str) -> np.ndarray | None:
    """Indices into the training arrays of fit or validation; None for a whole array, train or test."""
    if split in ("train", "test"):
        return None
    held_out = data.array("validation")
    return held_out if split == "validation" else np.setdiff1d(np.arange(len(data.array("train_labels"))), held_out)


def split_arrays(data: PreparedData, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of train, fit, validation or test."""
    chosen = split_indices(data, split)
    if chosen is None:
        return data.array(f"{split}_images"), data.array(f"{split}_labels")
    return data.array("train_images")[chosen], data.array("train_labels")[chosen]


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy of `array` on `device`."""
    return torch.from_numpy(np.array(array)).to(device)
