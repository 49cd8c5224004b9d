"""Generative perplexity: how likely a larger, published language model finds generated continuations.

Texts are re-tokenised by the teacher's own tokenizer. Two averages are in use and differ materially: exp of the
token-weighted mean NLL (MDLM, Block Diffusion), which is ours, and the mean over samples of exp of each one's mean
NLL (SEDD), which stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from dblocks.metrics.diversity import unigram_entropy
from dblocks.metrics.teachers import Teacher


@dataclass(frozen=True)
class GenerativePerplexity:
    """What a teacher says of continuations given their prompts.

    Attributes:
        value: exp of the mean NLL over all tokens of all continuations.
        sample_mean: mean over continuations of exp of their own mean NLL.
        entropy: unigram entropy of the continuations in the teacher's tokens, nats.
        tokens, samples: how many were scored.
    """

    value: float
    sample_mean: float
    entropy: float
    tokens: int
    samples: int


def split_at_prompt(teacher: Teacher, prompt: str, continuation: str) -> tuple[list[int], int]:
    """Tokens of the whole text, cut to the teacher's length, and how many of them are the prompt's.

    The whole is tokenised at once, as the teacher would read it. Its prompt ends where its tokens stop being those
    of the prompt alone: a token across the seam is the continuation's. The first token has nothing before it to be
    predicted from, so it is never the continuation's.
    """
    whole = teacher.encode(prompt + continuation)
    alone = teacher.encode(prompt)
    pairs = zip(whole, alone, strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return whole[: teacher.max_length], max(1, shared)


def generative_perplexity(
    teacher: Teacher, prompts: Sequence[str], groups: Sequence[Sequence[str]]
) -> GenerativePerplexity:
    """Perplexity of the continuations in `groups`, one group a prompt, each given its prompt.

    Continuations without a token count nothing; without any, the values are nan.
    """
    pairs = [(prompt, text) for prompt, group in zip(prompts, groups, strict=True) for text in group]
    rows, starts = zip(*(split_at_prompt(teacher, *pair) for pair in pairs), strict=True) if pairs else ((), ())
    # the NLL at place i is that of token i + 1
    parts = [nll[start - 1 :] for nll, start in zip(teacher.nll(rows), starts, strict=True)]
    parts = [part.double() for part in parts if len(part)]
    tokens = sum(len(part) for part in parts)
    entropy = unigram_entropy([row[start:] for row, start in zip(rows, starts, strict=True)])
    if not tokens:
        return GenerativePerplexity(math.nan, math.nan, entropy, 0, 0)
    means = [part.mean().item() for part in parts]
    return GenerativePerplexity(
        value=_exp(sum(part.sum().item() for part in parts) / tokens),
        sample_mean=sum(map(_exp, means)) / len(means),
        entropy=entropy,
        tokens=tokens,
        samples=len(parts),
    )


def _exp(value: float) -> float:
    """exp, or infinity where that is beyond float64 (math.exp raises)."""
    return math.exp(value) if value < 709 else math.inf
