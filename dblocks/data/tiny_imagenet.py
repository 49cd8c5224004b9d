"""Tiny-ImageNet from its original layout, in a folder or in the zip as it is.

There are wnids.txt (the classes), train/<class>/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt. Labels
are the places of the class names (WordNet ids) in sorted order, as on the hub; the order of wnids.txt is another. The
labels of the test images were never published, so the validation images are what is tested on.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from dblocks.data.archive import verify
from dblocks.data.files import one_line
from dblocks.data.images import decode_image
from dblocks.data.registry import ImageDataset
from dblocks.data.text import BROKEN as BROKEN_FILE
from dblocks.errors import UserError

CLASSES, ANNOTATIONS = "wnids.txt", "val/val_annotations.txt"
BROKEN = (*BROKEN_FILE, RuntimeError)  # the last: a zip that is encrypted, or packed as Python does not know


class Layout:
    """The files below the layout's top folder: their names, and how to read one."""

    def __init__(self, where: Path, names: list[str], read: Callable[[str], bytes]):
        self.where, self.names, self._read = where, set(names), read

    def read(self, name: str) -> bytes:
        """Raises: UserError if it is not there or not whole."""
        if name not in self.names:
            raise UserError(f"{self.where}: no {name}; it must hold Tiny-ImageNet's original layout")
        try:
            return self._read(name)
        except BROKEN as error:
            raise UserError(f"{self.where}: {name} cannot be read ({one_line(error)}); get it again") from error

    def lines(self, name: str) -> list[list[str]]:
        """The fields, separated by tabs, of each line that is not empty."""
        text = self.read(name).decode("utf-8", errors="replace")
        return [line.split("\t") for line in text.splitlines() if line.strip()]


@contextmanager
def open_layout(path: Path, info: ImageDataset) -> Iterator[Layout]:
    """The layout in a folder, or in the zip, which is read without unpacking.

    Raises: UserError if the zip is not the official one, or not whole.
    """
    if path.is_dir():
        # os.walk: a hundred thousand files are listed in a second
        names = [(Path(top) / file).relative_to(path).as_posix() for top, _, files in os.walk(path) for file in files]
        yield Layout(path, names, lambda name: (path / name).read_bytes())
        return
    verify(path, info.origin.archive)
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise UserError(f"{path}: not a whole zip ({one_line(error)}); get it again") from error
    with archive:
        top = f"{info.original}/"
        names = [name.removeprefix(top) for name in archive.namelist() if name.startswith(top)]
        yield Layout(path, names, lambda name: archive.read(top + name))


def class_names(layout: Layout, info: ImageDataset) -> dict[str, int]:
    """Label by class name."""
    names = [fields[0].strip() for fields in layout.lines(CLASSES)]
    if len(names) != info.num_classes or len(set(names)) != len(names):
        raise UserError(
            f"{layout.where}: {CLASSES} has {len(set(names))} classes in {len(names)} lines, {info.name} has "
            f"{info.num_classes}"
        )
    return {name: label for label, name in enumerate(sorted(names))}


def training_files(layout: Layout, labels: dict[str, int]) -> list[tuple[str, int]]:
    """(name, label) of the training images."""
    found = []
    for name in sorted(layout.names):
        parts = PurePosixPath(name).parts
        if len(parts) == 4 and parts[0] == "train" and parts[2] == "images" and name.lower().endswith(".jpeg"):
            if parts[1] not in labels:
                raise UserError(f"{layout.where}: train/{parts[1]} is no class of {CLASSES}")
            found.append((name, labels[parts[1]]))
    return found


def validation_files(layout: Layout, labels: dict[str, int]) -> list[tuple[str, int]]:
    """(name, label) of the validation images, as val_annotations.txt pairs them."""
    found = {}
    for number, fields in enumerate(layout.lines(ANNOTATIONS), 1):
        if len(fields) < 2 or fields[1].strip() not in labels:
            raise UserError(f"{layout.where}: {ANNOTATIONS}, line {number}: no file and class of {CLASSES} in it")
        found[f"val/images/{fields[0].strip()}"] = labels[fields[1].strip()]
    return sorted(found.items())


def load_original(path: Path, info: ImageDataset) -> dict[str, np.ndarray]:
    """Images uint8 [N, C, H, W] and labels [N], as `train_images`, `train_labels`, `test_images`, `test_labels`.

    Raises: UserError naming the file that is missing or not as it should be, or a wrong number of images.
    """
    arrays = {}
    with open_layout(path, info) as layout, ThreadPoolExecutor(os.cpu_count()) as pool:
        labels = class_names(layout, info)
        files = {"train": training_files(layout, labels), "test": validation_files(layout, labels)}

        def decode(name: str) -> np.ndarray:
            return decode_image({"bytes": layout.read(name)}, info, f"{path}, {name}")

        for split, size in (("train", info.train_size), ("test", info.test_size)):
            if len(files[split]) != size:
                raise UserError(f"{path}: {len(files[split])} {split} images, {info.name} has {size}")
            images, waiting, count = np.empty((size, *info.image_shape), np.uint8), iter(files[split]), 0
            while group := [name for name, _ in islice(waiting, 1000)]:
                for image in pool.map(decode, group):
                    images[count] = image
                    count += 1
            arrays[f"{split}_images"] = images
            arrays[f"{split}_labels"] = np.array([label for _, label in files[split]], dtype=np.int64)
    return arrays
