"""CUDA graphs of training steps: a step whose operations never change is recorded once and replayed as one launch.

Launching some hundred kernels takes a host longer than a small network takes a GPU. A graph holds everything between
what was drawn and the updated weights, for one part of the network (a block) each; parts share their memory, since
nothing of a step outlives it but weights, optimiser state and loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dblocks.methods.method import Drawn

EAGER_STEPS = 3  # before a part is recorded: kernels are compiled in them, and optimiser state is made


@dataclass
class Recorded:
    """A graph and the loss it leaves."""

    graph: torch.cuda.CUDAGraph
    loss: Tensor


class StepGraphs:
    """Does training steps, each part's first ones as they are, the others as graphs.

    Args:
        act: a whole step on the GPU: from what was drawn to updated weights; returns the loss.
    """

    def __init__(self, act: Callable[[Drawn], Tensor], device: torch.device):
        self.act, self.device = act, device
        self.recorded: dict[Hashable, Recorded] = {}
        self._inputs: dict[Hashable, Drawn] = {}
        self._seen: Counter[Hashable] = Counter()
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def __call__(self, drawn: Drawn) -> Tensor:
        """The loss of a step, which has updated the weights. Draws of dropout come of the seed that was set before."""
        if drawn.part is None:
            return self.act(drawn)
        # from the first step on, what is read lies where a graph will read it: a tensor laid out in another way would
        # have compiled code compiled again, which nothing can be while it is recorded
        if drawn.part not in self._inputs:
            self._inputs[drawn.part] = fixed(drawn)
        inputs = self._inputs[drawn.part]
        copy_all(inputs.tensors, drawn.tensors)
        if drawn.part not in self.recorded:
            self._seen[drawn.part] += 1
            if self._seen[drawn.part] <= EAGER_STEPS:
                return self._aside(inputs)
            self.recorded[drawn.part] = self._record(inputs)
        recorded = self.recorded[drawn.part]
        recorded.graph.replay()
        return recorded.loss.clone()  # the next replay writes over it

    def _aside(self, drawn: Drawn) -> Tensor:
        """A step on a stream of its own, as PyTorch wants of what is going to be recorded."""
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = self.act(drawn)
        current.wait_stream(self._stream)
        return loss

    def _record(self, drawn: Drawn) -> Recorded:
        """Record a step without doing it."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: another thread may be reading the next batch into pinned memory meanwhile
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            loss = self.act(drawn)
        return Recorded(graph, loss)


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target, all of one type at once: mixed ones PyTorch would copy one by one."""
    for kind in {target.dtype for target in targets}:
        pairs = [(target, source) for target, source in zip(targets, sources, strict=True) if target.dtype == kind]
        torch._foreach_copy_(*(list(side) for side in zip(*pairs, strict=True)))


def fixed(drawn: Drawn) -> Drawn:
    """The same in memory of its own, without gaps."""
    tensors = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in drawn.tensors)
    return Drawn(tensors, drawn.block, None, drawn.part, drawn.depth)
