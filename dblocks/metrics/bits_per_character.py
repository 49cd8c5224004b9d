"""Bits per character of a masked diffusion model, and the entropies of a text to hold them against.

Shapes: N windows, L characters, K characters in the alphabet; code K is the mask.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dblocks.masking import Denoise, MaskPartition, bound, mask_at
from dblocks.noise import NoiseLevel


@dataclass(frozen=True)
class BitsPerCharacter:
    """An estimate of the bound, in bits per character.

    Attributes:
        value, standard_error: mean over windows, and its deviation, sd / √n; None for a single window.
        windows: n.
        by_block: the part of the value that falls to each block's times.
        evaluations: (window, time) pairs that each block was run on.
    """

    value: float
    standard_error: float | None
    windows: int
    by_block: list[float]
    evaluations: list[int]


def bits_per_character(
    denoise: Denoise,
    windows: Tensor,
    partition: MaskPartition,
    mask: int,
    times: int,
    draws: torch.Generator,
    batch: int = 128,
) -> BitsPerCharacter:
    """Estimate the bound on windows [N, L] (int64) from `times` stratified times a window over the whole of (0, 1].

    Each time goes to the block that owns it. Times are drawn for each window on its own, so windows are
    independent and their spread gives the standard error. Strata are equally wide in √t: under equal widths in t
    the estimate has no finite variance, for where few characters are masked the weight grows as 1/t, and a
    standard error would say less than it seems to.
    """
    n, length = windows.shape
    per_window = torch.zeros(partition.num_blocks, n, dtype=torch.float64)
    evaluations = [0] * partition.num_blocks
    for start in range(0, n, batch):
        part = windows[start : start + batch]
        for stratum in range(times):
            t, share = time_in_stratum(stratum, times, len(part), draws)
            noisy = mask_at(part, t, partition.schedule, mask, draws)
            for block, rows in rows_by_block(partition, t).items():
                nats = bound(
                    denoise(block, noisy[rows], t[rows]),
                    part[rows],
                    noisy[rows] == mask,
                    t[rows],
                    partition.schedule,
                )
                per_window[block, rows.cpu() + start] += (share[rows] * nats).cpu() / (length * math.log(2))
                evaluations[block] += len(rows)
    totals = per_window.sum(dim=0)
    error = totals.std().item() / math.sqrt(n) if n > 1 else None
    return BitsPerCharacter(totals.mean().item(), error, n, per_window.mean(dim=1).tolist(), evaluations)


def time_in_stratum(stratum: int, times: int, count: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """A time for each of `count` windows in part `stratum` of `times` parts of (0, 1], equally wide in √t.

    Returns: t, and its weight in ∫ dt as a sum over the parts, dt/d√t / times = 2√t / times; both [count] float64.
    """
    offset = 1 - torch.rand(count, generator=draws, device=draws.device, dtype=torch.float64)
    root = (stratum + offset) / times
    return root**2, 2 * root / times


def rows_by_block(partition: MaskPartition, t: Tensor) -> dict[int, Tensor]:
    """Which rows of t [N] each block owns, as indices on t's device."""
    rows = defaultdict(list)
    for row, value in enumerate(t.tolist()):
        rows[partition.owner(NoiseLevel(value))].append(row)
    return {block: torch.tensor(found, device=t.device) for block, found in sorted(rows.items())}


def unigram_entropy(codes: np.ndarray, alphabet: int) -> float:
    """Entropy of the characters' frequencies in `codes` [N], bits per character."""
    return _entropy(np.bincount(codes, minlength=alphabet))


def bigram_entropy(codes: np.ndarray, alphabet: int) -> float:
    """Entropy of a character given the one before it, by the frequencies of pairs in `codes` [N], bits."""
    pairs = np.bincount(codes[:-1].astype(np.int64) * alphabet + codes[1:], minlength=alphabet**2)
    return _entropy(pairs) - _entropy(np.bincount(codes[:-1], minlength=alphabet))


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())
