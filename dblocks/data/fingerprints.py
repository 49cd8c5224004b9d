"""What names the exact content of a data set in a run's identity, and of a user's own text: checksum, title, length.

Quick, for every plan asks: a user's own text is read once, and again only when its size or time changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from dblocks.data.files import expanded, sha256_of, write_atomically
from dblocks.data.registry import DATASETS, Dataset, dataset
from dblocks.data.sources import text_files
from dblocks.errors import UserError

LONGEST_TITLE = 100


def fingerprint(
    name: str | Dataset, path: Path | None = None, title: str | None = None, cache: Path | None = None
) -> str:
    """What names the exact content in a run's identity.

    Named data sets have a fixed one; for a general one it is `<title>-<SHA-256>` of the file, or of the list of
    relative paths and SHA-256 of a folder's files.

    Args:
        cache: JSON file that remembers checksums by path, size and time; by default in the user's cache directory.
    """
    info = dataset(name) if isinstance(name, str) else name
    own = own_text(info, path)
    if own is not None:
        return f"{checked_title(own, title)}-{_content(own, cache or _default_cache())}"
    if title is not None and title != info.name:
        checked_title(Path(), title)  # records show it in the name's place
    return info.fingerprint


def own_text(info: Dataset, path: Path | None) -> Path | None:
    """The user's own text that a general data set is made of; None for a named one.

    Raises: UserError if a general one has no path, or a named one has.
    """
    if info.fingerprint is not None:
        if path is not None:
            raise UserError(f"data.path: {info.name} is read from data_dir; only general data sets take a path")
        return None
    if path is None:
        raise UserError(f"data.path: not set; {info.name} needs a text file or a folder of .txt files")
    return expanded(path, "data.path")


def checked_title(path: Path, title: str | None) -> str:
    """The name that records show: `title`, or the file's name up to its first dot.

    Raises: UserError if it cannot be shown on a line, or is a real data set's, which only that data set may bear.
    """
    hint = "" if title else ", the file's name; set data.title"
    title = title or Path(path).name.split(".")[0]
    if not title.isprintable() or "/" in title or len(title) > LONGEST_TITLE:
        shown = title if len(title) <= LONGEST_TITLE else title[:LONGEST_TITLE] + "…"
        raise UserError(
            f"data.title: {shown!r}{hint}: must be at most {LONGEST_TITLE} characters that can be printed, without '/'"
        )
    if title.lower() in {n for n, d in DATASETS.items() if d.fingerprint is not None}:
        raise UserError(f"data.title: '{title}' is a real data set's name; set data.name to it, or take another")
    return title


def _content(path: Path, cache: Path) -> str:
    files = text_files(path)
    sums = _cached(files, cache, "", sha256_of)
    if not path.is_dir():
        return sums[0]
    lines = [f"{digest}  {file.relative_to(path).as_posix()}\n" for digest, file in zip(sums, files, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def characters_in(path: Path, cache: Path | None = None) -> int:
    """How many characters a user's text has once it is cleaned; counted once, as its checksum is taken once."""
    path = expanded(path, "data.path")
    # one text: the cleaned files are joined by a space, so they are counted together
    files = text_files(path)
    name = ":characters" if len(files) == 1 else f":characters in {_content(path, cache or _default_cache())}"
    return int(_cached(files[:1], cache or _default_cache(), name, lambda _: str(_count_characters(files)))[0])


def _count_characters(files: list[Path]) -> int:
    from dblocks.data.characters import cleaned_codes

    return sum(len(codes) for codes in cleaned_codes(files))


def _cached(files: list[Path], cache: Path, kind: str, compute: Callable[[Path], str]) -> list[str]:
    """`compute` of each file, remembered by path, size, time and `kind`."""
    try:
        known = dict(json.loads(cache.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        known = {}  # a cache may be absent or broken: the files are read instead
    sums, before = [], len(known)
    for file in files:
        status = file.stat()
        key = f"{file.resolve()}:{status.st_size}:{status.st_mtime_ns}{kind}"
        if not isinstance(known.get(key), str):
            known[key] = compute(file)
        sums.append(known[key])
    if len(known) != before:
        with contextlib.suppress(OSError):  # a home directory that cannot be written costs time, nothing else
            write_atomically(cache, json.dumps(known, indent=0))
    return sums


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dblocks" / "checksums.json"
