"""Training-time image augmentation: random crop or resized crop, horizontal flip and RandAugment, drawn per sample.

Images are uint8 tensors [N, C, H, W], C = 1 (grey) or 3 (RGB), in and out, on any device. All draws come from the
generators passed in, each for an equal share of the images, which are on the host: the same on every device. Nothing
here makes the host wait for a CUDA device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from dblocks.data.draws import drawn
from dblocks.data.rand_augment import rand_augment
from dblocks.data.sending import sent

if TYPE_CHECKING:
    from dblocks.spec import AugmentSpec

AREA, ASPECT, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # torchvision's defaults for a resized crop


def augment(images: Tensor, spec: AugmentSpec, *generators: Generator) -> Tensor:
    """Crop, then flip, then RandAugment, as `spec` says. uint8 [N, C, H, W] in and out."""
    if spec.crop_padding:
        images = random_crop(images, spec.crop_padding, *generators)
    if spec.resized_crop:
        images = resized(images, *(sent(box, images.device) for box in crop_boxes(images, *generators)))
    if spec.flip:
        images = random_flip(images, spec.flip, *generators)
    if spec.rand_augment is not None:
        images = rand_augment(images, spec.rand_augment.num_ops, spec.rand_augment.magnitude, *generators)
    return images


def random_crop(images: Tensor, padding: int, *generators: Generator) -> Tensor:
    """One of the (2 padding + 1)^2 H x W windows of each image [N, C, H, W] zero-padded on all four sides."""
    n, _, height, width = images.shape
    draws = drawn(lambda n, generator: torch.randint(2 * padding + 1, (2, n), generator=generator), n, generators)
    offsets = sent(draws, images.device)
    padded = F.pad(images, [padding] * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: [N, C, offset, offset, H, W]
    return windows[torch.arange(n, device=images.device), :, offsets[0], offsets[1]]


def crop_boxes(images: Tensor, *generators: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(top, left, height, width), each [N] on the host, of a random part of each image [N, C, H, W].

    As torchvision's RandomResizedCrop draws it: a share of the area, uniform in AREA, an aspect ratio, log-uniform in
    ASPECT, and a place; the first of TRIES shapes that fits, else the largest centred part that ASPECT allows.
    """
    n, _, height, width = images.shape
    uniform = drawn(
        lambda n, generator: torch.rand((4, TRIES, n), generator=generator, dtype=torch.float64), n, generators
    )
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * uniform[0])
    ratio = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** uniform[1]
    widths, heights = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    tops = (uniform[2] * (height - heights + 1)).floor().long()
    lefts = (uniform[3] * (width - widths + 1)).floor().long()
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first = fits.int().argmax(0, keepdim=True)
    w, h = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    whole = ((height - h) // 2, (width - w) // 2, h, w)
    found = (values.gather(0, first).squeeze(0) for values in (tops, lefts, heights, widths))
    return tuple(torch.where(fits.any(0), values, other) for values, other in zip(found, whole, strict=True))


def resized(images: Tensor, tops: Tensor, lefts: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
    """The boxes [N] of images [N, C, H, W], each enlarged to H x W: bilinear, along the rows, rounded to whole levels,
    then along the columns, as Pillow does it."""
    return _stretched(_stretched(images, lefts, widths).mT, tops, heights).mT.contiguous()


def _stretched(images: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """Of each image [N, C, H, W] the `lengths` columns from `starts` on, [N] both, enlarged to W columns."""
    columns = torch.arange(images.shape[3], dtype=torch.float64, device=images.device)
    last = lengths[:, None] - 1
    centres = ((columns + 0.5) * lengths[:, None] / images.shape[3] - 0.5).clamp(min=0).minimum(last)
    lower = centres.floor().long()

    def part(indices: Tensor, share: Tensor) -> Tensor:
        weight = (share * 2**22 + 0.5).int()  # Pillow's fixed point: with integers every device computes the same
        taken = images.gather(3, (starts[:, None] + indices)[:, None, None].expand_as(images))
        return taken.int() * weight[:, None, None]

    both = part(lower, 1 - (centres - lower)) + part((lower + 1).minimum(last), centres - lower)
    return ((both + 2**21) >> 22).to(torch.uint8)


def random_flip(images: Tensor, probability: float, *generators: Generator) -> Tensor:
    """Mirrors each image [N, C, H, W] left to right with the given probability."""
    draws = drawn(lambda n, generator: torch.rand(n, generator=generator), len(images), generators)
    flipped = sent(draws < probability, images.device)
    return torch.where(flipped[:, None, None, None], images.flip(3), images)
