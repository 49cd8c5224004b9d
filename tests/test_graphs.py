"""What of CUDA graphs runs without a GPU; the graphs themselves are tested in tests/cuda."""

from __future__ import annotations

import torch

from dblocks.graphs import copy_all


def test_copies_of_several_types_all_arrive():
    sources = [torch.rand(3), torch.randint(9, (2, 2)), torch.rand(4, dtype=torch.float64), torch.rand(1)]
    targets = [torch.zeros_like(source) for source in sources]
    copy_all(targets, sources)
    assert all(torch.equal(target, source) for target, source in zip(targets, sources, strict=True))


def test_there_may_be_nothing_to_copy():
    copy_all((), ())
