"""LM1B's spacing undone: its words and punctuation stand apart, which no other text has and teachers do not expect."""

from __future__ import annotations

import re

# (pattern, replacement), applied in turn
RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(\d) ([,.:]) (?=\d)", r"\1\2"),
        (r" ([.,;:?!%)\]}])", r"\1"),
        (r"([(\[{$£€#]) ", r"\1"),
        (r" (n't|'s|'m|'d|'re|'ve|'ll)\b", r"\1"),
        (r" ('|’) ?(s|m|d|re|ve|ll)\b", r"\1\2"),
        (r"\bcan not\b", "cannot"),
        (r'" ([^"]*?) "', r'"\1"'),
    )
)


def join_words(text: str) -> str:
    """A sentence with its words and punctuation as people write them."""
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    return text
