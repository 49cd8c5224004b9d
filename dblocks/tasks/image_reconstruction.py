"""Training of a small autoencoder: images in [-1, 1] are inputs and targets alike."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dblocks.data.latents import to_unit
from dblocks.data.prepared import PreparedData
from dblocks.data.registry import dataset
from dblocks.record import Metric
from dblocks.seeds import generator
from dblocks.spec import RunSpec
from dblocks.tasks.arrays import AugmentedImages, split_arrays, to_device
from dblocks.tasks.classification import Batch, Predictor


class ImageReconstruction:
    """The images of a run, resident on its device, and how well they are reproduced."""

    def __init__(self, spec: RunSpec, data: PreparedData, device: torch.device):
        self.spec, self.device, self.info = spec, device, dataset(spec.data.name)
        images, _ = split_arrays(data, spec.data.train_split)
        self.images = to_device(images, device)
        self.test_images, _ = split_arrays(data, spec.data.evaluation_split)
        self.batches = AugmentedImages(spec, self.images, to_unit)

    def batch(self, step: int) -> Batch:
        images, _ = self.batches.batch(step)
        return Batch(images, images)

    def loss(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        """Mean squared error, a scalar."""
        return (reconstruction - images).square().mean()

    def write_samples(self, predictors: dict, folder: Path) -> None:
        """Nothing: it makes no images of its own."""

    @torch.no_grad()
    def evaluate(self, predictors: dict[str, Predictor]) -> list[Metric]:
        """Root mean square error on the evaluation split, in grey levels of 255."""
        images = to_device(self.test_images, self.device)
        draws = generator(self.device, self.spec.seed, "evaluate", 0)
        error = predictors[""].scores(to_unit(images), draws) - to_unit(images)
        rmse = 127.5 * error.double().square().mean().sqrt().item()
        return [Metric.measured(self.spec.data, "rmse", rmse, unit="grey levels", samples=len(images))]
