"""Who attends to whom: the mask written out, kernels that agree, kept keys and values that change nothing."""

import pytest
import torch

from dblocks.errors import UserError
from dblocks.networks.attention import KVCache, attend_halves, causal, flex_mask, halves_mask

CPU = torch.device("cpu")


def heads(length: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values [2, 3, length, 8]."""
    draws = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 3, length, 8, generator=draws) for _ in range(3))


def attention_by_hand(q, k, v, allowed):
    """Softmax attention over the keys that `allowed(query, key)` names, one query at a time."""
    out = torch.empty_like(q)
    for i in range(q.shape[2]):
        keys = [j for j in range(k.shape[2]) if allowed(i, j)]
        scores = (q[:, :, i : i + 1] @ k[:, :, keys].transpose(2, 3)) / q.shape[-1] ** 0.5
        out[:, :, i] = (scores.softmax(-1) @ v[:, :, keys])[:, :, 0]
    return out


def block_diffusion(length: int):
    """The mask's four rules in words: noisy → itself, noisy → earlier clean, clean → clean up to itself."""

    def allowed(query, key):
        if key < length:
            return query == key
        return key - length < query if query < length else key <= query

    return allowed


def test_mask_of_three_tokens_written_out():
    expected = [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 1],
    ]
    assert halves_mask(3, CPU).int().tolist() == expected


@pytest.mark.parametrize("kind", ["masked", "split", "auto"])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_kernels_are_attention_under_the_mask(kind, length):
    q, k, v = heads(2 * length)
    assert torch.allclose(
        attend_halves(kind, length, CPU)(q, k, v), attention_by_hand(q, k, v, block_diffusion(length)), atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_has_the_same_mask():
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v = heads(2 * 6)
    found = flex_attention(q, k, v, block_mask=flex_mask(6, CPU))  # not compiled: there may be no compiler here
    assert torch.allclose(found, attend_halves("masked", 6, CPU)(q, k, v), atol=1e-5)


def test_flex_attention_without_cuda_is_refused():
    with pytest.raises(UserError, match=r"network\.attention: 'flex' needs CUDA"):
        attend_halves("flex", 6, CPU)


def test_causal_attention():
    q, k, v = heads(5)
    assert torch.allclose(causal(q, k, v), attention_by_hand(q, k, v, lambda i, j: j <= i), atol=1e-5)


@pytest.mark.parametrize("pieces", [(6,), (1, 1, 1, 1, 1, 1), (3, 1, 2)])
def test_kept_keys_and_values_change_nothing(pieces):
    q, k, v = heads(6)
    kept, found = KVCache(capacity=8), []
    for part in zip(*(x.split(pieces, dim=2) for x in (q, k, v)), strict=True):
        found.append(kept.extend(*part))
    assert torch.allclose(torch.cat(found, dim=2), causal(q, k, v), atol=1e-5)


def test_a_noisy_token_sees_what_is_kept_and_itself_and_leaves_no_trace():
    q, k, v = heads(5)
    kept = KVCache(capacity=8)
    kept.extend(*(x[:, :, :4] for x in (q, k, v)))
    last = tuple(x[:, :, 4:] for x in (q, k, v))
    expected = causal(q, k, v)[:, :, 4:]
    for _ in range(2):
        assert torch.allclose(kept.peek(*last), expected, atol=1e-5)
    assert kept.length == 4
