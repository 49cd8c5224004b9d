"""The ViT of the Forward-Forward rows: patches without [CLS], every layer usable alone.

After HosseinAghagol/ContrastiveFF, models/vit.py and vit_ff.py. Shapes: N images, T tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dblocks.networks.transformer import TransformerLayer
from dblocks.spec import ViTSpec


class LayerwiseViT(nn.Module):
    """Patch projection with ReLU, learned positions, pre-norm layers, and a probe (LayerNorm, linear) on mean features.

    Args:
        extra_tokens: raw tokens put before the patches (1 for Forward-Forward's label token).
    """

    def __init__(self, spec: ViTSpec, image_shape: tuple[int, int, int], num_classes: int, extra_tokens: int = 0):
        super().__init__()
        channels, height, breadth = image_shape
        self.patch_size, self.token_values = spec.patch_size, channels * spec.patch_size**2
        count = (height // spec.patch_size) * (breadth // spec.patch_size) + extra_tokens
        self.project = nn.Linear(self.token_values, spec.width)
        self.positions = nn.Parameter(torch.randn(1, count, spec.width))
        self.layers = nn.ModuleList(
            TransformerLayer(spec.width, spec.heads, spec.mlp_ratio, spec.dropout, mlp_dropout=spec.mlp_dropout)
            for _ in range(spec.layers)
        )
        self.probe = nn.Sequential(nn.LayerNorm(spec.width), nn.Linear(spec.width, num_classes))

    def raw_tokens(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] → pixels of each patch [N, P, C·p·p]."""
        return F.pixel_unshuffle(images, self.patch_size).flatten(2).transpose(1, 2)

    def embed(self, raw: Tensor) -> Tensor:
        """Raw tokens [N, T, C·p·p] → tokens [N, T, D]; trained together with the first layer."""
        return F.relu(self.project(raw)) + self.positions
