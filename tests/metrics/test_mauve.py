"""MAUVE's ends: equal sets and disjoint sets; scales recomputed from kept features."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dblocks.metrics.mauve import mauve, read_features, write_features

SCALES = (2.0, 0.2, 5.0)  # the paper's v4, its v3, the library's default


def disjoint_score(scale: float) -> float:
    """The score of two sets without a common cluster: the area under (λ^c, (1 − λ)^c), Γ(1 + c)² / Γ(1 + 2c)."""
    return math.exp(2 * math.lgamma(1 + scale) - math.lgamma(1 + 2 * scale))


def cloud(seed: int, n: int, centre: float, width: int = 8) -> np.ndarray:
    """n features about a centre that lies on another axis for another sign."""
    points = 0.05 * np.random.default_rng(seed).normal(size=(n, width))
    points[:, 0 if centre > 0 else 1] += abs(centre)
    return points.astype(np.float32)


@given(st.integers(0, 1000), st.integers(10, 80))
@settings(max_examples=10)
def test_equal_sets_score_one_at_every_scale(seed, n):
    points = cloud(seed, n, 1.0)
    found = mauve(points, points.copy(), seed, SCALES)
    assert set(found.scores.values()) == {1.0}


def test_nearly_equal_sets_score_nearly_one():
    """No cliff beside equality, where the library's own sum falls to 0.75."""
    one = np.concatenate([cloud(0, 100, 1.0), cloud(1, 100, -1.0)])
    other = one.copy()
    other[0] = one[-1]
    assert all(0.97 < score < 1 for score in mauve(one, other, 0, SCALES).scores.values())


@given(st.integers(0, 1000), st.integers(20, 80), st.sampled_from([0.2, 1.0, 2.0, 5.0]))
@settings(max_examples=12)
def test_disjoint_sets_score_what_their_scale_allows(seed, n, scale):
    found = mauve(cloud(seed, n, 1.0), cloud(seed + 1, n, -1.0), seed, [scale])
    # 25 points of the curve, and mixtures that stop 1e-6 short of the ends
    assert found.scores[scale] == pytest.approx(disjoint_score(scale), abs=0.01)


def test_the_disjoint_score_is_known():
    assert disjoint_score(1) == pytest.approx(1 / 2) and disjoint_score(2) == pytest.approx(1 / 6)
    assert disjoint_score(0.2) == pytest.approx(math.gamma(1.2) ** 2 / math.gamma(1.4))


def test_numbers_of_texts_and_clusters_are_told():
    found = mauve(cloud(0, 40, 1.0), cloud(1, 200, 1.0), 0, [2.0])
    assert (found.references, found.continuations, found.buckets) == (40, 200, 4)


def test_a_larger_scale_is_stricter_and_any_scale_comes_from_the_kept_features(tmp_path):
    one, other = cloud(0, 60, 1.0), np.concatenate([cloud(1, 30, 1.0), cloud(2, 30, -1.0)])
    scores = mauve(one, other, 3, SCALES).scores
    assert list(scores) == list(SCALES)
    assert 1 > scores[0.2] > scores[2.0] > scores[5.0] > disjoint_score(5)
    write_features(tmp_path / "f.npz", {"references": one, "continuations": other})
    kept = read_features(tmp_path / "f.npz")
    assert mauve(kept["references"], kept["continuations"], 3, [5.0]).scores[5.0] == scores[5.0]


def test_the_same_seed_gives_the_same_score():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(100, 6)).astype(np.float32), rng.normal(size=(100, 6)).astype(np.float32)
    first, again, another = (mauve(one, other, seed, [2.0]).scores[2.0] for seed in (1, 1, 2))
    assert first == again != another
