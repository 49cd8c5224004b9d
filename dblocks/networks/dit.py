"""Diffusion Transformer (Peebles & Xie 2023) as denoisers of images or latents, cut into blocks.

Shapes: N images [N, C, H, W], T patches of side p, D width, K classes; label K is the null class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dblocks.networks.transformer import Modulation, NoiseEmbedding, TransformerLayer, modulate
from dblocks.noise import Preconditioning
from dblocks.partition import Partition, sets_of
from dblocks.spec import DiffusionBlocksSpec, DiTSpec


def sincos_positions(height: int, breadth: int, width: int) -> Tensor:
    """Fixed 2-D positions [height·breadth, D], row by row: half of D for each axis, sine and cosine of each rate."""
    rates = 10_000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(breadth), indexing="ij")
    halves = [torch.outer(axis.flatten().double(), rates) for axis in (columns, rows)]
    return torch.cat([part for angles in halves for part in (angles.sin(), angles.cos())], dim=1).float()


class DiTEmbedders(nn.Module):
    """What a block needs besides its layers to read its input: patches, noise level, label."""

    def __init__(self, spec: DiTSpec, method: DiffusionBlocksSpec, patch_dimension: int, num_classes: int):
        super().__init__()
        self.patches = nn.Linear(patch_dimension, spec.width)
        self.noise = NoiseEmbedding(spec.width, method.c_noise_scale)
        self.labels = nn.Embedding(num_classes + 1, spec.width)

    def condition(self, c_noise: Tensor, labels: Tensor) -> Tensor:
        """c_noise [N] and labels [N] → [N, D]."""
        return self.noise(c_noise) + self.labels(labels)


class DiTHead(nn.Module):
    """DiT's final layer: tokens [N, T, D], condition [N, D] → patches [N, T, C·p²]; zero at first, by `DiTDenoiser`."""

    def __init__(self, width: int, patch_dimension: int, adaln: str):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = Modulation(width, 2, adaln)
        self.linear = nn.Linear(width, patch_dimension)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulation(condition)
        return self.linear(modulate(self.norm(x), shift, scale))


class DiTDenoiser(nn.Module):
    """The DiT's layers cut into blocks, each a denoiser D_b(z, σ | label) under EDM's preconditioning.

    With one block it is the whole DiT trained end to end. A prediction is the clean image itself.
    """

    def __init__(
        self,
        spec: DiTSpec,
        method: DiffusionBlocksSpec,
        partition: Partition,
        image_shape: tuple[int, int, int],
        num_classes: int,
        sigma_data: float = 0.5,
    ):
        super().__init__()
        channels, height, breadth = image_shape
        patch = spec.patch_size
        if height % patch or breadth % patch:
            raise ValueError(f"patch_size {patch} does not divide an image of {height}×{breadth}")
        self.partition, self.patch_size, self.num_classes = partition, patch, num_classes
        self.precondition, self.target_shape = Preconditioning(sigma_data), image_shape
        dimension = channels * patch**2
        copies, heads = sets_of(method.embedders, partition.num_blocks)
        self.embedders = nn.ModuleList(DiTEmbedders(spec, method, dimension, num_classes) for _ in range(copies))
        self.heads = nn.ModuleList(DiTHead(spec.width, dimension, method.adaln) for _ in range(heads))
        self.layers = nn.ModuleList(
            TransformerLayer(spec.width, spec.heads, spec.mlp_ratio, adaln=method.adaln) for _ in range(spec.layers)
        )
        positions = sincos_positions(height // patch, breadth // patch, spec.width)
        self.register_buffer("positions", positions, persistent=False)
        self._initialise()
        self.embedders.requires_grad_(method.embedders != "frozen")

    def _initialise(self) -> None:
        """DiT's own: Xavier everywhere, deviation 0.02 in label table and noise MLP, zero where it ends."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for embedders in self.embedders:
            nn.init.normal_(embedders.labels.weight, std=0.02)
            for layer in (embedders.noise.mlp[0], embedders.noise.mlp[2]):
                nn.init.normal_(layer.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, Modulation):
                nn.init.zeros_(module.linear.weight)
        for head in self.heads:
            nn.init.zeros_(head.linear.weight)

    def target(self, images: Tensor) -> Tensor:
        """The image [N, C, H, W] itself."""
        return images

    def denoise(self, block: int, z: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """D [N, C, H, W] = c_skip·z + c_out·F(c_in·z, c_noise) by block `block`, for σ [N] and labels [N]."""
        embedders = self.embedders[block % len(self.embedders)]
        condition = embedders.condition(self.precondition.c_noise(sigma), labels)
        c_in, c_skip, c_out = self.precondition.scalings(sigma, z)
        patch = self.patch_size
        # [N, C, H, W] → [N, T, C·p²] and back; unfold would launch a kernel for each image
        x = embedders.patches(F.pixel_unshuffle(c_in * z, patch).flatten(2).transpose(1, 2)) + self.positions
        for i in self.partition.layers(block):
            x = self.layers[i](x, condition)
        patches = self.heads[block % len(self.heads)](x, condition).float()
        grid = [side // patch for side in self.target_shape[1:]]
        return c_skip * z + c_out * F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, grid), patch)

    def unconditional(self, labels: Tensor) -> Tensor:
        """The null class in place of labels [N]."""
        return torch.full_like(labels, self.num_classes)

    def loss(self, prediction: Tensor, images: Tensor) -> Tensor:
        """Squared error per sample [N], mean over dimensions."""
        return (prediction.float() - images).square().flatten(1).mean(1)

    def bridge(self, prediction: Tensor) -> Tensor:
        """The prediction is the clean image already."""
        return prediction
