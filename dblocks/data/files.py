"""Files, with the standard library only: checksums, whole-or-nothing writing, disk space, one-line errors."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from dblocks.errors import UserError

WRITTEN = ".written"  # in a prepared folder: the names of its files


def digest_of(path: Path, algorithm: str) -> str:
    """Hexadecimal digest of a file, read in pieces; `algorithm` is a name that hashlib knows."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    return digest_of(path, "sha256")


def write_atomically(path: Path, content: str | bytes | memoryview, synced: bool = False) -> None:
    """Write a file so that it is there whole or not at all; `synced`: and on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_atomically(path: Path, save: Callable[[BinaryIO], object]) -> None:
    """As `write_atomically`, what `save` writes into the open file that it is given."""
    buffer = io.BytesIO()
    save(buffer)
    write_atomically(path, buffer.getbuffer())


def expanded(path: Path | str, field: str) -> Path:
    """The path with ~ replaced by the home directory.

    Raises: UserError naming the `field` it was given in if there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{field}: '{path}': there is no such home directory") from error


def one_line(error: BaseException) -> str:
    """The message of any exception, short and on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


def readable(size: int) -> str:
    """A number of bytes for people: 142 MB, 1.8 GB (powers of ten, as shops and the hub count)."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            value = size / scale
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{size} bytes"


def free_bytes(folder: Path) -> tuple[Path, int]:
    """The folder that is there and would hold `folder`, and what its file system has free."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place, shutil.disk_usage(place).free


def check_disk(folder: Path, needed: int) -> None:
    """Raises: UserError if the file system that will hold `folder` has less than `needed` bytes free."""
    _, free = free_bytes(folder)
    if free < needed:
        raise UserError(f"{folder}: needs {readable(needed)} of disk, {readable(free)} are free; make room")


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to write into; it takes the place of `folder` only if no error occurs.

    Raises: UserError naming `folder` if the operating system refuses to write (disk full, no permission), or if
        something lies there that was not written in this way: it would be lost.
    """
    if folder.is_dir() and (foreign := sorted({path.name for path in folder.iterdir()} - _written_in(folder))):
        raise UserError(
            f"{folder}: holds {foreign[0]}, which was not put there by a preparation and would be lost; "
            "remove it or give another folder"
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        names = sorted(path.name for path in temporary.iterdir())
        (temporary / WRITTEN).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        # A workflow engine makes the folder of a promised file beforehand, and an earlier attempt may have
        # left arrays without a manifest: neither is worth keeping.
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        raise UserError(f"{folder}: preparation failed ({one_line(error)}); nothing is left of it") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _written_in(folder: Path) -> set[str]:
    """Names of what a preparation has put into a folder, and of the marks that it and a workflow engine leave."""
    names = (folder / WRITTEN).read_text(encoding="utf-8").splitlines() if (folder / WRITTEN).is_file() else ()
    return {*names, WRITTEN, ".snakemake_timestamp"}
