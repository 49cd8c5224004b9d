"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719) on batches, its operations as Pillow has them, bit for bit.

Images are uint8 tensors [N, C, H, W], C = 1 (grey) or 3 (RGB), in and out, on any device. Draws are on the host: which
images an operation sees is then known without waiting for a device, and the same on all of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from dblocks.data.draws import drawn
from dblocks.data.sending import sent
from dblocks.errors import UserError

ImageFunction = Callable[[Tensor, Tensor], Tensor]

GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
ENHANCERS = ("Brightness", "Color", "Contrast", "Sharpness")
OPERATIONS = ("Identity", *GEOMETRIC, *ENHANCERS, "Posterize", "Solarize", "AutoContrast", "Equalize")
MAX_MAGNITUDE = 30  # 31 bins, 0 to 30


def rand_augment(images: Tensor, num_ops: int, magnitude: int, *generators: Generator) -> Tensor:
    """RandAugment (Cubuk et al. 2020, arXiv:1909.13719) with the operations and ranges of torchvision.

    Each image [N, C, H, W] goes through `num_ops` operations, each drawn uniformly from OPERATIONS with replacement.
    `magnitude` is a bin from 0 to 30; signed operations take either sign with probability 1/2. Each generator, on the
    host, draws for an equal share of the images.
    """
    if not 0 <= magnitude <= MAX_MAGNITUDE:
        raise UserError(f"rand_augment: magnitude is {magnitude}; it must be from 0 to {MAX_MAGNITUDE}")
    for _ in range(num_ops):
        draws = drawn(lambda n, g: torch.randint(2 * len(OPERATIONS), (n,), generator=g), len(images), generators)
        images = apply_operations(images, draws // 2, draws % 2 == 1, magnitude)
    return images


def apply_operations(images: Tensor, ops: Tensor, negative: Tensor, magnitude: int) -> Tensor:
    """Applies to each image [N, C, H, W] the one operation that `ops` [N], indices in OPERATIONS, names.

    `negative` (bool, [N]) is the sign of signed operations; both are on the host.
    """
    # sorted by operation, each is one run of the images: none is computed for those that did not draw it
    order = ops.argsort(stable=True)
    counts = ops.bincount(minlength=len(OPERATIONS)).tolist()
    maps = _affine_table(magnitude, images.shape[2], images.shape[3])[ops, negative.long()]
    strength = torch.linspace(0, 0.9, MAX_MAGNITUDE + 1, device="cpu")[magnitude].item()
    factors = torch.where(negative, 1 - strength, 1 + strength)
    there = functools.partial(sent, device=images.device)
    runs = [images[there(order)], there(maps[order]), there(factors[order])]
    photometric, done = _photometric(magnitude), []
    for name, part, coefficients, factor in zip(OPERATIONS, *(run.split(counts) for run in runs), strict=True):
        if not len(part):
            continue
        if name in GEOMETRIC:
            part = _warp(part, coefficients)
        elif name != "Identity":
            part = photometric[name](part, factor)
        done.append(part)
    return torch.cat(done)[there(order.argsort())] if done else images


@functools.lru_cache(maxsize=32)
def _affine_table(magnitude: int, height: int, width: int) -> Tensor:
    """The affine maps between pixel indices, [operation, sign, 6], int32 in units of 2^-16 pixels, on the host.

    This is Pillow's fixed point for nearest neighbours: with integers every device computes the same result.
    """
    table = []
    for name in OPERATIONS:
        for level in (magnitude, -magnitude):
            a, b, c, d, e, f = _affine(name, level, height, width)
            c, f = c + (a + b) / 2, f + (d + e) / 2  # the centre of a pixel is half a pixel off its index
            table.append([math.floor(v * 2**16 + 0.5) for v in (a, b, c, d, e, f)])
    return torch.tensor(table, dtype=torch.int32).view(len(OPERATIONS), 2, 6)


def _affine(name: str, level: int, height: int, width: int) -> tuple[float, ...]:
    """(a, b, c, d, e, f): the output shows at (x, y) what the input has at (ax + by + c, dx + ey + f).

    The origin is the image's top-left corner, x to the right, y down, in pixels. Shears fix that corner,
    rotations (counter-clockwise for a positive level) the centre; translations are by whole pixels.
    """
    shear, angle = 0.3 * level / MAX_MAGNITUDE, math.radians(30 * level / MAX_MAGNITUDE)
    right, down = (int(150 / 331 * size * level / MAX_MAGNITUDE) for size in (width, height))
    cos, sin, x, y = math.cos(angle), math.sin(angle), width / 2, height / 2
    return {
        "ShearX": (1, shear, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, shear, 1, 0),
        "TranslateX": (1, 0, -right, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, -down),
        "Rotate": (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y),
    }.get(name, (1, 0, 0, 0, 1, 0))


def _warp(images: Tensor, coefficients: Tensor) -> Tensor:
    """Nearest-neighbour affine map of each image, zeros outside; rows of `_affine_table` as coefficients."""
    _, channels, height, width = images.shape
    rows = torch.arange(height, dtype=torch.int32, device=images.device)[:, None]
    columns = torch.arange(width, dtype=torch.int32, device=images.device)
    a, b, c, d, e, f = coefficients[:, :, None, None].unbind(1)
    x, y = (a * columns + b * rows + c) >> 16, (d * columns + e * rows + f) >> 16
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    source = torch.where(inside, y * width + x, 0).long().flatten(1)[:, None].expand(-1, channels, -1)
    return images.flatten(2).gather(2, source).view_as(images) * inside[:, None]


def _photometric(magnitude: int) -> dict[str, ImageFunction]:
    """By name, (images, enhancement factor per image) -> images; only the first four use the factor."""
    kept_bits = 256 - 2 ** round(4 * magnitude / MAX_MAGNITUDE)
    threshold = math.ceil(255 * (MAX_MAGNITUDE - magnitude) / MAX_MAGNITUDE)
    return {
        "Brightness": lambda x, factor: _blend(x.new_zeros(1), x, factor),
        "Color": lambda x, factor: _blend(_luma(x), x, factor),
        "Contrast": lambda x, factor: _blend(_mean_luma(x), x, factor),
        "Sharpness": lambda x, factor: _blend(_smooth(x), x, factor),
        "Posterize": lambda x, _: x & kept_bits,
        "Solarize": lambda x, _: torch.where(x >= threshold, 255 - x, x),
        "AutoContrast": lambda x, _: _autocontrast(x),
        "Equalize": lambda x, _: _equalize(x),
    }


def _blend(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """From `degenerate` (factor 0) through the image (1) and beyond; truncates, as Pillow's enhancers do."""
    base = degenerate.float()
    return (base + factor[:, None, None, None] * (images - base)).clamp(0, 255).to(torch.uint8)


def _luma(images: Tensor) -> Tensor:
    """ITU-R 601 grey level [N, 1, H, W] with Pillow's 16-bit weights. A grey image is its own."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16)[:, None]


def _mean_luma(images: Tensor) -> Tensor:
    """Mean grey level of each image, rounded half up, [N, 1, 1, 1]."""
    pixels = images.shape[2] * images.shape[3]
    return (2 * _luma(images).sum(dim=(2, 3), keepdim=True) + pixels) // (2 * pixels)


def _smooth(images: Tensor) -> Tensor:
    """Pillow's SMOOTH filter: 3 x 3 weights of 1, 5 in the centre, over 13; the border stays as it is."""
    x = images.short()
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * x[:, :, 1:-1, 1:-1]
    x[:, :, 1:-1, 1:-1] = (2 * total + 13) // 26  # total / 13 to the nearest integer
    return x


def _autocontrast(images: Tensor) -> Tensor:
    """Stretches each channel to 0 ... 255; a constant one stays. float64 and truncation as in Pillow."""
    low, high = images.amin((2, 3), keepdim=True).double(), images.amax((2, 3), keepdim=True).double()
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)  # 255 / x would round 1 / x first
    stretched = (images * scale - low * scale).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def _equalize(images: Tensor) -> Tensor:
    """Equalizes each channel's histogram by Pillow's integer rule: its highest level does not count."""
    pixels = images.flatten(2).long()
    histogram = pixels.new_zeros(*images.shape[:2], 256).scatter_add_(2, pixels, torch.ones_like(pixels))
    last = histogram.gather(2, pixels.amax(2, keepdim=True))
    step = (pixels.shape[2] - last) // 255
    levels = ((histogram.cumsum(2) - histogram + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, levels.gather(2, pixels), pixels).to(torch.uint8).view_as(images)
