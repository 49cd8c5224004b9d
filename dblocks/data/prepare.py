"""From a data set's source to prepared arrays.

Images become {train,test}_images [N, C, H, W] uint8 and {train,test}_labels [N] int64, with
`validation` [n_train // 10] int64, the indices of train that are held out for choices.
Characters become {train,validation,test} [N] uint8 codes (characters.py), documents and sentences
{train,validation,test}_{bytes,offsets} (records.py); there the splits share nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from dblocks.data.files import check_disk, expanded, whole_folder
from dblocks.data.fingerprints import checked_title, fingerprint, own_text
from dblocks.data.prepared import MANIFEST, write_manifest
from dblocks.data.registry import Dataset, ImageDataset, TextDataset, dataset
from dblocks.data.sources import Source, find_source, require_source, text_files


def hash_order(count: int, salt: str) -> np.ndarray:
    """A fixed permutation of range(count) [count] int64, by hash, the same with every library version."""
    keys = [hashlib.blake2b(f"{salt}:{i}".encode(), digest_size=8).digest() for i in range(count)]
    return np.array(sorted(range(count), key=keys.__getitem__), dtype=np.int64)


def validation_indices(train_size: int) -> np.ndarray:
    """The fixed tenth of train that choices are made on, ascending int64."""
    return np.sort(hash_order(train_size, "validation")[: train_size // 10])


def digits() -> dict[str, np.ndarray]:
    """scikit-learn's 1,797 handwritten digits (UCI, Alpaydin & Kaynak), 8×8, grey levels 0…16 scaled to 0…255.

    They come without a split of their own: a fifth, fixed by hash, is test.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    order = hash_order(len(images), "digits-test")
    test, train = np.sort(order[:360]), np.sort(order[360:])
    return {
        "train_images": images[train],
        "train_labels": labels[train],
        "test_images": images[test],
        "test_labels": labels[test],
    }


def digits16() -> dict[str, np.ndarray]:
    """The digits enlarged to 16×16: linear interpolation between pixel centres, the border repeated."""
    arrays = digits()
    places = np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(8)))  # [16, 8]
    for key in ("train_images", "test_images"):
        arrays[key] = np.rint(weights @ arrays[key].astype(np.float64) @ weights.T).astype(np.uint8)
    return arrays


EMBEDDED = {"digits": digits, "digits16": digits16}


def prepare(
    name: str | Dataset,
    data_dir: Path | None,
    folder: Path,
    *,
    path: Path | None = None,
    title: str | None = None,
    download: bool = False,
) -> Path:
    """Prepare data set `name` into `folder`, whole or not at all, and return its manifest's path.

    Args:
        name: a name of the registry, or a data set's description.
        data_dir: where users keep data sets; unused by embedded and by general ones.
        path, title: the user's text and the name it bears in records, for the general text data sets.
        download: fetch into `data_dir` what is not there; otherwise that is an error.
    Raises: UserError naming the file or field, what is wrong, and what would be right.
    """
    info = dataset(name) if isinstance(name, str) else name
    folder = Path(folder)
    source = _source(info, None if data_dir is None else expanded(data_dir, "data_dir"), path, download)
    check_disk(folder, _room(info, source))
    with whole_folder(folder) as partial:
        if isinstance(info, ImageDataset):
            _prepare_images(info, source, partial)
        else:
            _prepare_text(info, source, partial, title)
    return folder / MANIFEST


def _source(info: Dataset, data_dir: Path | None, path: Path | None, download: bool) -> Source:
    if (own := own_text(info, path)) is not None:
        text_files(own)  # there, or an error
        return Source("text", own)
    if download and data_dir is not None and find_source(info, data_dir) is None:
        from dblocks.data.download import download as fetch

        fetch(info, data_dir)
    return require_source(info, data_dir)


def _room(info: Dataset, source: Source) -> int:
    """Bytes of disk that preparation needs at its peak, about."""
    if info.fingerprint is None:
        size = sum(file.stat().st_size for file in text_files(source.path))
        return 2 * size + 2**20
    # characters are written once as a whole before they are cut
    return info.origin.prepared_bytes * (2 if getattr(info, "kind", "") == "characters" else 1)


def _prepare_images(info: ImageDataset, source: Source, folder: Path) -> None:
    from dblocks.data.images import load_images

    if info.cropped:
        from dblocks.data.imagenet import write_images

        write_images(info, source, folder)
        np.save(folder / "validation.npy", validation_indices(info.train_size))
        write_manifest(folder, info.name, info.fingerprint, f"{source.kind}: {source.path}")
        return
    if source.kind == "embedded":
        arrays, facts, where = EMBEDDED[info.name](), {}, "scikit-learn"
    else:
        arrays, content = load_images(info, source)
        facts, where = {"content": content}, f"{source.kind}: {source.path}"
    arrays["validation"] = validation_indices(len(arrays["train_labels"]))
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", array)
    write_manifest(folder, info.name, info.fingerprint, where, facts)


def _prepare_text(info: TextDataset, source: Source, folder: Path, title: str | None) -> None:
    from dblocks.data.archive import verify
    from dblocks.data.characters import write_characters
    from dblocks.data.records import write_records

    if info.fingerprint is None:
        label = checked_title(source.path, title)
        # without the cache: what is recorded is the checksum of what is read now
        identity = fingerprint(info, source.path, title, cache=folder / "checksums.json")
        (folder / "checksums.json").unlink()
    else:
        label, identity = info.name, info.fingerprint
    if source.kind == "archive":
        verify(source.path, info.origin.archive)
    if info.kind == "characters":
        files = text_files(source.path)
        facts = write_characters(info, files, folder)
    else:
        facts = write_records(info, source, folder)
    write_manifest(folder, label, identity, f"{source.kind}: {source.path}", facts)
