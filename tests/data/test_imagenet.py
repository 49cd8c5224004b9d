"""ImageNet's preparation on small generated files: folders and parquet agree, crops are central, counts are held."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dblocks.data.imagenet import center_crop
from dblocks.data.prepare import prepare
from dblocks.data.prepared import PreparedData
from dblocks.data.registry import ImageDataset, dataset
from dblocks.data.sources import availability
from dblocks.errors import UserError

CLASSES = ("n01440764", "n01443537", "n02128385")
REAL: ImageDataset = dataset("imagenet256")
INFO = replace(
    REAL,
    image_shape=(3, 16, 16),
    num_classes=3,
    train_size=9,
    test_size=6,
    origin=replace(REAL.origin, prepared_bytes=2**20),
)


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    draws = np.random.default_rng(seed)
    return Image.fromarray(draws.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def folders(root: Path, each: tuple[int, int] = (3, 2)) -> Path:
    for part, count in zip(("train", "val"), each, strict=True):
        for label, name in enumerate(CLASSES):
            (root / "imagenet256" / part / name).mkdir(parents=True)
            for i in range(count):
                picture(100 * label + i, (40 + i, 30)).save(root / "imagenet256" / part / name / f"{i}.png")
    return root


def parquet(root: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "imagenet256").mkdir(parents=True)
    for part, count in (("train", 3), ("validation", 2)):
        rows = []
        for label in range(3):
            for i in range(count):
                buffer = io.BytesIO()
                picture(100 * label + i, (40 + i, 30)).save(buffer, "PNG")
                rows.append({"image": {"bytes": buffer.getvalue(), "path": "x"}, "label": label})
        pq.write_table(pa.Table.from_pylist(rows), root / "imagenet256" / f"{part}-00000-of-00001.parquet")
    return root


def test_folders_and_parquet_give_the_same(tmp_path):
    one = PreparedData(prepare(INFO, folders(tmp_path / "a"), tmp_path / "one").parent)
    two = PreparedData(prepare(INFO, parquet(tmp_path / "b"), tmp_path / "two").parent)
    assert one.checksum() == two.checksum()
    assert one.array("train_images").shape == (9, 3, 16, 16)
    assert one.array("train_labels").tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert one.array("test_labels").tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(one.array("test_images")[0], center_crop(picture(0), 16))


@pytest.mark.parametrize("size", [(16, 16), (200, 33), (33, 200), (18, 16), (64, 64)])
def test_crops_are_square_and_central(size):
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (size[0] // 4, size[1] // 4, size[0] - size[0] // 4, size[1] - size[1] // 4))
    found = center_crop(image, 16).astype(int)
    assert found.shape == (3, 16, 16)
    assert np.abs(found - found[:, ::-1, ::-1]).max() <= 128  # symmetric up to half a pixel
    assert found[:, 7:9, 7:9].min() > 250


def test_grey_and_transparent_images_are_taken_as_colour():
    assert center_crop(Image.new("L", (20, 20), 77), 16).tolist() == np.full((3, 16, 16), 77).tolist()
    assert center_crop(Image.new("RGBA", (20, 20)), 16).shape == (3, 16, 16)


@pytest.mark.parametrize("each", [(2, 2), (4, 2), (3, 3)])
def test_another_number_of_images_is_refused(tmp_path, each):
    with pytest.raises(UserError, match="imagenet256 has"):
        prepare(INFO, folders(tmp_path / "data", each), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_image_is_named(tmp_path):
    folders(tmp_path / "data")
    broken = tmp_path / "data" / "imagenet256" / "train" / CLASSES[1] / "1.png"
    broken.write_bytes(broken.read_bytes()[:500])
    with pytest.raises(UserError, match=r"n01443537/1\.png: not a whole image"):
        prepare(INFO, tmp_path / "data", tmp_path / "out")


def test_it_needs_a_person(tmp_path):
    assert availability("imagenet256", tmp_path).state == "needs a person"
    assert availability(INFO, folders(tmp_path)).state == "found"
