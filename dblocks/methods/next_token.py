"""The baseline of autoregressive text: the whole network, cross-entropy of each next token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dblocks.methods.end_to_end import EndToEnd
from dblocks.spec import RunSpec
from dblocks.text_generation import TextPredictor, sample_nucleus, write_on


class NextToken(EndToEnd):
    """End-to-end training; text is sampled from the nucleus."""

    def __init__(self, spec: RunSpec, network, task):
        super().__init__(network, task)
        self.spec = spec

    def predictors(self) -> dict[str, TextPredictor]:
        return {"": TextPredictor(self._go_on, self._nll)}

    def _nll(self, windows: Tensor, generator: torch.Generator) -> Tensor:
        logits = self.network(windows[:, :-1])
        return F.cross_entropy(logits.float().transpose(1, 2), windows[:, 1:], reduction="none")

    def _go_on(self, prompts: Tensor, count: int, generator: torch.Generator) -> Tensor:
        top_p = self.spec.task.top_p
        if self.spec.task.cache:
            reader = self.network.reader(prompts.shape[1] + count)
            return write_on(lambda new: sample_nucleus(reader.read(new), top_p, generator), prompts, count)
        seen = [prompts[:, :0]]

        def step(new: Tensor) -> Tensor:
            seen[0] = torch.cat([seen[0], new], dim=1)
            return sample_nucleus(self.network(seen[0])[:, -1], top_p, generator)

        return write_on(step, prompts, count)
