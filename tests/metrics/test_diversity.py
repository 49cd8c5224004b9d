"""distinct-n, repetition and entropy against counts by hand, and their bounds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dblocks.metrics.diversity import distinct, ngrams, repetition, unigram_entropy

WORDS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=12).map(" ".join)


def test_distinct_pools_a_prompts_continuations_and_averages_over_prompts():
    # a b a | a c: 3 of 5 words, bigrams ab ba ac; d d d d: 1 of 4, bigram dd
    groups = [["a b a", "a c"], ["d d d d"]]
    assert distinct(groups, 1) == pytest.approx((3 / 5 + 1 / 4) / 2)
    assert distinct(groups, 2) == pytest.approx((3 / 5 + 1 / 4) / 2)
    assert distinct(groups, 3) == pytest.approx((1 / 5 + 1 / 4) / 2)


def test_ngrams_do_not_run_across_continuations():
    assert distinct([["a b", "c d"]], 2) == 2 / 4  # not b c
    assert ngrams(["a"], 2) == []


@given(WORDS, st.integers(1, 4))
def test_more_copies_of_a_continuation_are_less_distinct(text, n):
    assert distinct([[text] * 3], n) == pytest.approx(distinct([[text]], n) / 3)


def test_repetition_is_the_share_of_four_grams_seen_before():
    assert repetition(["a b c d e f g"]) == 0
    assert repetition(["a a a a a a a a"]) == pytest.approx(1 - 1 / 5)  # five, all alike
    assert repetition(["a b c d", "a a a a a", "too short"]) == pytest.approx((0 + 1 / 2) / 2)


@given(st.lists(WORDS, min_size=1, max_size=5))
def test_repetition_is_a_share_or_not_there(texts):
    found = repetition(texts)
    assert 0 <= found < 1 if any(len(text.split()) >= 4 for text in texts) else math.isnan(found)


def test_entropy_of_each_row_is_averaged():
    assert unigram_entropy([[1, 2, 3, 4], [7, 7, 7]]) == pytest.approx((math.log(4) + 0) / 2)
    assert unigram_entropy([[5, 5, 6]]) == pytest.approx(math.log(3) - 2 / 3 * math.log(2))


def test_what_has_no_word_or_token_has_no_value():
    assert distinct([["a b"], [" ", ""]], 1) == 1  # the empty prompt counts nothing
    assert all(math.isnan(value) for value in (distinct([[""]], 1), repetition(["a"]), unigram_entropy([[]])))
