"""NoProp's CNN (Li, Teh & Pascanu 2025, Figure 6): image, noisy label and time in, logits out; copies of it in a row.

Shapes: N images [N, C, H, W], noisy labels z [N, *S] with S the shape of a class embedding, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dblocks.diffusion_blocks import per_sample
from dblocks.networks.embedding_target import embed_logits
from dblocks.partition import Partition, preconditioning
from dblocks.spec import DiffusionBlocksSpec, NoPropCNNSpec

Shape = tuple[int, ...]


def norm_layer(width: int, norm: str) -> nn.Module:
    """Batch norm (NoProp-DT), or nothing (NoProp-CT)."""
    return nn.BatchNorm1d(width) if norm == "batch" else nn.Identity()


def image_branch(spec: NoPropCNNSpec, shape: Shape) -> nn.Sequential:
    """Images [N, C, H, W] → features [N, D]: three convolutions, flattened, one linear layer."""
    channels, layers = shape[0], []
    for width, pool in zip(spec.channels, (True, False, True), strict=True):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
        layers += [nn.Dropout(spec.dropout)]
        channels = width
    flat = channels * (shape[1] // 4) * (shape[2] // 4)
    last = nn.BatchNorm1d(spec.width) if spec.norm == "batch" else nn.ReLU()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, spec.width), last)


class LabelBranch(nn.Module):
    """Vectors z [N, d] → [N, D]: a linear layer, and in NoProp-DT a residual pair on top of it."""

    def __init__(self, dimension: int, width: int, norm: str):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(dimension, width), norm_layer(width, norm), nn.ReLU())
        pair = [nn.Linear(width, width), norm_layer(width, norm), nn.ReLU()]
        pair += [nn.Linear(width, width), norm_layer(width, norm)]
        self.pair = nn.Sequential(*pair) if norm == "batch" else None

    def forward(self, z: Tensor) -> Tensor:
        x = self.first(z)
        return x if self.pair is None else x + self.pair(x)


class TimeBranch(nn.Module):
    """A time or noise level [N] → [N, D]: sinusoids, a linear layer, ReLU."""

    def __init__(self, frequencies: int, width: int):
        super().__init__()
        half = frequencies // 2
        self.register_buffer("rates", torch.exp(-math.log(10000) * torch.arange(half) / half), persistent=False)
        self.linear = nn.Linear(2 * half, width)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None].float() * self.rates
        return F.relu(self.linear(torch.cat([angles.cos(), angles.sin()], dim=-1)))


class NoPropCNN(nn.Module):
    """One complete copy of the CNN.

    An image-shaped z goes through convolutions like the image's: its own, or (`label_branch: shared`) the very same.
    """

    def __init__(self, spec: NoPropCNNSpec, shape: Shape, embedding_shape: Shape, num_classes: int, timed: bool):
        super().__init__()
        self.image = image_branch(spec, shape)
        vector = len(embedding_shape) == 1
        if vector:
            self.label: nn.Module | None = LabelBranch(embedding_shape[0], spec.width, spec.norm)
        else:
            self.label = None if spec.label_branch == "shared" else image_branch(spec, embedding_shape)
        self.time = TimeBranch(spec.time_features, spec.width) if timed else None
        layers, width = [], spec.width * (3 if timed else 2)
        for following in (spec.width, spec.width // 2):
            layers += [nn.Linear(width, following), norm_layer(following, spec.norm), nn.ReLU()]
            width = following
        self.fusion = nn.Sequential(*layers, nn.Linear(width, num_classes))

    def forward(self, features: Tensor, z: Tensor, t: Tensor | None = None) -> Tensor:
        """Logits [N, K] from the image branch's features [N, D], z and, where there is a time branch, t [N]."""
        branches = [features, (self.image if self.label is None else self.label)(z)]
        if self.time is not None:
            branches.append(self.time(t))
        return self.fusion(torch.cat(branches, dim=-1))


class KeptFeatures:
    """Images with each copy's features: computed when a copy first asks for them, then kept over all sampling steps."""

    def __init__(self, images: Tensor):
        self.images, self.kept = images, {}

    def of(self, copy: NoPropCNN) -> Tensor:
        if copy not in self.kept:
            self.kept[copy] = copy.image(self.images)
        return self.kept[copy]


class ClassEmbedding(nn.Module):
    """The table [K, *S] of class embeddings: one-hot and fixed, learned vectors, or prototypes (Section 2.2.1)."""

    def __init__(self, spec: NoPropCNNSpec, num_classes: int, prototypes: Tensor | None = None):
        super().__init__()
        if spec.embedding == "one_hot":
            self.register_buffer("table", torch.eye(num_classes))
        elif spec.embedding == "learned":
            self.table = nn.Parameter(nn.init.orthogonal_(torch.empty(num_classes, spec.embedding_dim)))
        else:
            self.table = nn.Parameter(prototypes.clone())

    @property
    def shape(self) -> Shape:
        """S."""
        return tuple(self.table.shape[1:])

    @property
    def learned(self) -> bool:
        return isinstance(self.table, nn.Parameter)

    def forward(self, labels: Tensor) -> Tensor:
        """Labels [N] → u [N, *S]."""
        return self.table[labels]

    def mix(self, weights: Tensor) -> Tensor:
        """Weights of the classes [N, K] → their mixture [N, *S]."""
        return (weights.float() @ self.table.flatten(1)).view(-1, *self.shape)

    def distances(self, z: Tensor) -> Tensor:
        """Squared Euclidean distances [N, K] of z [N, *S] to all embeddings."""
        z, table = z.flatten(1), self.table.flatten(1)
        return z.square().sum(1, keepdim=True) - 2 * z @ table.T + table.square().sum(1)


def class_prototypes(images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """For each class the image [C, H, W] with the smallest median distance to its class mates: [K, C, H, W]."""
    chosen = []
    for label in range(num_classes):
        own = images[labels == label]
        if len(own) == 0:
            raise ValueError(f"class {label} has no image to be its prototype")
        flat = own.flatten(1).double()
        # without the image itself: its distance 0 would move the median of small classes; sorted, as CUDA's medians are
        # refused where bits must repeat
        distances = torch.cdist(flat, flat).fill_diagonal_(float("inf")).sort(dim=1).values
        medians = distances[:, max(len(own) - 2, 0) // 2]
        chosen.append(own[medians.argmin()])
    return torch.stack(chosen)


class NoPropNetwork(nn.Module):
    """Copies of the CNN with the class embeddings and the linear classifier that they share."""

    def __init__(self, spec: NoPropCNNSpec, copies: int, timed: bool, shape: Shape, embedding: ClassEmbedding):
        super().__init__()
        classes = len(embedding.table)
        self.embedding = embedding
        self.blocks = nn.ModuleList(NoPropCNN(spec, shape, embedding.shape, classes, timed) for _ in range(copies))
        self.classifier = nn.Linear(math.prod(embedding.shape), classes)

    def logits(self, block: int, images: KeptFeatures, z: Tensor, t: Tensor | None = None) -> Tensor:
        """One copy's logits [N, K]."""
        copy = self.blocks[block]
        return copy(images.of(copy), z, t)

    def clean(self, block: int, images: KeptFeatures, z: Tensor, t: Tensor | None = None) -> Tensor:
        """û [N, *S]: the mixture of class embeddings by one copy's probabilities (Section 2.3.2)."""
        return self.embedding.mix(self.logits(block, images, z, t).float().softmax(dim=-1))

    def classify(self, z: Tensor) -> Tensor:
        """The linear classifier's logits [N, K]."""
        return self.classifier(z.flatten(1))


class NoPropDenoiser(nn.Module):
    """DiffusionBlocks on this network: a complete copy for each noise interval, since it has no layers to cut.

    The target is a row of the embedding table at unit norm; a copy's prediction is logits over the classes.
    """

    def __init__(
        self,
        spec: NoPropCNNSpec,
        method: DiffusionBlocksSpec,
        partition: Partition,
        shape: Shape,
        embedding: ClassEmbedding,
    ):
        super().__init__()
        self.partition, self.method, self.embedding = partition, method, embedding
        self.target_shape = embedding.shape
        if embedding.learned:
            embedding.table.requires_grad_(method.target_table == "trained")
        self.precondition = preconditioning(method.noise, math.prod(embedding.shape))
        classes = len(embedding.table)
        self.blocks = nn.ModuleList(
            NoPropCNN(spec, shape, embedding.shape, classes, timed=True) for _ in range(partition.num_blocks)
        )

    def keep(self, images: Tensor) -> KeptFeatures:
        """The images, with room for what of them does not depend on z or σ."""
        return KeptFeatures(images)

    def target(self, labels: Tensor) -> Tensor:
        """Labels [N] → y [N, *S], unit norm against collapse."""
        return F.normalize(self.embedding(labels).flatten(1), dim=-1).view(-1, *self.target_shape)

    def denoise(self, block: int, z: Tensor, sigma: Tensor, images: Tensor | KeptFeatures) -> Tensor:
        """Logits [N, K] of copy `block` for z [N, *S] at σ [N], given the images."""
        copy, p = self.blocks[block], self.precondition
        features = images.of(copy) if isinstance(images, KeptFeatures) else copy.image(images)
        return copy(features, per_sample(p.c_in(sigma), z) * z, self.method.c_noise_scale * p.c_noise(sigma))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy per sample [N]."""
        return F.cross_entropy(logits.float(), labels, reduction="none")

    def bridge(self, logits: Tensor) -> Tensor:
        """Logits [N, K] → the clean embedding they stand for [N, *S], by the rule named in the spec."""
        rule, table = self.method.sampling, self.embedding.table.flatten(1)
        table = table if rule.bridge_table == "raw" else F.normalize(table, dim=-1)
        return embed_logits(logits, table, rule.bridge, rule.top_k).view(-1, *self.target_shape)
