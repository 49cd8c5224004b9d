"""Image generation: batches of images or latents with their labels, and FID of seeded samples.

A batch's inputs are labels [N] (label K, the null class, where they were dropped), its targets images in [-1, 1] or
scaled latents, [N, C, H, W] float.
"""

from __future__ import annotations

import math
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dblocks import seeds
from dblocks.data.latents import Latents, to_unit
from dblocks.data.prepared import PreparedData
from dblocks.data.registry import dataset
from dblocks.metrics.samples import Samples
from dblocks.needs import Needs
from dblocks.networks.autoencoder import Codec
from dblocks.record import Metric
from dblocks.spec import RunSpec
from dblocks.tasks.arrays import AugmentedImages, EpochOrder, split_indices, to_device
from dblocks.tasks.classification import Batch, Predictor
from dblocks.tasks.prefetch import Prefetcher

if TYPE_CHECKING:
    from dblocks.metrics.fid import Extractor

SHOWN, SHOWN_CLASSES = 12, 10  # samples a class in the picture, and classes


class ImageGeneration:
    """The data of a run, on its device where they are pixels, and what is measured of its samples."""

    def __init__(self, spec: RunSpec, data: PreparedData, device: torch.device, needs: Needs):
        self.spec, self.device, self.info, self.needs = spec, device, dataset(spec.data.name), needs
        self.latents = Latents(data, spec.generation.latents.scale) if spec.generation.latents else None
        self.data = data if self.latents is None else None
        chosen = split_indices(data, spec.data.train_split)
        labels = data.array("train_labels")
        self.chosen = np.arange(len(labels)) if chosen is None else chosen
        self.labels = to_device(labels[self.chosen], device)
        if self.latents is None:
            self.images = to_device(data.array("train_images")[self.chosen], device)
            self.batches = AugmentedImages(spec, self.images, to_unit)
        else:
            order = EpochOrder(spec.seed, len(self.labels), spec.training.batch_size, torch.device("cpu"))
            self.batches = Prefetcher(partial(self._moments, order), device)
        self.shape: tuple[int, int, int] = self.info.image_shape if self.latents is None else self.latents.shape
        # cut with the evaluation split, to try the whole chain; two images are the fewest that have a covariance
        limit = spec.data.max_evaluation_samples
        self.reference_limit = limit and max(2, limit)
        self.samples = max(2, min(spec.generation.samples, limit or spec.generation.samples))

    def batch(self, step: int) -> Batch:
        """The batch of `step`, a function of (seed, step)."""
        targets, chosen = self.batches.batch(step)
        if self.latents is not None:
            draws = seeds.generator(self.device, self.spec.seed, "augment", 0, step)
            epsilon = torch.randn((len(chosen), *self.shape), generator=draws, device=self.device)
            targets = self.latents.sample(targets, epsilon)
        return Batch(self._drop(self.labels[chosen], step), targets)

    def _moments(self, order: EpochOrder, step: int) -> tuple[Tensor, Tensor]:
        """Posteriors of the latents of `step`, which may be more than a GPU holds, and their indices."""
        chosen = order.indices(step)
        return self.latents.moments(self.chosen[chosen.numpy()]), chosen

    def _drop(self, labels: Tensor, step: int) -> Tensor:
        """Labels, some replaced by the null class, so that one network learns both sides of guidance."""
        draws = seeds.generator(self.device, self.spec.seed, "label dropout", step)
        dropped = torch.rand(len(labels), generator=draws, device=self.device) < self.spec.network.label_dropout
        return torch.where(dropped, self.info.num_classes, labels)

    def sigma_data(self) -> float:
        """σ_data of the preconditioning: 0.5, or the RMS of what is diffused."""
        if self.spec.method.noise.sigma_data == "paper":
            return 0.5
        if self.latents is not None:
            return self.latents.rms * self.latents.factor
        counts = torch.bincount(self.images.flatten().long(), minlength=256).double()
        return math.sqrt((counts * to_unit(torch.arange(256)).double().square().to(counts.device)).sum() / counts.sum())

    @cached_property
    def codec(self) -> Codec:
        """The autoencoder that decodes samples."""
        from dblocks.encode import load_codec

        return load_codec(self.needs.paths["autoencoder"], self.device)

    @cached_property
    def image_data(self) -> PreparedData:
        """The images that samples are compared with."""
        return self.data or PreparedData(self.needs.paths["images"].parent)

    @torch.no_grad()
    def evaluate(self, predictors: dict[str, Predictor]) -> list[Metric]:
        """FID and KID against training and evaluation split, and seconds per image."""
        sets = self._draw(predictors[""])
        self._picture(sets[0][0])
        seconds = sum(seconds for _, seconds in sets) / len(sets)
        samples = [samples for samples, _ in sets]
        with self._full_precision():
            distances = self._distances(samples)
        return [*distances, self._metric("seconds_per_image", [seconds], "s", None, None)]

    def _draw(self, predictor: Predictor) -> list[tuple[Samples, float]]:
        """The samples of each evaluation and the seconds that an image took."""
        generation, (weights,) = self.spec.generation, self.needs.folder.glob("weights-*.pt")
        folder = self.needs.folder / f"samples-{weights.stem.rpartition('-')[2]}"

        def draw(labels: Tensor, epsilon: Tensor) -> Tensor:
            images = predictor.sample(labels, epsilon)
            return images if self.latents is None else self._decode(images)

        found = []
        for repeat in range(generation.repeats):
            sizes = (self.samples, generation.batch_size, self.shape, self.info.num_classes)
            samples = Samples(folder, *sizes, self.spec.seed, repeat)
            found.append((samples, samples.draw(draw, self.device, self.needs.on_progress)))
        return found

    def _decode(self, latents: Tensor) -> Tensor:
        parts = (latents.float() / self.latents.factor).split(50)
        with self._full_precision():
            return torch.cat([self.codec.decode(part) for part in parts])

    def _full_precision(self) -> torch.autocast:
        """Features and decoded images are float32 wherever the network runs in less."""
        return torch.autocast(self.device.type, enabled=False)

    def _distances(self, repeats: list[Samples]) -> list[Metric]:
        from dblocks.metrics.fid import feature_set, fid, kid
        from dblocks.metrics.reference import reference_set

        generation, drawn = self.spec.generation, {}
        metrics = []
        for split in (self.spec.data.train_split, self.spec.data.evaluation_split):
            extractor = self._extractor(split)
            if extractor.name not in drawn:
                drawn[extractor.name] = [feature_set(extractor, samples.images()) for samples in repeats]
            real = reference_set(extractor, self.image_data, split, self.reference_limit)
            sizes = (generation.kid_subsets, generation.kid_subset_size)
            for name, values in (
                (f"fid{extractor.kind}_{split}", [fid(fake, real) for fake in drawn[extractor.name]]),
                (f"kid{extractor.kind}_{split}", [kid(fake, real, *sizes) for fake in drawn[extractor.name]]),
            ):
                metrics.append(self._metric(name, values, "", extractor.name, real.count, split))
        return metrics

    def _extractor(self, split: str) -> Extractor:
        """The features that samples and a split are compared by."""
        from dblocks.metrics.fid import inception
        from dblocks.metrics.reference import classifier

        path, generation = self.needs.paths["extractor"], self.spec.generation
        if generation.extractor == "classifier":
            return classifier(path, self.image_data, self.device)
        from dblocks.weights import weights_path

        resize = "tensorflow" if split == self.spec.data.train_split else generation.test_resize
        return inception(weights_path(path), self.device, resize)

    def write_samples(self, predictors: dict, folder: Path) -> None:
        """Nothing more: the grid of the samples that are measured is made while they are."""

    def _picture(self, samples: Samples) -> None:
        from dblocks.report.grids import write_grid

        spec, rows = self.spec, samples.by_class(SHOWN, SHOWN_CLASSES)
        title = [
            f"{spec.experiment}/{spec.variant}, seed {spec.seed}, scale {spec.scale}",
            f"{spec.data.label}, one class a row, guidance {spec.generation.guidance:g}",
        ]
        write_grid(self.needs.folder / "samples.png", rows, title)

    def _metric(
        self,
        name: str,
        values: list[float],
        unit: str,
        extractor: str | None,
        reference: int | None,
        split: str | None = None,
    ) -> Metric:
        data, several = self.spec.data, extractor is not None
        return Metric.measured(
            data,
            name,
            min(values),
            unit=unit,
            split=split or data.evaluation_split,
            samples=self.samples,
            values=tuple(values) if several else None,
            mean=sum(values) / len(values) if several else None,
            extractor=extractor,
            reference=reference,
        )
