"""ImageNet at 256×256 from class folders or the hub's parquet files, one image at a time.

Images are cropped as ADM's code does (Dhariwal & Nichol 2021): halved by box filter while at least twice too large,
brought to 256 by bicubic, cut at the centre. Labels are the places of the class names in sorted order, as on the hub.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from dblocks.data.files import one_line
from dblocks.data.images import parquet_batches, whole_shards
from dblocks.data.registry import ImageDataset
from dblocks.data.sources import IMAGE_SUFFIXES, Source
from dblocks.errors import UserError

Item = tuple[bytes | Path, int, str]  # the encoded image or its file, label, where it is


def center_crop(image: Image.Image, size: int) -> np.ndarray:
    """Any image → uint8 [3, size, size]."""
    image = image.convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def items(info: ImageDataset, source: Source, split: str) -> Iterator[Item]:
    """The images of train or test (the validation images of the source) in the source's own order."""
    part = "train" if split == "train" else {"folders": "val", "parquet": "validation"}[source.kind]
    if source.kind == "parquet":
        for path in whole_shards(source.path, part):
            count = 0
            for columns in parquet_batches(path, ("image", info.label_column)):
                for image, label in zip(*columns, strict=True):
                    where, count = f"{path}, image {count}", count + 1
                    content = image.get("bytes") if isinstance(image, dict) else None
                    # what has a path alone is not looked for: it would be a file of whoever reads this
                    if not isinstance(content, bytes) or not isinstance(label, int):
                        raise UserError(f"{where}: must have the image file's bytes and an integer label")
                    yield content, label, where
        return
    classes = sorted(path for path in (source.path / part).iterdir() if path.is_dir())
    if len(classes) != info.num_classes:
        raise UserError(f"{source.path / part}: {len(classes)} class folders, {info.name} has {info.num_classes}")
    for label, folder in enumerate(classes):
        for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
            yield path, label, str(path)


def load(item: Item, size: int) -> tuple[np.ndarray, int]:
    """An image, cropped, and its label.

    Raises: UserError naming where it is, if it is no image.
    """
    content, label, where = item
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
            return center_crop(image, size), label
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: not a whole image ({one_line(error)})") from error


def write_images(info: ImageDataset, source: Source, folder: Path) -> None:
    """Write {train,test}_{images,labels}.npy into `folder`; memory does not grow with the source.

    Raises: UserError if an image is broken, or there are not as many as the data set has.
    """
    for split, size in (("train", info.train_size), ("test", info.test_size)):
        shape = (size, *info.image_shape)
        images = np.lib.format.open_memmap(folder / f"{split}_images.npy", mode="w+", dtype=np.uint8, shape=shape)
        labels, count = np.zeros(size, np.int64), 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            waiting = items(info, source, split)
            while group := list(islice(waiting, 256)):
                for image, label in pool.map(load, group, [info.image_shape[1]] * len(group)):
                    if count == size or not 0 <= label < info.num_classes:
                        raise UserError(
                            f"{group[0][2]}: label {label}, image {count}: {info.name} has {size} of {split}"
                        )
                    images[count], labels[count] = image, label
                    count += 1
        if count != size:
            raise UserError(f"{source.path}: {count} {split} images, {info.name} has {size}")
        images.flush()
        np.save(folder / f"{split}_labels.npy", labels)
