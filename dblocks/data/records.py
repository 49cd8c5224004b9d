"""Documents and sentences: all text of a split in one uint8 array, with the offsets where each record starts.

Record i of a split is `bytes[offsets[i]:offsets[i + 1]]`, UTF-8. Records go to test and validation by the hash of
their content: where a text lies in the file decides nothing, and no text is in two splits.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dblocks.data.files import one_line
from dblocks.data.images import parquet_batches, whole_shards
from dblocks.data.novels import novel_records
from dblocks.data.prepared import NpyWriter
from dblocks.data.registry import TextDataset
from dblocks.data.sources import Source, parquet_shards, text_files
from dblocks.data.text import BROKEN, documents, open_text, sentences
from dblocks.errors import UserError

SPLITS = ("train", "validation", "test")
BUFFER = 2**22  # bytes of text kept before they are written

# (part of the source: "train", "test", or None where it has no parts of its own; the text)
Record = tuple[str | None, bytes]


def split_of(text: bytes, part: str | None = None) -> str:
    """The split of a record: a tenth each to test and validation; where the source has a test part, that is test."""
    if part == "test":
        return "test"
    tenth = int.from_bytes(hashlib.blake2b(text, digest_size=8, salt=b"split").digest(), "little") % 10
    if tenth == 0 and part is None:
        return "test"
    return "validation" if tenth == 1 else "train"


class SplitWriter:
    """Writes <split>_bytes.npy and <split>_offsets.npy as records come."""

    def __init__(self, folder: Path, split: str):
        self.bytes = NpyWriter(folder / f"{split}_bytes.npy", "uint8")
        self.offsets = NpyWriter(folder / f"{split}_offsets.npy", "int64")
        self.offsets.append(np.zeros(1, np.int64))
        self.texts: list[bytes] = []
        self.waiting = self.records = self.end = 0

    def append(self, text: bytes) -> None:
        self.texts.append(text)
        self.records += 1
        self.waiting += len(text) + 64  # a short text costs more as a Python object than its letters
        if self.waiting > BUFFER:
            self.flush()

    def flush(self) -> None:
        ends = self.end + np.cumsum([len(text) for text in self.texts], dtype=np.int64)
        self.end = int(ends[-1]) if len(ends) else self.end
        self.bytes.append(np.frombuffer(b"".join(self.texts), np.uint8))
        self.offsets.append(ends)
        self.texts, self.waiting = [], 0

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with self.bytes, self.offsets:
            self.flush()


def write_records(info: TextDataset, source: Source, folder: Path) -> dict[str, int]:
    """Write {train,validation,test}_{bytes,offsets}.npy and return the number of records of each split.

    Memory does not grow with the source.
    Raises: UserError if a split stays empty, or a named data set has not as many records as the real one.
    """
    parts: dict[str | None, int] = {}
    with (
        SplitWriter(folder, "train") as train,
        SplitWriter(folder, "validation") as validation,
        SplitWriter(folder, "test") as test,
    ):
        writers = {"train": train, "validation": validation, "test": test}
        for part, text in read_records(info, source):
            parts[part] = parts.get(part, 0) + 1
            if text:
                writers[split_of(text, part)].append(text)
    counts = {split: writer.records for split, writer in writers.items()}
    if info.records is not None and source.kind != "archive":  # an archive's checksum says more than a count
        expected = dict(zip(("train", "test"), info.records, strict=True))
        expected = {None: expected["train"]} if expected["test"] is None else expected
        if parts != expected:
            raise UserError(f"{source.path}: {_counted(parts)} {info.kind}, {info.name} has {_counted(expected)}")
    if empty := [split for split, count in counts.items() if not count]:
        raise UserError(f"{source.path}: {sum(counts.values())} {info.kind}, none for {empty[0]}; give more text")
    return counts


def _counted(parts: dict[str | None, int]) -> str:
    return " + ".join(f"{count:,}{f' {part}' if part else ''}" for part, count in sorted(parts.items(), key=str)) or "0"


def read_records(info: TextDataset, source: Source) -> Iterator[Record]:
    """All records of a source in its own order."""
    if source.kind == "embedded":
        return _in_part(None, novel_records(info, source.path))
    if source.kind == "parquet":
        return _from_parquet(info, source.path)
    if source.kind == "archive":
        return _from_lm1b_archive(source.path)
    return _from_files(info, source.path)


def _from_files(info: TextDataset, path: Path) -> Iterator[Record]:
    parse = sentences if info.kind == "sentences" else documents
    for file_path in text_files(path):
        with open_text(file_path) as file:
            yield from _in_part(None, parse(file, str(file_path)))


def _from_parquet(info: TextDataset, folder: Path) -> Iterator[Record]:
    """The hub's layout, column `text`; its test files are a part of their own where there are any."""
    has_test = bool(parquet_shards(folder, "test"))
    for part in ("train", "test") if has_test else ("train",):
        for path in whole_shards(folder, part):
            for (column,) in parquet_batches(path, ("text",)):
                if not all(text is None or isinstance(text, str) for text in column):
                    raise UserError(f"{path}: column `text` holds something else than text")
                texts = (text.encode() for text in column if text is not None)
                yield from _in_part(part if has_test else None, texts)


def _from_lm1b_archive(path: Path) -> Iterator[Record]:
    """LM1B's official .tar.gz: training files 1 to 99 of 100 are train, all 50 held-out files are test."""
    folders = {
        "training-monolingual.tokenized.shuffled": "train",
        "heldout-monolingual.tokenized.shuffled": "test",
    }
    try:
        with tarfile.open(path, "r|gz") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                part = folders.get(folder.rpartition("/")[2])
                if part and member.isfile() and name.startswith("news.en"):
                    yield from _in_part(part, sentences(tar.extractfile(member), f"{path}, {name}"))
    except (*BROKEN, TypeError) as error:  # the last: a gzip's header that ends too early
        raise UserError(f"{path}: not a whole .tar.gz ({one_line(error)}); fetch it again") from error


def _in_part(part: str | None, texts: Iterable[bytes]) -> Iterator[Record]:
    return ((part, text) for text in texts)
