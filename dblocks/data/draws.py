"""Random draws for batches of images, on the host and so the same whatever device the images are on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor


def drawn(draw: Callable[[int, Generator], Tensor], count: int, generators: Sequence[Generator]) -> Tensor:
    """`draw(n, generator)`, numbers [..., n] for n images, of each generator for its equal share of `count` images, in
    order: [..., count]. What an image is drawn does so not depend on which others are augmented with it."""
    share = count // len(generators)
    return torch.cat([draw(share, generator) for generator in generators], dim=-1)
