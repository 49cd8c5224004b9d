"""How varied generated texts are; perplexity alone rewards a model that repeats itself, so it never stands alone.

Words are what whitespace separates. `groups` holds the continuations of each prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

LONGEST = 4  # n of the longest n-grams that distinct-n counts
REPEATED = 4  # n of the n-grams whose repetition is measured


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text, in order; none where it is shorter."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def distinct(groups: Sequence[Sequence[str]], n: int) -> float:
    """distinct-n: different n-grams of a prompt's continuations, pooled, over their words; mean over prompts.

    The denominator is words, not n-grams, as in Li et al. 2016 (who propose it) and in the script of SSD-LM (Han et
    al. 2023), whose evaluation the paper's follows. It falls as more text is pooled: compare equal numbers of
    continuations only. Prompts without a word have none; nan if that is all of them.
    """
    shares = []
    for group in groups:
        texts = [text.split() for text in group]
        if words := sum(len(text) for text in texts):
            shares.append(len({gram for text in texts for gram in ngrams(text, n)}) / words)
    return fmean(shares) if shares else math.nan


def repetition(texts: Sequence[str], n: int = REPEATED) -> float:
    """seq-rep-n (Welleck et al. 2020, Equation 11): 1 − different n-grams / n-grams of a text, mean over texts.

    Over words where they use the model's tokens, so that it does not hang on a tokenizer. Texts shorter than n words
    have none; nan if that is all of them.
    """
    found = [grams for text in texts if (grams := ngrams(text.split(), n))]
    return fmean(1 - len(set(grams)) / len(grams) for grams in found) if found else math.nan


def unigram_entropy(rows: Sequence[Sequence[int]]) -> float:
    """Entropy of the token frequencies within each row, natural logarithm, mean over rows.

    As in Block Diffusion (Arriola et al. 2025), but for padding, which they count and rows here do not have. Empty
    rows have none; nan if that is all of them.
    """
    found = [entropy_of(Counter(row)) for row in rows if len(row)]
    return fmean(found) if found else math.nan


def entropy_of(counts: Counter) -> float:
    """Entropy of frequencies, nats."""
    total = counts.total()
    return -sum(count / total * math.log(count / total) for count in counts.values())
