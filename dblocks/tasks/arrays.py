"""What every task on images shares: splits of prepared arrays, the order of samples, augmented batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dblocks import seeds
from dblocks.data.augment import augment
from dblocks.data.prepared import PreparedData
from dblocks.data.sending import sent
from dblocks.spec import RunSpec

TOGETHER, VALUES = 64, 2**25  # on CUDA, steps augmented at once at most, and pixel values


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
            self._of = (epoch, sent(self._order(seeds.generator("cpu", self.seed, "order", epoch)), self.device))
        return self._of[1][position * self.batch_size : (position + 1) * self.batch_size]

    def _order(self, draws: torch.Generator) -> Tensor:
        """An epoch's indices [count]."""
        return torch.randperm(self.count, generator=draws)


class AugmentedImages:
    """Training images, resident on their device: augmented batches, each a function of (seed, step, view).

    On CUDA the batches of several steps are augmented at once, each with its own draws: it takes hardly longer than
    one, for RandAugment is some hundred small kernels.

    Args:
        images: uint8 [M, C, H, W], as they are stored.
        finish: what becomes of them after augmentation, image by image.
    Attributes:
        every: steps are asked for so many apart, as by a job that trains one block of so many; none between are made.
    """

    def __init__(self, spec: RunSpec, images: Tensor, finish: Callable[[Tensor], Tensor]):
        self.spec, self.images, self.finish = spec, images, finish
        self.batch_size = spec.training.batch_size
        self.order = EpochOrder(spec.seed, len(images), self.batch_size, images.device)
        fitting = VALUES // (self.batch_size * images[0].numel())
        self.together = min(TOGETHER, max(1, fitting)) if images.device.type == "cuda" else 1
        self.every = 1
        self._made: dict[int, tuple[range, Tensor, Tensor]] = {}

    def batch(self, step: int, view: int = 0) -> tuple[Tensor, Tensor]:
        """(images [N, C, H, W], their indices [N]) of `step`; another `view` is another augmentation of the same."""
        if view not in self._made or step not in self._made[view][0]:
            turn, first = divmod(step, self.every)
            start = first + turn // self.together * self.together * self.every
            steps = range(start, start + self.together * self.every, self.every)
            self._made[view] = (steps, *self._make(steps, view))
        steps, images, chosen = self._made[view]
        position = steps.index(step)
        here = slice(position * self.batch_size, (position + 1) * self.batch_size)
        return images[here], chosen[here]

    def anew(self) -> AugmentedImages:
        """The same batches of the same images, with none made yet."""
        return AugmentedImages(self.spec, self.images, self.finish)

    def _make(self, steps: range, view: int) -> tuple[Tensor, Tensor]:
        chosen = torch.cat([self.order.indices(step) for step in steps])
        draws = (seeds.generator("cpu", self.spec.seed, "augment", view, step) for step in steps)
        return self.finish(augment(self.images[chosen], self.spec.augment, *draws)), chosen


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
