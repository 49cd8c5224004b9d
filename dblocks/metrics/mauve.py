"""MAUVE (Pillutla et al. 2021) by mauve-text, over features that are kept so that any scale can be had later.

The score falls with the scaling factor c: of two sets that share no cluster it is Γ(1 + c)² / Γ(1 + 2c), that is
0.95 at c = 0.2 and 0.17 at c = 2. Below about a thousand texts it means little, so n always goes with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dblocks.data.files import save_atomically


@dataclass(frozen=True)
class Mauve:
    """Scores by scaling factor, and what they rest on: texts on either side and clusters."""

    scores: dict[float, float]
    references: int
    continuations: int
    buckets: int


def mauve(references: np.ndarray, continuations: np.ndarray, seed: int, scales: Sequence[float]) -> Mauve:
    """MAUVE of features [N, D] against features [M, D], library defaults but for the scale and the seed.

    The library's clusters number min(N, M) / 10; k-means is seeded by `seed`, the same for all scales.
    """
    from mauve import compute_mauve  # seconds to import

    scores = {}
    for scale in scales:
        found = compute_mauve(
            p_features=references,
            q_features=continuations,
            mauve_scaling_factor=scale,
            seed=seed % 2**31,  # scikit-learn takes 32 bits
            verbose=False,
        )
        # equal histograms score 1 by definition; the library's curve, rounded, then makes it 0.75 or 1 + 2e-16
        equal = np.array_equal(found.p_hist, found.q_hist)
        scores[scale] = 1.0 if equal else float(found.mauve)
    return Mauve(scores, len(references), len(continuations), int(found.num_buckets))


def write_features(path: Path, features: Mapping[str, np.ndarray]) -> None:
    """Keep features [N, D] by name as float32 in one .npz file."""
    arrays = {name: array.astype(np.float32) for name, array in features.items()}
    save_atomically(path, lambda file: np.savez(file, **arrays))


def read_features(path: Path) -> dict[str, np.ndarray]:
    """The features of a file by `write_features`."""
    with np.load(path, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files}
