"""Samples of an image generator: each a function of (seed, repeat, index), drawn in batches, kept on disk.

A batch is a file of its own, so drawing goes on where it was stopped; other batch sizes give the same samples
up to rounding. Images are kept as uint8 [n, C, H, W].
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dblocks import seeds
from dblocks.data.files import save_atomically

# (labels [n] int64, ε [n, *shape]) → images [n, C, H, W] in about [-1, 1]
Draw = Callable[[Tensor, Tensor], Tensor]


def quantize(images: Tensor) -> np.ndarray:
    """[-1, 1] → uint8 as EDM does: x·127.5 + 128, clipped, truncated."""
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8).cpu().numpy()


@dataclass
class Samples:
    """`count` samples of one evaluation in `folder`, drawn where they are not there yet.

    Attributes:
        shape: of ε, that is of the diffused images or latents.
        repeat: number of the evaluation; no two share a sample.
    """

    folder: Path
    count: int
    batch_size: int
    shape: tuple[int, ...]
    num_classes: int
    seed: int
    repeat: int

    def label(self, index: int) -> int:
        """The class of a sample, uniformly at random."""
        return seeds.derive(self.seed, "sample label", self.repeat, index) % self.num_classes

    def noise(self, index: int) -> Tensor:
        """ε [*shape] of a sample; drawn on the CPU, so alike on every device."""
        return torch.randn(self.shape, generator=seeds.generator("cpu", self.seed, "sample", self.repeat, index))

    def batch(self, start: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Labels and noise of the batch that begins at `start`."""
        indices = range(start, min(start + self.batch_size, self.count))
        labels = torch.tensor([self.label(i) for i in indices], device=device)
        return labels, torch.stack([self.noise(i) for i in indices]).to(device)

    def path(self, start: int) -> Path:
        return self.folder / f"{self.repeat}-{start:07d}-{self.batch_size}.npz"

    def draw(self, draw: Draw, device: torch.device, on_batch: Callable[[], None] = lambda: None) -> float:
        """Draw what is missing, calling `on_batch` whenever a batch is on disk.

        Returns: the seconds that an image took, also in earlier attempts; where there are several batches without the
            first, in which networks are compiled on CUDA.
        """
        seconds, counts = [], []
        for start in range(0, self.count, self.batch_size):
            if not self.path(start).exists():
                labels, epsilon = self.batch(start, device)
                begin = time.monotonic()
                images = quantize(draw(labels, epsilon))
                arrays = {"images": images, "labels": labels.cpu().numpy(), "seconds": time.monotonic() - begin}
                save_atomically(self.path(start), partial(np.savez, **arrays))
                on_batch()
            with np.load(self.path(start), allow_pickle=False) as kept:
                seconds.append(float(kept["seconds"]))
                counts.append(len(kept["labels"]))
        timed = slice(1 if len(counts) > 1 else 0, None)
        return sum(seconds[timed]) / sum(counts[timed])

    def images(self) -> Iterator[np.ndarray]:
        """The images of each batch, in order."""
        for start in range(0, self.count, self.batch_size):
            with np.load(self.path(start), allow_pickle=False) as kept:
                yield kept["images"]

    def by_class(self, each: int, classes: int) -> dict[int, np.ndarray]:
        """The first `each` images, fewer where there are not so many, of the first `classes` classes that have any."""
        chosen = sorted({self.label(index) for index in range(self.count)})[:classes]
        found: dict[int, list[np.ndarray]] = {label: [] for label in chosen}
        for start in range(0, self.count, self.batch_size):
            with np.load(self.path(start), allow_pickle=False) as kept:
                for image, label in zip(kept["images"], kept["labels"].tolist(), strict=True):
                    if label in found and len(found[label]) < each:
                        found[label].append(image)
            if all(len(images) == each for images in found.values()):
                break
        return {label: np.array(images) for label, images in found.items()}
