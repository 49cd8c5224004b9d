"""Image classification: batches of augmented training images, and accuracy on the evaluation split.

Shapes: N images [N, C, H, W], uint8 as stored, float after `normalize`; labels [N] int64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dblocks import seeds
from dblocks.data.prepared import PreparedData
from dblocks.data.registry import dataset
from dblocks.record import Metric
from dblocks.spec import RunSpec
from dblocks.tasks.arrays import AugmentedImages, split_arrays, to_device

EVALUATION_BATCH = 1000


@dataclass
class Batch:
    """What a step learns from, N samples each: what goes into the network, and what is to come out. Of classification
    normalised images [N, C, H, W] and labels [N]; of image generation labels and images; of text tokens [N, T] both."""

    inputs: Tensor
    targets: Tensor


@dataclass
class Predictor:
    """A way to predict: (inputs, generator) → prediction, of classification scores [N, K]; `logits` says whether they
    are log-probabilities up to a constant, so that a cross-entropy can be read off them. `sample` is the same with
    noise that is given: (inputs, ε) → prediction, where there is any."""

    scores: Callable[[Tensor, torch.Generator], Tensor]
    logits: bool = True
    sample: Callable[[Tensor, Tensor], Tensor] | None = None


class Classification:
    """The data of a run, resident on its device, and what is measured of it."""

    def __init__(self, spec: RunSpec, data: PreparedData, device: torch.device):
        self.spec, self.device, self.info = spec, device, dataset(spec.data.name)
        images, labels = split_arrays(data, spec.data.train_split)
        self.images, self.labels = to_device(images, device), to_device(labels, device)
        self.mean, self.std = channel_statistics(self.images)
        test_images, test_labels = split_arrays(data, spec.data.evaluation_split)
        limit = spec.data.max_evaluation_samples
        self.test_images, self.test_labels = test_images[:limit], test_labels[:limit]
        self.batches = AugmentedImages(spec, self.images, self.normalize)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 → float with the training split's mean 0 and deviation 1 a channel."""
        return (images.float() / 255 - self.mean) / self.std

    def batch(self, step: int, view: int = 0) -> Batch:
        """The batch of `step`; another `view` is another augmentation of the same images."""
        images, chosen = self.batches.batch(step, view)
        return Batch(images, self.labels[chosen])

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of scores [N, K], a scalar."""
        return F.cross_entropy(scores, targets)

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
        images = to_device(self.test_images[start : start + EVALUATION_BATCH], self.device)
        draws = seeds.generator(self.device, self.spec.seed, "evaluate", start)
        return predictor.scores(self.normalize(images), draws).float().cpu()

    def _metric(self, name: str, value: float, unit: str) -> Metric:
        return Metric.measured(self.spec.data, name, value, unit=unit, samples=len(self.test_labels))


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation a channel of uint8 images in [0, 1], each [C, 1, 1] float32; exact integer sums."""
    # how often each of the 256 values occurs: as integers, all pixels would take eight times the images' memory
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    values, n = torch.arange(256, device=images.device), images[:, 0].numel()
    mean = (counts * values).sum(1).double() / n
    variance = (counts * values**2).sum(1).double() / n - mean**2
    return tuple((x / 255).float()[:, None, None] for x in (mean, variance.sqrt()))
