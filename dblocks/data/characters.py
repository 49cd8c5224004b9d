"""Characters: text cleaned as text8 is, coded 0 (space) and 1 to 26 (a to z), cut 90/5/5 by position.

The cleaning is the last step of the script that made text8 (Mahoney, http://mattmahoney.net/dc/textdata.html):
lower case, digits spelled out, everything else one space. It works on bytes, so letters outside ASCII are spaces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dblocks.data.prepared import NpyWriter
from dblocks.data.registry import TextDataset, character_splits
from dblocks.data.text import chunks
from dblocks.errors import UserError

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = ("train", "validation", "test")

_LETTERS = ALPHABET.encode()
_FOLD = bytes(c if chr(c).isdigit() else c | 32 if chr(c | 32) in ALPHABET[1:] else 32 for c in range(128)) + b" " * 128
_CODES = bytes(max(0, ALPHABET.find(chr(c))) for c in range(256))


def encode(pieces: Iterable[bytes]) -> Iterator[np.ndarray]:
    """Clean text, given in any pieces, to codes uint8; spaces are single, even across pieces."""
    last = 1
    for piece in pieces:
        text = piece.translate(_FOLD)
        for digit, word in enumerate(DIGITS):
            text = text.replace(b"%d" % digit, b" %s " % word.encode())
        codes = np.frombuffer(text.translate(_CODES), np.uint8)
        if len(codes):
            before = np.concatenate([[np.uint8(last)], codes[:-1]])
            last = codes[-1]
            yield codes[(codes != 0) | (before != 0)]


def encode_as_is(pieces: Iterable[bytes]) -> Iterator[np.ndarray]:
    """Text of a-z and space alone to codes uint8, character for character."""
    return (np.frombuffer(piece.translate(_CODES), np.uint8) for piece in pieces)


def decode(codes: np.ndarray) -> str:
    """Codes [N] back to text."""
    return np.frombuffer(_LETTERS, np.uint8)[codes].tobytes().decode()


def write_characters(info: TextDataset, files: list[Path], folder: Path) -> dict[str, int | str]:
    """Write {train,validation,test}.npy, uint8 codes [N], and return what the manifest notes.

    A text of a-z and space alone is kept as it is. Memory does not grow with the files.
    Raises: UserError if there is too little text, or the content is not that of the named data set.
    """
    digest, clean = _inspect(files)
    if info.content is not None and digest != info.content:
        raise UserError(f"{files[0]}: sha256 of the text is {digest}, {info.name} has {info.content}; get it again")
    everything = folder / "all.npy"
    with NpyWriter(everything, "uint8") as writer:
        for codes in _codes(files, clean):
            writer.append(codes)
    total = writer.count
    ends = [0, *character_splits(total)]
    if min(np.diff(ends)) < 1:
        raise UserError(f"{files[0]}: {total} characters are too few for three splits")
    codes = np.load(everything, mmap_mode="r")
    for split, start, end in zip(SPLITS, ends[:-1], ends[1:], strict=True):
        np.save(folder / f"{split}.npy", codes[start:end])
    everything.unlink()
    return {"text_sha256": digest, "characters": total, "already_clean": clean}


def cleaned_codes(files: list[Path]) -> Iterator[np.ndarray]:
    """The codes uint8 of a text in pieces, as `write_characters` writes them."""
    return _codes(files, _inspect(files)[1])


def _codes(files: list[Path], clean: bool) -> Iterator[np.ndarray]:
    return (encode_as_is if clean else encode)(chunks(files))


def _inspect(files: list[Path]) -> tuple[str, bool]:
    """SHA-256 of the decompressed text, and whether it is of a-z and space alone."""
    digest, clean = hashlib.sha256(), True
    for piece in chunks(files):
        digest.update(piece)
        clean = clean and not piece.translate(None, _LETTERS)
    return digest.hexdigest(), clean
