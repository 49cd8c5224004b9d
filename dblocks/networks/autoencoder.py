"""Frozen autoencoders between images in [-1, 1] and latents: a published one, or a small one trained here.

Shapes: images [N, C, H, W], latents [N, c, H/f, W/f] with f the factor of downsampling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from dblocks.data.files import one_line
from dblocks.errors import UserError
from dblocks.spec import AutoencoderSpec


class Codec(Protocol):
    """What encodes a data set and decodes samples."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the posterior, each [N, c, h, w]; deviation 0 where it is a point."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images [N, C, H, W], not clipped."""


class Autoencoder(nn.Module):
    """Convolutions that halve the sides `layers` times, and their mirror; bounded latents, a point each."""

    def __init__(self, spec: AutoencoderSpec, image_shape: tuple[int, int, int]):
        super().__init__()
        channels, width = image_shape[0], spec.width
        if image_shape[1] % 2**spec.layers or image_shape[2] % 2**spec.layers:
            raise ValueError(
                f"layers {spec.layers} cannot halve an image of {image_shape[1]}×{image_shape[2]} so often"
            )
        down: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.SiLU()]
        up: list[nn.Module] = [nn.Conv2d(spec.latent_channels, width, 3, padding=1), nn.SiLU()]
        for _ in range(spec.layers):
            down += [nn.Conv2d(width, width, 4, stride=2, padding=1), nn.SiLU()]
            up += [nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), nn.SiLU()]
        self.down = nn.Sequential(*down, nn.Conv2d(width, spec.latent_channels, 3, padding=1), nn.Tanh())
        self.up = nn.Sequential(*up, nn.Conv2d(width, channels, 3, padding=1))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.down(images)
        return mean, torch.zeros_like(mean)

    def decode(self, latents: Tensor) -> Tensor:
        return self.up(latents)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images)[0])


class PublishedAutoencoder(nn.Module):
    """diffusers' AutoencoderKL from a folder with config.json and weights (Stable Diffusion's, Rombach et al. 2022)."""

    def __init__(self, folder: Path):
        super().__init__()
        try:
            from diffusers import AutoencoderKL
        except ImportError as error:
            raise UserError(
                "diffusers is not installed, and the ImageNet rows need it: pip install diffusers"
            ) from error
        try:
            self.network = AutoencoderKL.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: no AutoencoderKL in it ({one_line(error)})") from error

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.network.encode(images).latent_dist
        return posterior.mean, posterior.std

    def decode(self, latents: Tensor) -> Tensor:
        return self.network.decode(latents).sample
