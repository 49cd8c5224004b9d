"""CIFAR's official python archives, read from the tar without unpacking, and without trusting their pickles."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np

from dblocks.data.files import digest_of, one_line
from dblocks.data.origins import RemoteFile
from dblocks.data.registry import ArchiveLayout, ImageDataset
from dblocks.data.text import BROKEN
from dblocks.errors import UserError

# All that the pickle of a numpy array names. Python 2's numpy wrote `numpy.core`, newer ones `numpy._core`.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class NumpyUnpickler(pickle.Unpickler):
    """Unpickles containers, numbers, strings and numpy arrays; any other global is refused, not imported."""

    def find_class(self, module: str, name: str):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not data")
        return _ALLOWED[module, name]


def unpickle_numpy(data: bytes) -> object:
    """The value of a pickle of Python 2 or 3 that holds only data; strings of Python 2 are read as latin-1."""
    return NumpyUnpickler(io.BytesIO(data), encoding="latin1").load()


def verify(path: Path, file: RemoteFile) -> None:
    """Raises: UserError if the file at `path` has not the size or checksum of the official one."""
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        raise UserError(f"{path}: {size:,} bytes, the official file has {file.bytes:,} (truncated?); fetch it again")
    if file.digest is not None and (found := digest_of(path, file.algorithm)) != file.digest:
        raise UserError(
            f"{path}: {file.algorithm} is {found}, the official file has {file.digest}; fetch it again from {file.url}"
        )


def load_archive(path: Path, info: ImageDataset) -> dict[str, np.ndarray]:
    """Images uint8 [N, C, H, W] and labels [N], as `train_images`, `train_labels`, `test_images`, `test_labels`.

    Raises: UserError naming the archive and, where it applies, the member that is not as it should be.
    """
    verify(path, info.origin.archive)
    layout = info.layout
    members = _read_members(path, layout)
    arrays = {}
    for split, names in (("train", layout.train), ("test", layout.test)):
        parts = [_batch(path, name, members[name], info) for name in names]
        arrays[f"{split}_images"] = np.concatenate([images for images, _ in parts])
        arrays[f"{split}_labels"] = np.concatenate([labels for _, labels in parts])
    return arrays


def _read_members(path: Path, layout: ArchiveLayout) -> dict[str, bytes]:
    wanted, found = {*layout.train, *layout.test}, {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                if member.name in wanted and member.isfile():
                    found[member.name] = tar.extractfile(member).read()
    except BROKEN as error:
        raise UserError(f"{path}: not a whole .tar.gz ({one_line(error)}); fetch it again") from error
    if missing := sorted(wanted - found.keys()):
        raise UserError(f"{path}: has no member {missing[0]}; it must be the official python archive")
    return found


def _batch(path: Path, name: str, data: bytes, info: ImageDataset) -> tuple[np.ndarray, np.ndarray]:
    where = f"{path}, member {name}"
    try:
        content = unpickle_numpy(data)
    except Exception as error:  # a broken pickle can raise anything; none of it is the caller's
        raise UserError(f"{where}: refused, {one_line(error)}; fetch the official archive again") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: holds a {type(content).__name__}, the official one a dictionary")
    content = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    images, labels = content.get("data"), content.get(info.layout.labels)
    width = int(np.prod(info.image_shape))
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (width,):
        raise UserError(f"{where}: `data` must be a uint8 array [N, {width}]")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise UserError(f"{where}: `{info.layout.labels}` must be a list of integers")
    return images.reshape(-1, *info.image_shape), np.array(labels, dtype=np.int64)
