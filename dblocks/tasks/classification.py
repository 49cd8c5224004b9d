"""Image classification: batches of augmented training images, and accuracy on the evaluation split.

Shapes: N images [N, C, H, W], uint8 as stored, float after `normalize`; labels [N] int64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dblocks import seeds
from dblocks.data.augment import augment
from dblocks.data.prepared import PreparedData
from dblocks.data.registry import dataset
from dblocks.errors import TrainingFailed
from dblocks.record import Metric
from dblocks.spec import RunSpec

EVALUATION_BATCH = 1000


@dataclass
class Batch:
    """Training images, float [N, C, H, W], normalised, and labels [N]."""

    images: Tensor
    labels: Tensor


@dataclass
class Predictor:
    """A way to classify: (images, generator) → scores [N, K]; `logits` says whether they are log-probabilities
    up to a constant, so that a cross-entropy can be read off them."""

    scores: Callable[[Tensor, torch.Generator], Tensor]
    logits: bool = True


class Classification:
    """The data of a run, resident on its device, and what is measured of it."""

    def __init__(self, spec: RunSpec, data: PreparedData, device: torch.device):
        self.spec, self.device, self.info = spec, device, dataset(spec.data.name)
        images, labels = _split(data, spec.data.train_split)
        self.images, self.labels = _to_device(images, device), _to_device(labels, device)
        self.mean, self.std = channel_statistics(self.images)
        test_images, test_labels = _split(data, spec.data.evaluation_split)
        limit = spec.data.max_evaluation_samples
        self.test_images, self.test_labels = test_images[:limit], test_labels[:limit]
        self.steps_per_epoch = len(self.labels) // spec.training.batch_size
        self._order_of = (-1, torch.empty(0))

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 → float with the training split's mean 0 and deviation 1 a channel."""
        return (images.float() / 255 - self.mean) / self.std

    def _indices(self, step: int) -> Tensor:
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order_of[0] != epoch:
            draws = seeds.generator("cpu", self.spec.seed, "order", epoch)
            order = torch.randperm(len(self.labels), generator=draws).to(self.device)
            self._order_of = (epoch, order)
        size = self.spec.training.batch_size
        return self._order_of[1][position * size : (position + 1) * size]

    def batch(self, step: int, view: int = 0) -> Batch:
        """The batch of `step`; another `view` is another augmentation of the same images."""
        chosen = self._indices(step)
        draws = seeds.generator(self.device, self.spec.seed, "augment", view, step)
        images = augment(self.images[chosen], self.spec.augment, draws)
        return Batch(self.normalize(images), self.labels[chosen])

    @torch.no_grad()
    def evaluate(self, predictors: dict[str, Predictor]) -> list[Metric]:
        """Accuracy (and cross-entropy, nats) of each predictor on the evaluation split, keys prefixed by its name."""
        metrics = []
        for prefix, predictor in predictors.items():
            scores = torch.cat(
                [self._scores(predictor, start) for start in range(0, len(self.test_labels), EVALUATION_BATCH)]
            )
            labels = torch.from_numpy(np.array(self.test_labels))
            accuracy = (scores.argmax(dim=-1) == labels).double().mean().item()
            metrics.append(self._metric(f"{prefix}accuracy", 100 * accuracy, "%"))
            if predictor.logits:
                metrics.append(self._metric(f"{prefix}ce", F.cross_entropy(scores.double(), labels).item(), "nats"))
        return metrics

    def write_samples(self, predictors: dict[str, Predictor], folder: Path) -> None:
        """Nothing: labels make no samples to look at."""

    def _scores(self, predictor: Predictor, start: int) -> Tensor:
        images = _to_device(self.test_images[start : start + EVALUATION_BATCH], self.device)
        draws = seeds.generator(self.device, self.spec.seed, "evaluate", start)
        return predictor.scores(self.normalize(images), draws).float().cpu()

    def _metric(self, name: str, value: float, unit: str) -> Metric:
        data = self.spec.data
        if not math.isfinite(value):
            raise TrainingFailed(f"{name} on {data.label} is {value}: the trained network gives no numbers")
        return Metric(
            name=name,
            value=value,
            unit=unit,
            dataset=data.label,
            split=data.evaluation_split,
            samples=len(self.test_labels),
        )


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation a channel of uint8 images in [0, 1], each [C, 1, 1] float32; exact integer sums."""
    counts = images.transpose(0, 1).flatten(1).long()
    n = counts.shape[1]
    mean = counts.sum(1).double() / n
    variance = (counts**2).sum(1).double() / n - mean**2
    return tuple((x / 255).float()[:, None, None] for x in (mean, variance.sqrt()))


def _split(data: PreparedData, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of train, fit, validation or test."""
    if split in ("train", "test"):
        return data.array(f"{split}_images"), data.array(f"{split}_labels")
    images, labels, held_out = data.array("train_images"), data.array("train_labels"), data.array("validation")
    chosen = held_out if split == "validation" else np.setdiff1d(np.arange(len(labels)), held_out)
    return images[chosen], labels[chosen]


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(array)).to(device)
