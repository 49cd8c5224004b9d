"""Latents: written once, in shards, and read back as scaled samples of their posteriors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dblocks.data import latents
from dblocks.data.latents import Latents, encode, to_unit
from dblocks.data.prepared import PreparedData

CPU = torch.device("cpu")


class Halving:
    """A codec that is known: 2×2 means as latents of one channel, deviation 0.25."""

    def __init__(self):
        self.calls = 0

    def encode(self, images):
        self.calls += 1
        mean = torch.nn.functional.avg_pool2d(images, 2)
        return mean, torch.full_like(mean, 0.25)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(latents, "SHARD", 600)


@pytest.fixture
def encoded(digits, tmp_path) -> PreparedData:
    return PreparedData(encode(digits, Halving(), "digits-1-x", tmp_path / "latents", CPU).parent)


def expected(digits) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(to_unit(digits.array("train_images")), 2)


def test_moments_come_back_across_shards(digits, encoded):
    made, indices = Latents(encoded, "sd"), np.array([1436, 0, 599, 600, 1200])
    assert [len(shard) for shard in made.shards] == [600, 600, 237]
    assert made.shape == (1, 4, 4)
    mean, deviation = made.moments(indices).float().chunk(2, dim=1)
    assert torch.allclose(mean, expected(digits)[indices], atol=1e-3)
    assert torch.all(deviation == 0.25)
    assert np.array_equal(encoded.array("train_labels"), digits.array("train_labels"))
    assert encoded.fingerprint == "digits-1-x"


@pytest.mark.parametrize(("scale", "factor"), [("sd", 0.18215), ("sd_half", 0.091075), ("unit", None), ("half", None)])
def test_scales_by_name(digits, encoded, scale, factor):
    made = Latents(encoded, scale)
    rms = math.sqrt((expected(digits).double() ** 2).mean() + 0.25**2)
    wanted = factor or {"unit": 1, "half": 0.5}[scale] / rms
    assert made.factor == pytest.approx(wanted, rel=1e-3)
    epsilon = torch.full((2, 1, 4, 4), 2.0)
    found = made.sample(made.moments(np.array([5, 7])), epsilon)
    assert torch.allclose(found, made.factor * (expected(digits)[[5, 7]] + 0.5), atol=2e-3)


def test_encoding_goes_on_where_it_was_stopped(digits, tmp_path):
    codec = Halving()
    encode(digits, codec, "f", tmp_path, CPU)
    whole, calls = {p.name: p.read_bytes() for p in tmp_path.glob("*.npy")}, codec.calls
    (tmp_path / "train_latents_00001.npy").unlink()
    (tmp_path / "manifest.json").unlink()
    encode(digits, codec, "f", tmp_path, CPU)
    assert codec.calls == calls + 10  # 600 images, 64 at a time
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.npy")} == whole
