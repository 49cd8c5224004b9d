"""Image classification: what is read off the training images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dblocks.tasks import classification
from dblocks.tasks.arrays import split_indices
from dblocks.tasks.classification import Classification, Predictor, channel_statistics


@pytest.mark.parametrize("shape", [(50, 3, 8, 8), (7, 1, 5, 3)])
def test_channel_statistics_are_mean_and_deviation_of_all_pixels(shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[0, 0] = 255
    mean, std = channel_statistics(images)
    pixels = images.double().transpose(0, 1).flatten(1) / 255
    assert mean.dtype == std.dtype == torch.float32 and mean.shape == std.shape == (shape[1], 1, 1)
    assert torch.equal(mean.flatten(), pixels.mean(1).float())
    assert torch.allclose(std.flatten(), pixels.std(1, correction=0).float(), rtol=1e-7)


def test_accuracy_and_cross_entropy_are_of_every_image_of_the_evaluation_split(digits, tiny_spec, monkeypatch):
    monkeypatch.setattr(classification, "EVALUATION_BATCH", 100)
    task = Classification(tiny_spec("end_to_end"), digits, torch.device("cpu"))
    labels = torch.from_numpy(np.array(digits.array("test_labels")))
    given: list[torch.Tensor] = []

    def scores(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Right but for the first 37 images."""
        start = sum(map(len, given))
        given.append(images)
        right = F.one_hot(labels[start : start + len(images)], 10).float()
        right[: max(0, 37 - start)] *= -1
        return right

    accuracy, cross_entropy = task.evaluate({"": Predictor(scores)})
    assert accuracy.value == pytest.approx(100 * (1 - 37 / len(labels)))
    sign = torch.ones(len(labels))
    sign[:37] = -1
    expected = F.cross_entropy(sign[:, None] * F.one_hot(labels, 10), labels)
    assert cross_entropy.value == pytest.approx(expected.item(), rel=1e-6)
    images = torch.from_numpy(np.array(digits.array("test_images")))
    assert len(given) == 4 and torch.equal(torch.cat(given), task.normalize(images))


def test_fit_and_validation_are_train_cut_in_two(digits):
    parts = [set(split_indices(digits, split).tolist()) for split in ("fit", "validation")]
    assert parts[0] & parts[1] == set() and min(map(len, parts)) > 0
    assert parts[0] | parts[1] == set(range(len(digits.array("train_labels"))))
