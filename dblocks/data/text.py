"""Text files of any size, read in pieces: plain, .gz, .xz or a .zip with one member."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dblocks.data.files import one_line
from dblocks.errors import UserError

CHUNK = 2**22  # bytes
MAX_RECORD = 2**26  # bytes; a longer document or sentence means that the file is not laid out as it was said to be
BROKEN = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, tarfile.TarError)


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file.

    Raises: UserError naming the file if it is truncated or not what its ending says.
    """
    try:
        with contextlib.ExitStack() as stack:
            if path.suffix == ".zip":
                yield stack.enter_context(_only_member(path))
            else:
                opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
                yield stack.enter_context(opener(path, "rb"))
    except BROKEN as error:
        raise UserError(f"{path}: cannot be read to its end ({one_line(error)})") from error


@contextlib.contextmanager
def _only_member(path: Path) -> Iterator[BinaryIO]:
    """The one file in a zip, read without unpacking."""
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            names = [name for name in archive.namelist() if not name.endswith("/")]
            if len(names) != 1:
                raise UserError(f"{path}: holds {len(names)} files; must be one")
            file = stack.enter_context(archive.open(names[0]))
        except RuntimeError as error:  # encrypted, or packed as Python does not know
            raise ValueError(error) from error
        yield file


def chunks(files: list[Path]) -> Iterator[bytes]:
    """The bytes of all files in pieces, with a line feed between one file and the next."""
    for number, path in enumerate(files):
        if number:
            yield b"\n"
        with open_text(path) as file:
            while piece := file.read(CHUNK):
                yield piece


def lines(file: BinaryIO, where: str) -> Iterator[bytes]:
    """Lines without their ends; UTF-8, else a UserError that names `where` and the line."""
    for number in range(1, 2**63):
        line = file.readline(MAX_RECORD)
        if not line:
            return
        if len(line) == MAX_RECORD:
            raise UserError(f"{where}, line {number}: longer than {MAX_RECORD >> 20} MB; not a text of lines")
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{where}, line {number}: not UTF-8 ({one_line(error)}); convert the file") from error
        yield line.rstrip(b"\r\n").removeprefix(b"\xef\xbb\xbf")


def sentences(file: BinaryIO, where: str) -> Iterator[bytes]:
    """One record a line; empty lines are left out."""
    return (line.strip() for line in lines(file, where) if line.strip())


def documents(file: BinaryIO, where: str) -> Iterator[bytes]:
    """Records separated by blank lines; the lines of one are joined by line feeds."""
    parts: list[bytes] = []
    size = 0
    for line in lines(file, where):
        if line.strip():
            parts.append(line)
            size += len(line)
            if size > MAX_RECORD:
                raise UserError(f"{where}: a document over {MAX_RECORD >> 20} MB; are they separated by blank lines?")
        elif parts:
            yield b"\n".join(parts)
            parts, size = [], 0
    if parts:
        yield b"\n".join(parts)
