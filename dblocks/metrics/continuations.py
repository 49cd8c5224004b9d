"""All that is measured of generated continuations: MAUVE, generative perplexity, diversity; also of the references.

Strings go in, named values come out. Teachers are made one at a time, since the large ones do not fit together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dblocks.metrics.diversity import LONGEST, REPEATED, distinct, repetition
from dblocks.metrics.generative_perplexity import generative_perplexity
from dblocks.metrics.mauve import mauve, write_features
from dblocks.metrics.teachers import Teacher

FEATURES = "mauve-features.npz"
PAPERS_FEATURES = "gpt2_large"  # MAUVE over these is plain `mauve`; over others it bears their name


@dataclass(frozen=True)
class TextValue:
    """One measured number; `reference`, `extractor` as in a record's metric.

    Attributes:
        finite: whether it is a number; where no text had what it counts, it is not.
    """

    name: str
    value: float
    unit: str
    samples: int
    extractor: str | None = None
    reference: int | None = None

    @property
    def finite(self) -> bool:
        return math.isfinite(self.value)


@dataclass(frozen=True)
class Generated:
    """What is judged. Truncated alike, so that no side is known by its length.

    Attributes:
        prompts: N texts.
        continuations: for each prompt, what was generated after it.
        references: for each prompt, how the text went on; the sides are joined as prompt + continuation, so a
            space between them is part of the latter.
    """

    prompts: Sequence[str]
    continuations: Sequence[Sequence[str]]
    references: Sequence[str]

    def __post_init__(self):
        if not len(self.prompts) == len(self.continuations) == len(self.references):
            raise ValueError(
                f"{len(self.prompts)} prompts, {len(self.continuations)} groups of continuations and "
                f"{len(self.references)} references: one of each a prompt is wanted"
            )


def measure(
    generated: Generated,
    features: Callable[[], Teacher] | None,
    teachers: Mapping[str, Callable[[], Teacher]],
    folder: Path,
    seed: int,
    scales: Sequence[float],
    prefix: str = "",
) -> list[TextValue]:
    """Every value there is of the generated texts.

    Args:
        features: makes the model whose hidden states MAUVE compares; None: no MAUVE.
        teachers: makes each model that gives a perplexity, by role.
        folder: where the features are kept, as <prefix>mauve-features.npz.
        seed: of MAUVE's k-means.
        scales: MAUVE's scaling factors, the primary one first.
        prefix: of all names and of the file's, where a run has its text written in several ways. What is measured of
            the references alone is left out then: the way without a prefix has it.
    Returns: names as documented at `mauve_values`, `perplexity_values` and `diversity_values`.
    """
    found = diversity_values(generated)
    if features is not None:
        found += mauve_values(generated, features(), folder / f"{prefix}{FEATURES}", seed, scales)
    for make in teachers.values():
        found += perplexity_values(generated, make(), references=not prefix)
    return [
        replace(value, name=prefix + value.name)
        for value in found
        if not (prefix and value.name.startswith("reference_"))
    ]


def diversity_values(generated: Generated) -> list[TextValue]:
    """distinct_1 … distinct_4 over a prompt's continuations pooled; distinct_n_single of each continuation alone,
    which is what reference_distinct_n, of one text a prompt, is to be held against; repetition_4 of both."""
    texts = [text for group in generated.continuations for text in group]
    alone, references = [[text] for text in texts], [[text] for text in generated.references]
    found = []
    for n in range(1, LONGEST + 1):
        found += [
            TextValue(f"distinct_{n}", distinct(generated.continuations, n), "", len(texts)),
            TextValue(f"distinct_{n}_single", distinct(alone, n), "", len(texts)),
            TextValue(f"reference_distinct_{n}", distinct(references, n), "", len(references)),
        ]
    found.append(TextValue(f"repetition_{REPEATED}", repetition(texts), "", len(texts)))
    found.append(TextValue(f"reference_repetition_{REPEATED}", repetition(generated.references), "", len(references)))
    return found


def mauve_values(
    generated: Generated, teacher: Teacher, path: Path, seed: int, scales: Sequence[float]
) -> list[TextValue]:
    """mauve: prompt + continuation against prompt + reference at the primary scale; mauve_scale_<c> at the others;
    mauve_continuation…: the same without prompts; mauve_buckets: k-means clusters. With other features than
    GPT2-large's each name ends in theirs (mauve_teacher)."""
    texts = {
        "references": list(generated.references),
        "continuations": [text for group in generated.continuations for text in group],
    }
    # prompt before each of its continuations
    repeated = [p for p, group in zip(generated.prompts, generated.continuations, strict=True) for _ in group]
    whole = {
        "references": [p + text for p, text in zip(generated.prompts, texts["references"], strict=True)],
        "continuations": [p + text for p, text in zip(repeated, texts["continuations"], strict=True)],
    }
    kept = {f"{side}_with_prompt": teacher.features(whole[side]) for side in whole}
    kept |= {side: teacher.features(texts[side]) for side in texts}
    write_features(path, kept)
    suffix = "" if teacher.key == PAPERS_FEATURES else f"_{teacher.key}"
    found = []
    for name, ending in (("mauve", "_with_prompt"), ("mauve_continuation", "")):
        result = mauve(kept[f"references{ending}"], kept[f"continuations{ending}"], seed, scales)
        about = {"samples": result.continuations, "extractor": teacher.name, "reference": result.references}
        for place, scale in enumerate(scales):
            which = "" if place == 0 else f"_scale_{scale:g}"
            found.append(TextValue(f"{name}{which}{suffix}", result.scores[scale], "", **about))
    found.append(TextValue(f"mauve_buckets{suffix}", float(result.buckets), "clusters", **about))
    return found


def perplexity_values(generated: Generated, teacher: Teacher, references: bool = True) -> list[TextValue]:
    """ppl_<teacher>, its per-sample mean ppl_sample_mean_<teacher> and the unigram entropy in the teacher's tokens,
    entropy_<teacher>; the same of the references with reference_ before the name."""
    found = []
    sides = {"": generated.continuations}
    if references:
        sides["reference_"] = [[text] for text in generated.references]
    for prefix, groups in sides.items():
        result = generative_perplexity(teacher, generated.prompts, groups)
        about = {"samples": max(1, result.samples), "extractor": teacher.name}
        found += [
            TextValue(f"{prefix}ppl_{teacher.key}", result.value, "", **about),
            TextValue(f"{prefix}ppl_sample_mean_{teacher.key}", result.sample_mean, "", **about),
            TextValue(f"{prefix}entropy_{teacher.key}", result.entropy, "nats", **about),
        ]
    return found
