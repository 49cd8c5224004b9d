"""Image classification: what is read off the training images."""

from __future__ import annotations

import pytest
import torch

from dblocks.tasks.classification import channel_statistics


@pytest.mark.parametrize("shape", [(50, 3, 8, 8), (7, 1, 5, 3)])
def test_channel_statistics_are_mean_and_deviation_of_all_pixels(shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[0, 0] = 255
    mean, std = channel_statistics(images)
    pixels = images.double().transpose(0, 1).flatten(1) / 255
    assert mean.dtype == std.dtype == torch.float32 and mean.shape == std.shape == (shape[1], 1, 1)
    assert torch.equal(mean.flatten(), pixels.mean(1).float())
    assert torch.allclose(std.flatten(), pixels.std(1, correction=0).float(), rtol=1e-7)
