"""Images encoded once by a frozen autoencoder: sharded arrays of posterior moments, and how they are read.

A shard `<split>_latents_<number>.npy` is float16 [n, 2·c, h, w]: mean, then deviation. A shard is written whole, so
encoding goes on where it was stopped.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dblocks.data.files import save_atomically
from dblocks.data.prepared import MANIFEST, PreparedData, write_manifest
from dblocks.errors import UserError
from dblocks.networks.autoencoder import Codec

SHARD = 16_384  # images
BATCH = 64
STABLE_DIFFUSION = 0.18215  # Rombach et al. 2022: brings their latents to deviation 1, about


def to_unit(images: np.ndarray | Tensor) -> Tensor:
    """uint8 → float in [-1, 1]: x / 127.5 − 1."""
    return torch.as_tensor(np.array(images) if isinstance(images, np.ndarray) else images).float() / 127.5 - 1


@torch.no_grad()
def encode_shard(codec: Codec, images: np.ndarray, device: torch.device) -> np.ndarray:
    """uint8 [n, C, H, W] → moments [n, 2·c, h, w] float16."""
    parts = []
    for start in range(0, len(images), BATCH):
        moments = codec.encode(to_unit(images[start : start + BATCH]).to(device))
        parts.append(torch.cat(moments, dim=1).half().cpu().numpy())
    return np.concatenate(parts)


def encode(data: PreparedData, codec: Codec, fingerprint: str, folder: Path, device: torch.device) -> Path:
    """Encode the training images of `data` into `folder` and return its manifest's path.

    The manifest keeps `rms`, the root mean square of the latents about 0, which names like `unit` are made of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, squares, numbers = data.array("train_images"), 0.0, 0
    for start in range(0, len(images), SHARD):
        path = folder / f"train_latents_{start // SHARD:05d}.npy"
        if not path.exists():
            save_atomically(path, partial(np.save, arr=encode_shard(codec, images[start : start + SHARD], device)))
        shard = np.load(path, mmap_mode="r")
        if not np.isfinite(shard).all():
            raise UserError(
                f"{path}: latents that are not finite; check the autoencoder's weights, then remove the file"
            )
        mean, deviation = (part.astype(np.float64) for part in np.split(shard, 2, axis=1))
        squares, numbers = squares + (mean**2).sum() + (deviation**2).sum(), numbers + mean.size
    for key in ("train_labels", "validation"):
        np.save(folder / f"{key}.npy", data.array(key))
    facts = {"images": str(data.folder), "rms": math.sqrt(squares / numbers)}
    return write_manifest(folder, data.name, fingerprint, f"latents of {data.folder / MANIFEST}", facts)


class Latents:
    """Encoded training images; samples of the posterior, scaled, are what is diffused."""

    def __init__(self, data: PreparedData, scale: str):
        count = sum(key.startswith("train_latents_") for key in data.entries)
        self.shards = [data.array(f"train_latents_{i:05d}") for i in range(count)]
        self.starts = np.cumsum([0, *map(len, self.shards)])
        channels, height, breadth = self.shards[0].shape[1:]
        self.shape = (channels // 2, height, breadth)
        self.rms = data.facts["rms"]
        factors = {
            "sd": STABLE_DIFFUSION,
            "sd_half": STABLE_DIFFUSION / 2,
            "unit": 1 / self.rms,
            "half": 0.5 / self.rms,
        }
        self.factor = factors[scale]

    def moments(self, indices: np.ndarray) -> Tensor:
        """Mean and deviation of the posteriors of some images, float16 [n, 2·c, h, w]."""
        which = np.searchsorted(self.starts, indices, side="right") - 1
        rows = [self.shards[s][i - self.starts[s]] for s, i in zip(which, indices, strict=True)]
        return torch.from_numpy(np.stack(rows))

    def sample(self, moments: Tensor, epsilon: Tensor) -> Tensor:
        """Scaled samples of posteriors [n, 2·c, h, w], with standard normal ε [n, c, h, w]."""
        mean, deviation = moments.float().chunk(2, dim=1)
        return self.factor * (mean + deviation * epsilon)
