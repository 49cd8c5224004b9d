"""Masked diffusion, end to end or block-wise: each step trains one block on the times it owns.

End to end is the case of one block, which holds all layers and owns all times.
"""

from __future__ import annotations

from torch import Tensor, nn

from dblocks import seeds
from dblocks.masking import MaskPartition, bound, mask_at, sampling_times, stratified_times
from dblocks.methods.diffusion_blocks import block_of_step
from dblocks.methods.method import Drawn, Method
from dblocks.processes import own_share
from dblocks.spec import DiffusionBlocksSpec, RunSpec
from dblocks.tasks.masked_text import MASK, MaskedPredictor, MaskedText


class MaskedDiffusion(Method):
    """Trains the blocks of a network that predicts masked characters."""

    def __init__(self, spec: RunSpec, network: nn.Module, partition: MaskPartition, task: MaskedText):
        self.spec, self.network, self.partition, self.task = spec, network, partition, task

    def draw(self, step: int) -> Drawn:
        tokens = self.task.batch(step)
        block, blocks = 0, isinstance(self.spec.method, DiffusionBlocksSpec)
        if blocks:
            block = block_of_step(self.spec.method.block_order, self.spec.seed, step, self.partition.num_blocks)
        draws = seeds.generator(self.task.device, self.spec.seed, "noise", step)
        t = stratified_times(len(tokens), self.partition.training_interval(block), draws)
        noisy = mask_at(tokens, t, self.partition.schedule, MASK, draws)
        tokens, noisy, t = own_share(tokens, noisy, t)
        return Drawn((tokens, noisy, t), block if blocks else None, t)

    def loss(self, drawn: Drawn) -> Tensor:
        """The active block's part of the bound, in nats per character: over its training interval, so the parts
        of all blocks add up to the whole (without overlap)."""
        tokens, noisy, t = drawn.tensors
        block = drawn.block or 0
        low, high = self.partition.training_interval(block)
        logits = self.network.denoise(block, noisy, t)
        nats = bound(logits, tokens, noisy == MASK, t, self.partition.schedule)
        return ((high - low) * nats.mean() / tokens.shape[1]).float()

    def predictors(self) -> dict[str, MaskedPredictor]:
        return {"": MaskedPredictor(self.network.denoise, self.partition)}

    def evaluations_per_block(self) -> list[int] | None:
        """Of the sampler."""
        if not isinstance(self.spec.method, DiffusionBlocksSpec):
            return None
        task = self.spec.task
        levels = sampling_times(task.sampling_grid, task.schedule, task.sampling_steps)
        return self.partition.evaluations(levels[:-1])
