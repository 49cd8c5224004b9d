"""Vision Transformer: the baseline classifier, and the same layers as denoisers of a label embedding.

Shapes: N images [N, C, H, W] (float), P patches, D width, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dblocks.networks.embedding_target import EmbeddingTarget
from dblocks.networks.transformer import Modulation, NoiseEmbedding, TransformerLayer, modulate
from dblocks.partition import Partition, preconditioning, sets_of
from dblocks.spec import DiffusionBlocksSpec, ViTSpec


class PatchEmbedding(nn.Module):
    """Images [N, C, H, W] → tokens [N, P, D]: linear patches plus learned positions."""

    def __init__(self, image_shape: tuple[int, int, int], patch_size: int, width: int):
        super().__init__()
        channels, height, breadth = image_shape
        if height % patch_size or breadth % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide an image of {height}×{breadth}")
        self.project = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        self.positions = nn.Parameter(torch.zeros(1, (height // patch_size) * (breadth // patch_size), width))
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        return self.project(images).flatten(2).transpose(1, 2) + self.positions


class ViT(nn.Module):
    """The baseline: [CLS] and patches through all layers, head on [CLS]. Images → logits [N, K]."""

    def __init__(self, spec: ViTSpec, image_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        self.patches = PatchEmbedding(image_shape, spec.patch_size, spec.width)
        self.cls = nn.Parameter(torch.zeros(1, 1, spec.width))
        nn.init.trunc_normal_(self.cls, std=0.02)
        self.dropout = nn.Dropout(spec.dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(spec.width, spec.heads, spec.mlp_ratio, spec.dropout, mlp_dropout=spec.mlp_dropout)
            for _ in range(spec.layers)
        )
        self.norm = nn.LayerNorm(spec.width, eps=1e-6)
        self.head = nn.Linear(spec.width, num_classes)
        initialise(self, spec)

    def features(self, images: Tensor) -> Tensor:
        """What the head reads, [N, D]."""
        tokens = self.patches(images)
        x = self.dropout(torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x[:, 0])

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class ViTEmbedders(nn.Module):
    """What a block needs besides its layers to read its input: patches, positions, [CLS], noise level."""

    def __init__(self, spec: ViTSpec, method: DiffusionBlocksSpec, image_shape: tuple[int, int, int]):
        super().__init__()
        self.patches = PatchEmbedding(image_shape, spec.patch_size, spec.width)
        self.noise = NoiseEmbedding(condition_width(spec, method), method.c_noise_scale)
        self.cls = nn.Parameter(torch.zeros(1, 1, spec.width)) if method.label_token == "paper" else None
        self.label_position = nn.Parameter(torch.zeros(1, 1, spec.width))
        nn.init.trunc_normal_(self.label_position, std=0.02)

    def tokens(self, images: Tensor, z: Tensor) -> Tensor:
        """[label token, patches], or [CLS, label token, patches]: the token that is read comes first."""
        label = z.unsqueeze(1) + self.label_position
        tokens = [label, self.patches(images)]
        if self.cls is not None:
            tokens.insert(0, self.cls.expand(len(images), -1, -1))
        return torch.cat(tokens, dim=1)


class AdaLNHead(nn.Module):
    """Hidden state [N, D], noisy embedding z [N, D], c_skip and c_out [N, 1], condition [N, C] → logits [N, K].

    Norm, modulation, linear layer (DiT's last layer), with EDM's wrap c_skip·z + c_out·F before the norm (`edm`),
    behind it, where the norm is affine and the linear layer zero at first (`official`, its model.py), or nowhere.
    """

    def __init__(self, spec: ViTSpec, method: DiffusionBlocksSpec, num_classes: int):
        super().__init__()
        self.wrap = method.head_preconditioning
        self.norm = nn.LayerNorm(spec.width, eps=1e-6, elementwise_affine=self.wrap == "official")
        self.modulation = Modulation(spec.width, 2, method.adaln, condition_width(spec, method))
        self.linear = nn.Linear(spec.width, num_classes)

    def forward(self, x: Tensor, z: Tensor, c_skip: Tensor, c_out: Tensor, condition: Tensor) -> Tensor:
        if self.wrap == "official":
            x = c_skip * z + c_out * self.norm(x)
        else:
            x = self.norm(c_skip * z + c_out * x if self.wrap == "edm" else x)
        shift, scale = self.modulation(condition)
        return self.linear(modulate(x, shift.squeeze(1), scale.squeeze(1)))


class ViTDenoiser(EmbeddingTarget, nn.Module):
    """The ViT's layers cut into blocks, each a denoiser D_b(z, σ | image) of the label embedding.

    The target y is a row of a table of K unit-norm embeddings of dimension D (paper, Section 4.1);
    a denoiser's prediction is logits over the K classes.
    """

    def __init__(
        self,
        spec: ViTSpec,
        method: DiffusionBlocksSpec,
        partition: Partition,
        image_shape: tuple[int, int, int],
        num_classes: int,
    ):
        super().__init__()
        self.partition, self.method = partition, method
        self.precondition = preconditioning(method.noise, spec.width)
        self.target_shape = (spec.width,)
        self.table = nn.Embedding(num_classes, spec.width)
        with torch.no_grad():
            self.table.weight.mul_(method.target_deviation)
        self.table.weight.requires_grad_(method.target_table == "trained")
        copies, heads = sets_of(method.embedders, partition.num_blocks)
        self.embedders = nn.ModuleList(ViTEmbedders(spec, method, image_shape) for _ in range(copies))
        self.embedders.requires_grad_(method.embedders != "frozen")
        self.heads = nn.ModuleList(AdaLNHead(spec, method, num_classes) for _ in range(heads))
        further = {"mlp_dropout": spec.mlp_dropout, "condition_width": condition_width(spec, method)}
        self.layers = nn.ModuleList(
            TransformerLayer(spec.width, spec.heads, spec.mlp_ratio, spec.dropout, method.adaln, **further)
            for _ in range(spec.layers)
        )
        self.dropout = nn.Dropout(spec.dropout)
        initialise(self, spec)

    def denoise(self, block: int, z: Tensor, sigma: Tensor, images: Tensor) -> Tensor:
        """Logits [N, K] of block `block` for noisy label embeddings z [N, D] at σ [N], given the images."""
        embedders = self.embedders[block % len(self.embedders)]
        c_noise = self.precondition.c_noise(sigma)
        condition = embedders.noise(c_noise)
        c_in, c_skip, c_out = self.precondition.scalings(sigma, z)
        x = self.dropout(embedders.tokens(images, c_in * z))
        for i in self.partition.layers(block):
            x = self.layers[i](x, condition)
        return self.heads[block % len(self.heads)](x[:, 0], z, c_skip, c_out, condition)


def condition_width(spec: ViTSpec, method: DiffusionBlocksSpec) -> int:
    """Width of the noise's condition: the network's, or a sixth of it as in the official code's ViTDiTConfig."""
    return spec.width // 6 if method.adaln == "official" else spec.width


def initialise(network: nn.Module, spec: ViTSpec) -> None:
    """First weights as the spec wants them; what is zero at first stays so."""
    zero = {part.linear for part in network.modules() if isinstance(part, Modulation)}
    for part in network.modules():
        if isinstance(part, AdaLNHead) and part.wrap == "official":
            nn.init.zeros_(part.linear.weight)
            nn.init.zeros_(part.linear.bias)
            zero.add(part.linear)
    for part in network.modules():
        if spec.initial_deviation and isinstance(part, nn.Linear | nn.Conv2d) and part not in zero:
            nn.init.trunc_normal_(part.weight, std=spec.initial_deviation)
            nn.init.zeros_(part.bias)
