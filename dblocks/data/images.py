"""Labelled images from any of their sources, checked, and put into an order that no source decides.

Every source of a data set ends in the same arrays bit for bit, so training does not depend on where it came from.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dblocks.data.archive import load_archive
from dblocks.data.files import one_line
from dblocks.data.prepared import read_array
from dblocks.data.registry import ImageDataset
from dblocks.data.sources import NPY_FILES, Source, parquet_shards
from dblocks.errors import UserError

SALT = b"dblocks canonical order 1"


def load_images(info: ImageDataset, source: Source) -> tuple[dict[str, np.ndarray], str]:
    """Read, check and order a data set.

    Returns: {train,test}_images uint8 [N, C, H, W] and {train,test}_labels int64 [N], in canonical order, and the
        content checksum, the same for every order of the samples.
    Raises: UserError naming the file and what is wrong with it.
    """
    loaders = {"npy": load_npy, "parquet": load_parquet, "archive": load_archive}
    if info.original is not None:
        from dblocks.data.tiny_imagenet import load_original

        loaders |= {"original": load_original, "archive": load_original}
    loader = loaders[source.kind]
    arrays = loader(source.path, info)
    content = hashlib.sha256()
    for split, size in (("train", info.train_size), ("test", info.test_size)):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        check_split(info, split, size, images, labels, source.path)
        labels = labels.astype(np.int64)
        keys = sample_keys(images, labels)
        order = np.array(sorted(range(size), key=keys.__getitem__))
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[order], labels[order]
        content.update(split.encode() + b"".join(keys[i] for i in order))
    found = content.hexdigest()
    if info.content is not None and found != info.content:
        raise UserError(
            f"{source.path}: images or labels are not those of {info.name}: content checksum is {found[:16]}…, "
            f"the real one {info.content[:16]}…; get it again from another source"
        )
    return arrays, found


def sample_keys(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
    """A 16-byte hash of each image [C, H, W] with its label, the sorting key of the canonical order."""
    start = hashlib.blake2b(SALT, digest_size=16)
    keys = []
    for image, label in zip(images, labels, strict=True):
        key = start.copy()
        key.update(image.tobytes())
        key.update(int(label).to_bytes(8, "little"))
        keys.append(key.digest())
    return keys


def check_split(info: ImageDataset, split: str, size: int, images: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Raises: UserError unless images are uint8 [size, C, H, W] and labels integers [size] in range, balanced."""
    if images.dtype != np.uint8 or images.shape != (size, *info.image_shape):
        raise UserError(
            f"{path}: {split} images are {images.dtype} {list(images.shape)} (channels first), "
            f"{info.name} has uint8 {[size, *info.image_shape]}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (size,):
        raise UserError(
            f"{path}: {split} labels are {labels.dtype} {list(labels.shape)}, {info.name} has integers [{size}]"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= info.num_classes:
        raise UserError(f"{path}: {split} labels run from {low} to {high}; must be 0 to {info.num_classes - 1}")
    counts, each = np.bincount(labels.astype(np.int64), minlength=info.num_classes), size // info.num_classes
    if info.balanced and (wrong := np.flatnonzero(counts != each)).size:
        label = int(wrong[0])
        raise UserError(f"{path}: {split} has {counts[label]} images of class {label}; {info.name} has {each} of each")


def load_npy(folder: Path, info: ImageDataset) -> dict[str, np.ndarray]:
    """{train,test}_images.npy uint8 [N, H, W, C] and {train,test}_labels.npy, any integer type [N]."""
    arrays = {}
    for file in NPY_FILES:
        path = folder / file
        if not path.is_file():
            raise UserError(f"{path}: missing; the folder must hold all of {', '.join(NPY_FILES)}")
        array = read_array(path, "get it again")
        if file.endswith("_images.npy"):
            if array.ndim != 4:
                raise UserError(f"{path}: shape is {list(array.shape)}, must be [N, height, width, channels]")
            array = np.ascontiguousarray(array.transpose(0, 3, 1, 2))
        arrays[path.stem] = array
    return arrays


def load_parquet(folder: Path, info: ImageDataset) -> dict[str, np.ndarray]:
    """A folder in the hub's layout: `info.image_column` holds encoded images {bytes, path}, `info.label_column` labels.

    Files without the hub's own schema metadata read the same.
    """
    arrays = {}
    for split, size in (("train", info.train_size), ("test", info.test_size)):
        images, labels = np.empty((size, *info.image_shape), np.uint8), []
        part = "train" if split == "train" else info.test_part
        for encoded, label, path in _rows(whole_shards(folder, part), (info.image_column, info.label_column)):
            if len(labels) == size:
                raise UserError(f"{path}: more than the {size} {split} images of {info.name}")
            images[len(labels)] = decode_image(encoded, info, f"{path}, image {len(labels)}")
            labels.append(label)
        if len(labels) != size:
            raise UserError(f"{folder}: {len(labels)} {split} images, {info.name} has {size}")
        if not all(isinstance(label, int) for label in labels):
            raise UserError(f"{folder}: {split} labels in column `{info.label_column}` are not all integers")
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, np.array(labels, dtype=np.int64)
    return arrays


def whole_shards(folder: Path, split: str) -> list[Path]:
    """The parquet files of `split`, all of them.

    Raises: UserError if one of `…-00001-of-00003` is missing, or two configurations lie side by side.
    """
    shards = parquet_shards(folder, split)
    if not shards:
        raise UserError(f"{folder}: no {split}-*-of-*.parquet; the hub's layout has one folder with train and test")
    totals = {path.stem.split("-of-")[1].split("-")[0] for path in shards}
    if len({path.parent for path in shards}) > 1 or len(totals) > 1:
        raise UserError(f"{folder}: more than one set of {split} files ({shards[0]}, {shards[-1]}); keep one")
    if (total := next(iter(totals))).isdigit() and len(shards) != int(total):
        raise UserError(f"{folder}: {len(shards)} of {int(total)} {split} files; complete the download")
    return shards


def _rows(shards: list[Path], columns: tuple[str, ...]) -> Iterator[tuple]:
    """The values of `columns` of each row, and the file."""
    for path in shards:
        for batch in parquet_batches(path, columns):
            yield from ((*row, path) for row in zip(*batch, strict=True))


def parquet_batches(path: Path, columns: tuple[str, ...]) -> Iterator[list[list]]:
    """The values of some columns of a parquet file, in pieces of some rows.

    Raises: UserError if the file is broken or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if missing := [c for c in columns if c not in names]:
                raise UserError(f"{path}: no column `{missing[0]}`; it has {', '.join(names)}")
            for batch in file.iter_batches(batch_size=1000, columns=list(columns)):
                yield [batch[column].to_pylist() for column in columns]
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a whole parquet file ({one_line(error)}); fetch it again") from error


def decode_image(encoded: object, info: ImageDataset, where: str) -> np.ndarray:
    """An image file's content as the hub stores it ({"bytes": …}) to uint8 [C, H, W]; a grey JPEG becomes colour.

    Raises: UserError naming `where` it is, if it is not of the data set's format, or of another size or mode.
    """
    from PIL import Image

    channels, height, width = info.image_shape
    data = encoded.get("bytes") if isinstance(encoded, dict) else None
    if not isinstance(data, bytes):
        raise UserError(
            f"{where}: column `{info.image_column}` must hold {{bytes, path}} with the file's bytes, as the hub has it"
        )
    try:
        with Image.open(io.BytesIO(data), formats=[info.image_format]) as opened:
            image = opened.convert("RGB") if info.image_format == "JPEG" else opened
            if (image.height, image.width, image.mode) != (height, width, "L" if channels == 1 else "RGB"):
                raise UserError(f"{where}: {image.mode} of {image.width}×{image.height}, must be {width}×{height}")
            pixels = np.asarray(image).reshape(height, width, channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: not a whole {info.image_format} ({one_line(error)})") from error
    return pixels.transpose(2, 0, 1)
