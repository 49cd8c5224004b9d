"""Nucleus sampling against its definition, and the loop that goes on from prompts."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from dblocks.text_generation import nucleus, sample_nucleus, write_on


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.floats(0.01, 1))
def test_the_nucleus_is_the_fewest_likeliest_tokens_that_hold_top_p(logits, top_p):
    found = nucleus(torch.tensor([logits], dtype=torch.float64), top_p)[0].tolist()
    full = torch.tensor(logits, dtype=torch.float64).softmax(0).tolist()
    order = sorted(range(len(full)), key=lambda i: (-full[i], i))
    kept, mass = [], 0.0
    for i in order:
        if mass >= top_p:
            break
        kept.append(i)
        mass += full[i]
    assert {i for i, p in enumerate(found) if p > 0} == {i for i in kept if full[i] > 0}
    assert abs(sum(found) - 1) < 1e-9
    assert all(abs(found[i] - full[i] / mass) < 1e-9 for i in kept)


def test_tokens_come_as_often_as_their_probabilities_say_and_never_from_outside():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(20_000, 4)
    draws = sample_nucleus(logits, 0.9, torch.Generator().manual_seed(0))
    shares = torch.bincount(draws, minlength=4).double() / len(draws)
    expected = torch.tensor([0.5, 0.3, 0.15, 0.0], dtype=torch.float64) / 0.95
    assert (shares - expected).abs().max() < 0.015  # 4 standard errors
    assert shares[3] == 0
    assert sample_nucleus(logits[:5], 1e-9, torch.Generator()).tolist() == [0] * 5  # greedy


def test_what_is_new_is_handed_on_once():
    seen = []

    def step(new):
        seen.append(new.tolist())
        return new[:, -1] + 1

    assert write_on(step, torch.tensor([[1, 2], [5, 6]]), 3).tolist() == [[3, 4, 5], [7, 8, 9]]
    assert seen == [[[1, 2], [5, 6]], [[3], [7]], [[4], [8]]]
