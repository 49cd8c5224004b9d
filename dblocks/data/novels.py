"""The embedded novels as sentences and as documents: chapters, some of which are set aside for a teacher.

Chapters go to one side by the hash of their text, so a teacher has read nothing that a model learns from or is
tested on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from dblocks.data.registry import TextDataset
from dblocks.data.text import chunks
from dblocks.errors import UserError

HEADING = re.compile(rb"^[ \t]*(?:chapter|volume) [0-9ivxlc]+\.?[ \t]*$", re.IGNORECASE | re.MULTILINE)
BLANK_LINES = re.compile(rb"\n[ \t]*(?:\n[ \t]*)+")
# a full stop, exclamation or question mark, perhaps a closing quote, then a capital; titles end no sentence
SENTENCE_END = re.compile(rb"(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bSt)([.!?][\"')]*) +(?=[\"'(]*[A-Z])")
TEACHERS_SHARE = 3  # one chapter in so many, about


def novel_records(info: TextDataset, path: Path) -> Iterator[bytes]:
    """The records of `info`: sentences, or chapters whose paragraphs are lines.

    Raises: UserError if the text is not the one whose checksum the registry holds.
    """
    text = b"".join(chunks([path]))
    if (found := hashlib.sha256(text).hexdigest()) != info.content:
        raise UserError(f"{path}: sha256 of the text is {found}, {info.name} has {info.content}; get it again")
    for chapter in HEADING.split(text):
        if for_teacher(chapter) != info.for_teacher:
            continue
        found = list(paragraphs(chapter))
        if info.kind == "documents":
            yield b"\n".join(found)
        else:
            yield from (
                sentence for paragraph in found for sentence in SENTENCE_END.sub(rb"\1\n", paragraph).split(b"\n")
            )


def for_teacher(chapter: bytes) -> bool:
    """Whether a chapter is the teacher's."""
    return (
        int.from_bytes(hashlib.blake2b(chapter, digest_size=8, salt=b"teacher").digest(), "little") % TEACHERS_SHARE
        == 0
    )


def paragraphs(chapter: bytes) -> Iterator[bytes]:
    """Paragraphs, each one line with single spaces."""
    for part in BLANK_LINES.split(chapter):
        if words := part.split():
            yield b" ".join(words)
