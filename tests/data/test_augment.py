"""The reference for every operation of RandAugment is Pillow, with torchvision's arguments written out."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from dblocks.data import rand_augment as module
from dblocks.data.augment import augment, crop_boxes, random_crop, random_flip, resized
from dblocks.data.rand_augment import OPERATIONS, apply_operations, rand_augment
from dblocks.errors import UserError

SHAPES = [(3, 32, 32), (1, 28, 28), (3, 17, 24), (1, 24, 17), (3, 2, 3), (1, 1, 1)]
UNSIGNED = {"Identity", "Posterize", "Solarize", "AutoContrast", "Equalize"}
BLENDS = {"Brightness", "Color", "Contrast", "Sharpness"}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample_images(shape: tuple[int, int, int]) -> torch.Tensor:
    """Noise over all levels, noise over few levels, a smooth ramp, a constant, black with one white pixel."""
    channels, height, width = shape
    noise = torch.randint(256, shape, generator=seeded(0))
    narrow = torch.randint(90, 141, shape, generator=seeded(1))
    ramp = torch.arange(channels * height * width).view(shape) * 200 // (channels * height * width) + 30
    constant = torch.full(shape, 77)
    point = torch.zeros(shape, dtype=torch.int64)
    point[:, height // 2, width // 2] = 255
    return torch.stack([noise, narrow, ramp, constant, point]).to(torch.uint8)


def to_pillow(image: torch.Tensor) -> Image.Image:
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if len(image) == 1 else array)


def from_pillow(image: Image.Image) -> torch.Tensor:
    array = torch.from_numpy(np.array(image))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)


def warped(image: Image.Image, *coefficients: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST)


def reference(name: str, image: Image.Image, bin_: int, sign: int) -> Image.Image:
    """The operation in Pillow, at torchvision's magnitude for that bin: shears about the top-left corner."""
    width, height = image.size
    shear, factor = sign * 0.3 * bin_ / 30, 1 + sign * float(torch.linspace(0, 0.9, 31)[bin_])
    right, down = (sign * int(150 / 331 * size * bin_ / 30) for size in (width, height))
    operations = {
        "Identity": lambda: image,
        "ShearX": lambda: warped(image, 1, shear, 0, 0, 1, 0),
        "ShearY": lambda: warped(image, 1, 0, 0, shear, 1, 0),
        "TranslateX": lambda: warped(image, 1, 0, -right, 0, 1, 0),
        "TranslateY": lambda: warped(image, 1, 0, 0, 0, 1, -down),
        "Rotate": lambda: image.rotate(sign * float(bin_), Image.Resampling.NEAREST),
        "Brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "Color": lambda: ImageEnhance.Color(image).enhance(factor),
        "Contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "Sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "Posterize": lambda: ImageOps.posterize(image, 8 - round(bin_ / (30 / 4))),
        "Solarize": lambda: ImageOps.solarize(image, 255 - 255 * bin_ / 30),
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
    }
    return operations[name]()


def apply_one(images: torch.Tensor, name: str, bin_: int, sign: int) -> torch.Tensor:
    ops = torch.full((len(images),), OPERATIONS.index(name))
    return apply_operations(images, ops, torch.full((len(images),), sign < 0), bin_)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_pillows_at_every_magnitude(name: str, shape: tuple[int, int, int]) -> None:
    """Exact, but for the blends: a Pillow compiled to fused multiply-adds may differ in a few pixels.

    Geometric operations are exact at the image's edge too: they use Pillow's fixed-point arithmetic.
    """
    images = sample_images(shape)
    for bin_ in range(31):
        for sign in (1, -1):
            result = apply_one(images, name, bin_, sign)
            expected = torch.stack([from_pillow(reference(name, to_pillow(x), bin_, sign)) for x in images])
            assert result.dtype == torch.uint8
            difference = (result.int() - expected.int()).abs()
            if name in BLENDS:
                assert difference.max() <= 1 and (difference > 0).float().mean() <= 0.01, (bin_, sign)
            else:
                assert not difference.any(), (bin_, sign)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_histogram_operations_are_pillows_on_any_image(data: st.DataObject) -> None:
    """Few distinct levels in skewed proportions reach the corner cases of the two histogram rules."""
    levels = data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=6))
    side = data.draw(st.integers(1, 40))
    power = data.draw(st.floats(0.2, 8))
    choice = torch.rand(3, side, side, generator=seeded(data.draw(st.integers(0, 2**32)))) ** power
    image = torch.tensor(levels, dtype=torch.uint8)[(choice * len(levels)).long().clamp(max=len(levels) - 1)]
    for name in ("AutoContrast", "Equalize"):
        expected = from_pillow(reference(name, to_pillow(image), 0, 1))
        assert torch.equal(apply_one(image[None], name, 0, 1)[0], expected), name


def test_autocontrast_is_pillows_for_every_range_of_levels() -> None:
    """Pillow truncates a float64 product, so that the last bit of its scale shows for some ranges."""
    for span in range(1, 256):
        lows = {0, 1, (255 - span) // 2, 255 - span} & set(range(256 - span))
        levels = torch.stack([torch.arange(256).clamp(low, low + span) for low in sorted(lows)])
        images = levels.to(torch.uint8).view(-1, 1, 16, 16)
        expected = torch.stack([from_pillow(ImageOps.autocontrast(to_pillow(x))) for x in images])
        assert torch.equal(apply_one(images, "AutoContrast", 0, 1), expected), span


def test_magnitude_zero_leaves_signed_operations_without_effect() -> None:
    images = sample_images((3, 32, 32))
    for name in set(OPERATIONS) - {"Solarize", "AutoContrast", "Equalize"}:
        assert torch.equal(apply_one(images, name, 0, -1), images), name


def test_color_is_the_identity_on_grey_images() -> None:
    images = sample_images((1, 28, 28))
    assert torch.equal(apply_one(images, "Color", 30, 1), images)
    assert torch.equal(apply_one(images, "Color", 30, -1), images)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_that_draw_different_operations_do_not_mix(shape: tuple[int, int, int]) -> None:
    images = torch.randint(256, (40, *shape), dtype=torch.uint8, generator=seeded(0))
    before = images.clone()
    ops = torch.randint(len(OPERATIONS), (40,), generator=seeded(1))
    negative = torch.rand(40, generator=seeded(2)) < 0.5
    result = apply_operations(images, ops, negative, 17)
    assert torch.equal(images, before), "the input was written to"
    for i, (op, minus) in enumerate(zip(ops.tolist(), negative.tolist(), strict=True)):
        assert torch.equal(apply_one(images[i : i + 1], OPERATIONS[op], 17, -1 if minus else 1)[0], result[i])


def outcomes(images: torch.Tensor, bin_: int) -> dict[tuple[str, int], torch.Tensor]:
    """What each operation, with each sign that it has, makes of the first image."""
    signs = {name: (1,) if name in UNSIGNED else (1, -1) for name in OPERATIONS}
    return {(name, s): apply_one(images[:1], name, bin_, s) for name in OPERATIONS for s in signs[name]}


def test_operations_and_signs_are_drawn_uniformly() -> None:
    """Seen from outside: which of the 23 possible results each of 14 000 copies of an image became."""
    image = torch.randint(20, 200, (1, 3, 20, 20), dtype=torch.uint8, generator=seeded(0))
    results = rand_augment(image.expand(14_000, -1, -1, -1), 1, 20, seeded(1))
    counts = {key: int((results == x).all((1, 2, 3)).sum()) for key, x in outcomes(image, 20).items()}
    assert len(counts) == 23 and sum(counts.values()) == 14_000, "results are not told apart, or unknown"
    for name in OPERATIONS:
        assert abs(counts[name, 1] + counts.get((name, -1), 0) - 1000) < 5 * math.sqrt(1000), name
        if name not in UNSIGNED:
            assert abs(counts[name, 1] - 500) < 5 * math.sqrt(500), name


def test_operations_are_drawn_anew_for_each_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def record(images: torch.Tensor, ops: torch.Tensor, *_: object) -> torch.Tensor:
        drawn.append(ops)
        return images

    monkeypatch.setattr(module, "apply_operations", record)
    rand_augment(torch.zeros(19_600, 1, 1, 1, dtype=torch.uint8), 2, 9, seeded(0))
    first, second = drawn
    pairs = torch.bincount(first * 14 + second, minlength=196)  # 100 expected of each, repetitions included
    assert (pairs - 100).abs().max() < 5 * math.sqrt(100)


@pytest.mark.parametrize("magnitude", [-1, 31])
def test_magnitude_out_of_range_is_a_user_error(magnitude: int) -> None:
    with pytest.raises(UserError, match=f"magnitude is {magnitude}"):
        rand_augment(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 1, magnitude, seeded(0))


@settings(max_examples=40, deadline=None)
@given(
    channels=st.sampled_from([1, 3]),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    padding=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_every_crop_is_a_window_of_the_padded_image(
    channels: int, height: int, width: int, padding: int, seed: int
) -> None:
    shape = (6, channels, height, width)
    images = torch.randint(1, 256, shape, dtype=torch.uint8, generator=seeded(seed))
    crops = random_crop(images, padding, seeded(seed + 1))
    assert crops.shape == shape and crops.dtype == torch.uint8
    padded = torch.zeros(6, channels, height + 2 * padding, width + 2 * padding, dtype=torch.uint8)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    offsets = range(2 * padding + 1)
    windows = [padded[:, :, y : y + height, x : x + width] for y in offsets for x in offsets]
    is_window = torch.stack([(crops == window).all((1, 2, 3)) for window in windows])
    assert is_window.any(0).all()


def test_all_crop_offsets_are_equally_likely() -> None:
    image = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)
    crops = random_crop(image.expand(10_000, -1, -1, -1), 2, seeded(0))
    corner = crops[:, 0, 4, 4].long() - 1  # the pixel there tells the offset: its row and column, 2 to 6
    counts = torch.bincount(corner, minlength=64).view(8, 8)[2:7, 2:7]
    assert counts.sum() == 10_000
    assert (counts - 400).abs().max() < 5 * math.sqrt(400)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 16, 16), (3, 17, 24), (1, 1, 1)], ids=str)
def test_a_resized_crop_is_pillows(shape: tuple[int, int, int]) -> None:
    images = torch.randint(256, (60, *shape), dtype=torch.uint8, generator=seeded(0))
    before, boxes = images.clone(), crop_boxes(images, seeded(1))
    result = resized(images, *boxes)
    assert result.dtype == torch.uint8 and result.is_contiguous() and torch.equal(images, before)
    for image, found, top, left, height, width in zip(images, result, *(box.tolist() for box in boxes), strict=True):
        part = to_pillow(image).crop((left, top, left + width, top + height))
        expected = part.resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
        assert torch.equal(found, from_pillow(expected)), (top, left, height, width)


def torchvisions_box(height: int, width: int, draws: np.random.Generator) -> tuple[int, int, int, int]:
    """One draw of RandomResizedCrop's box, written as the rule reads: (top, left, height, width)."""
    for _ in range(10):
        area = height * width * draws.uniform(0.08, 1)
        ratio = math.exp(draws.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(draws.integers(height - h + 1)), int(draws.integers(width - w + 1)), h, w
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        w, h = round(height * (4 / 3)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(64, 64), (16, 16), (8, 64), (64, 8)], ids=str)
def test_boxes_of_resized_crops_are_spread_as_torchvisions(size: tuple[int, int]) -> None:
    """Two-sample Kolmogorov–Smirnov tests of each side, each place and of how two of them go together."""
    images = torch.zeros(6000, 1, *size, dtype=torch.uint8)
    found = torch.stack(crop_boxes(images, seeded(3)), 1).numpy()
    draws = np.random.default_rng(4)
    expected = np.array([torchvisions_box(*size, draws) for _ in range(6000)])
    assert (found >= 0).all() and (found[:, :2] + found[:, 2:] <= size).all() and (found[:, 2:] >= 1).all()
    for name, view in {
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "height": lambda box: box[:, 2],
        "width": lambda box: box[:, 3],
        "area": lambda box: box[:, 2] * box[:, 3],
        "ratio": lambda box: box[:, 3] / box[:, 2],
        "middle": lambda box: 2 * box[:, 0] + box[:, 2],
    }.items():
        assert stats.ks_2samp(view(found), view(expected)).pvalue > 1e-4, name


def test_where_no_box_fits_the_largest_part_in_the_middle_is_taken() -> None:
    """An image 64 times as wide as high: no ratio between 3/4 and 4/3 has 8 % of its area."""
    images = torch.zeros(5, 1, 2, 128, dtype=torch.uint8)
    boxes = torch.stack(crop_boxes(images, seeded(0)), 1)
    assert boxes.tolist() == [[0, (128 - 3) // 2, 2, 3]] * 5


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flips_mirror_a_share_of_the_images(probability: float) -> None:
    images = torch.randint(256, (4000, 3, 4, 5), dtype=torch.uint8, generator=seeded(0))
    result = random_flip(images, probability, seeded(1))
    same, mirrored = (result == images).all((1, 2, 3)), (result == images.flip(3)).all((1, 2, 3))
    assert result.dtype == torch.uint8 and (same ^ mirrored).all()
    deviation = math.sqrt(4000 * probability * (1 - probability))
    assert abs(int(mirrored.sum()) - 4000 * probability) <= 5 * deviation


def spec_of(crop_padding: int, flip: float, resized_crop: bool = False, **rand_augment: int) -> SimpleNamespace:
    inner = SimpleNamespace(**rand_augment) if rand_augment else None
    return SimpleNamespace(crop_padding=crop_padding, resized_crop=resized_crop, flip=flip, rand_augment=inner)


SPECS = {
    "all": spec_of(4, 0.5, num_ops=2, magnitude=9),
    "crop and flip": spec_of(2, 0.5),
    "resized crop and flip": spec_of(0, 0.5, resized_crop=True),
    "RandAugment": spec_of(0, 0.0, num_ops=3, magnitude=15),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_the_generator_alone_decides(spec: SimpleNamespace, shape: tuple[int, int, int]) -> None:
    images = torch.randint(256, (16, *shape), dtype=torch.uint8, generator=seeded(0))
    before, global_state = images.clone(), torch.get_rng_state()
    result = augment(images, spec, seeded(5))
    assert result.shape == images.shape and result.dtype == torch.uint8
    assert torch.equal(result, augment(images, spec, seeded(5)))
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), global_state)
    if shape[1] > 8:
        assert not torch.equal(result, augment(images, spec, seeded(6)))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_samples_get_draws_of_their_own(spec: SimpleNamespace) -> None:
    image = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8, generator=seeded(0))
    result = augment(image.expand(64, -1, -1, -1), spec, seeded(1))
    assert len(result.flatten(1).unique(dim=0)) > 25


def test_augment_crops_then_flips_then_applies_rand_augment() -> None:
    images = torch.randint(256, (32, 3, 16, 16), dtype=torch.uint8, generator=seeded(0))
    generator = seeded(3)
    expected = random_flip(random_crop(images, 4, generator), 0.5, generator)
    assert torch.equal(augment(images, SPECS["all"], seeded(3)), rand_augment(expected, 2, 9, generator))


def test_augment_without_any_part_returns_the_images() -> None:
    images = sample_images((3, 8, 8))
    assert torch.equal(augment(images, spec_of(0, 0.0), seeded(0)), images)
