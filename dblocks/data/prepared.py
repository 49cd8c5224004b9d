"""Prepared data: numpy arrays that are memory-mapped, beside a manifest that holds their checksums.

A prepared folder is complete when its `manifest.json` is there; it is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from dblocks.data.files import one_line, readable, sha256_of, write_atomically
from dblocks.errors import UserError

MANIFEST = "manifest.json"
HASHED_BYTES = 2**31  # larger arrays are checked by size alone when opened: hashing 40 GB takes a job minutes


def write_manifest(folder: Path, name: str, fingerprint: str, source: str, facts: dict[str, Any] | None = None) -> Path:
    """Write the manifest over all .npy files of `folder` and return its path. `facts` is kept as it is."""
    entries = {}
    for path in sorted(folder.glob("*.npy")):
        array = np.load(path, mmap_mode="r")
        entries[path.stem] = {
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
    manifest = {
        "name": name,
        "fingerprint": fingerprint,
        "source": source,
        "facts": facts or {},
        "arrays": entries,
    }
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return folder / MANIFEST


def read_array(path: Path, remedy: str) -> np.ndarray:
    """A .npy file, memory-mapped read-only; pickles are not read.

    Raises: UserError naming it, with what to do, if it is not whole or not of plain numbers.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy has the header parsed by Python, which has errors of its own
        raise UserError(f"{path}: not a whole .npy array of plain numbers ({one_line(error)}); {remedy}") from error


class NpyWriter:
    """Writes a one-dimensional .npy file piece by piece; its length need not be known beforehand.

    With `keep`, goes on after the first so many values that another writer has put there and flushed.
    """

    def __init__(self, path: Path, dtype: str, keep: int = 0):
        self.dtype, self.count = np.dtype(dtype), keep
        self.file = open(path, "r+b" if keep else "wb")  # noqa: SIM115, closed by __exit__
        self._header()
        self.file.truncate(self.data_starts + keep * self.dtype.itemsize)
        self.file.seek(0, os.SEEK_END)

    def _header(self) -> None:
        # numpy pads the header so that the first dimension can grow to any length without moving the data
        self.file.seek(0)
        description = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self.file, description)
        self.data_starts = self.file.tell()

    def append(self, values: np.ndarray) -> None:
        """Adds a one-dimensional array."""
        self.file.write(np.ascontiguousarray(values, self.dtype).data)
        self.count += len(values)

    def flush(self) -> None:
        """What was appended is on disk when this returns."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with self.file:
            before = self.data_starts
            self._header()
            assert self.data_starts == before, "the .npy header outgrew its padding"


class PreparedData:
    """Read access to a prepared folder; an array is checked when first opened: against the manifest's checksum, one of
    more than HASHED_BYTES against its size alone.

    Raises: UserError naming the file if the folder, an array or its checksum is not as it should be.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._opened: dict[str, np.ndarray] = {}
        path = self.folder / MANIFEST
        if not path.exists():
            raise UserError(f"{path}: not there; run `snakemake data` (or `python -m dblocks prepare NAME`) first")
        try:
            self.manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            self.name, self.fingerprint = self.manifest["name"], self.manifest["fingerprint"]
            self.entries = self.manifest["arrays"]
            for key, entry in self.entries.items():
                if not (isinstance(entry["sha256"], str) and isinstance(entry.get("bytes", 0), int)):
                    raise TypeError(f"{key}: sha256 must be text, bytes a number")
            self.facts: dict[str, Any] = self.manifest.get("facts", {})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a manifest ({error!r}); remove the folder to prepare it again") from error

    def must_be(self, fingerprint: str) -> None:
        """Raises: UserError if this is other data than what a run wants."""
        if self.fingerprint != fingerprint:
            raise UserError(f"{self.folder}: holds {self.fingerprint}, this run wants {fingerprint}; prepare it again")

    def array(self, key: str) -> np.ndarray:
        """The array `key`, memory-mapped read-only."""
        if key not in self._opened:
            self._opened[key] = self._checked(key)
        return self._opened[key]

    def _checked(self, key: str) -> np.ndarray:
        path = self.folder / f"{key}.npy"
        entry = self.entries.get(key)
        if entry is None or not path.exists():
            raise UserError(f"{path}: missing; remove {self.folder} to prepare it again")
        size = path.stat().st_size
        if size != entry.get("bytes", size):
            raise UserError(
                f"{path}: {readable(size)}, the manifest says {readable(entry['bytes'])} (truncated or changed); "
                f"remove {self.folder} to prepare it again"
            )
        if size <= HASHED_BYTES and (found := sha256_of(path)) != entry["sha256"]:
            raise UserError(
                f"{path}: sha256 is {found[:16]}…, the manifest says {entry['sha256'][:16]}… (truncated or changed); "
                f"remove {self.folder} to prepare it again"
            )
        return read_array(path, f"remove {self.folder} to prepare it again")

    def checksum(self) -> str:
        """One checksum over all arrays, for the record."""
        text = json.dumps({key: entry["sha256"] for key, entry in sorted(self.entries.items())})
        return hashlib.sha256(text.encode()).hexdigest()
