"""LM1B's spacing undone: its words and punctuation stand apart, which no other text has and teachers do not expect.

LM1B is tokenised as Moses does it: "don 't", "company 's", but 10,000 whole, so a comma between digits is a real one.
"""

from __future__ import annotations

import re

# (pattern, replacement), applied in turn
RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"http : / / ", "http://"),
        (r"(\d) : (?=\d)", r"\1:"),
        (r" ([,;:?!%)\]}])", r"\1"),
        (r" \.(?!\w)", "."),  # but "hit .302" stays
        (r"([(\[{$£€#]) ", r"\1"),
        (r" / ", "/"),
        (r"(?i)(?<=\w) (['’]) ?(s|t|m|d|re|ve|ll)\b", r"\1\2"),
        (r"\b([OoDdLl]) (['’])(?=\w)", r"\1\2"),  # O 'Neill, d 'Or
        (r"\bcan not\b", "cannot"),
        (r'" ([^"]*?) "', r'"\1"'),
    )
)
ALONE, AFTER_S = re.compile(r"(?<!\w)['’](?!\w)"), re.compile(r"(?<=\ws) (['’])(?!\w)")


def join_words(text: str) -> str:
    """A sentence with its words and punctuation as people write them, as far as rules can tell."""
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    # "hours ' wear", where no other one could make it a quotation's end, as Moses' own detokeniser has it
    return AFTER_S.sub(r"\1", text) if len(ALONE.findall(text)) == 1 else text
