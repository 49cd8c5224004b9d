"""Recurrent depth (Geiping et al. 2025): a random number of iterations a step, gradients through the last few."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from dblocks import seeds
from dblocks.methods.end_to_end import EndToEnd
from dblocks.methods.method import Drawn
from dblocks.networks.huginn import Huginn, HuginnReader
from dblocks.processes import own_share
from dblocks.spec import RecurrentDepthSpec, RunSpec
from dblocks.text_generation import TextPredictor, sample_nucleus, write_on


def curve_name(iterations: int) -> str:
    """What metrics at another number of iterations than the main one begin with."""
    return f"iterations_{iterations}_"


def depth_of_step(method: RecurrentDepthSpec, iterations: int, seed: int, step: int) -> int:
    """Iterations r of training step `step`: Poisson(e^τ) + 1, τ ~ N(ln r̄ − s²/2, s²), so that e^τ has mean r̄
    (their Equation 1; at r̄ = 32, s = ½ r has mean 33 and median 29)."""
    draws = seeds.generator("cpu", seed, "depth", step)
    s = method.log_deviation
    tau = math.log(iterations) - s**2 / 2 + s * torch.randn(1, generator=draws, dtype=torch.float64)
    return int(torch.poisson(tau.exp(), generator=draws).item()) + 1


class RecurrentDepth(EndToEnd):
    """Trains Huginn to predict the next token by truncated backpropagation; text is sampled from the nucleus."""

    def __init__(self, spec: RunSpec, network: Huginn, task):
        super().__init__(network, task)
        self.spec = spec

    def draw(self, step: int) -> Drawn:
        """A step's depth is drawn with it, so it is like no other."""
        batch = self.task.batch(step)
        depth = depth_of_step(self.spec.method, self.spec.network.iterations, self.spec.seed, step)
        state = self.network.start(batch.inputs.shape, seeds.generator(self.task.device, self.spec.seed, "state", step))
        return Drawn(own_share(batch.inputs, batch.targets, state), part=None, depth=depth)

    def loss(self, drawn: Drawn) -> Tensor:
        inputs, targets, state = drawn.tensors
        return self.task.loss(self.network(inputs, state, drawn.depth, self.spec.method.backpropagated), targets)

    def predictors(self) -> dict[str, TextPredictor]:
        """At the main number of iterations, sampled from the nucleus and, as the denoiser writes, greedily; and at the
        other numbers of the depth curve."""
        network = self.spec.network
        return {
            "": self.at(network.iterations),
            "greedy_": self.at(network.iterations, greedy=True),
            **{curve_name(k): self.at(k) for k in network.depth_curve},
        }

    def at(self, iterations: int, greedy: bool = False) -> TextPredictor:
        """The trained network with so many iterations."""
        return TextPredictor(self._writer(iterations, greedy), self._judge(iterations))

    def _judge(self, iterations: int) -> Callable[[Tensor, torch.Generator], Tensor]:
        def nll(windows: Tensor, generator: torch.Generator) -> Tensor:
            tokens = windows[:, :-1]
            logits = self.network(tokens, self.network.start(tokens.shape, generator), iterations)
            return F.cross_entropy(logits.float().transpose(1, 2), windows[:, 1:], reduction="none")

        return nll

    def _writer(self, iterations: int, greedy: bool) -> Callable[[Tensor, int, torch.Generator], Tensor]:
        def go_on(prompts: Tensor, count: int, generator: torch.Generator) -> Tensor:
            def choose(logits: Tensor) -> Tensor:
                return logits.argmax(dim=-1) if greedy else sample_nucleus(logits, self.spec.task.top_p, generator)

            states = self.network.start((len(prompts), prompts.shape[1] + count), generator)
            if self.spec.task.cache:
                reader = HuginnReader(self.network, states, iterations)
                return write_on(lambda new: choose(reader.read(new)), prompts, count)
            seen = prompts[:, :0]

            def step(new: Tensor) -> Tensor:
                nonlocal seen
                seen = torch.cat([seen, new], dim=1)
                logits = self.network(seen, states[:, : seen.shape[1]], iterations)
                return choose(logits[:, -1])

            return write_on(step, prompts, count)

        return go_on
