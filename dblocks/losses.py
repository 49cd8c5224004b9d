"""Losses between two log lines, and what is said of one that is no number."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import torch

from dblocks.errors import TrainingFailed
from dblocks.methods.method import Step

REMEDY = "lower training.learning_rate or set training.grad_clip"


@dataclass
class LossBuffer:
    """Losses kept on the device between two log lines, so that the step itself never waits for it."""

    entries: list[tuple[int, Step]] = field(default_factory=list)

    def add(self, step: int, result: Step) -> None:
        self.entries.append((step, result))

    def drain(self) -> dict[str, float]:
        """Mean loss by block ("1", "2", …; "all" without blocks), then empty.

        Raises: TrainingFailed naming the first step, its block and σ range, if a loss is not finite.
        """
        if not self.entries:
            return {}
        values = torch.stack([entry.loss.float() for _, entry in self.entries]).tolist()
        by_block: dict[str, list[float]] = defaultdict(list)
        for (step, entry), value in zip(self.entries, values, strict=True):
            if not math.isfinite(value):
                raise TrainingFailed(describe_failure(step, entry, value))
            by_block["all" if entry.block is None else str(entry.block + 1)].append(value)
        self.entries.clear()
        return {block: math.fsum(losses) / len(losses) for block, losses in sorted(by_block.items())}


def describe_failure(step: int, entry: Step, value: float) -> str:
    """One line about a loss that is not finite."""
    where = "" if entry.block is None else f", block {entry.block + 1}"
    if entry.sigma is not None:
        where += f", sigma {entry.sigma.min().item():.4g} to {entry.sigma.max().item():.4g}"
    return f"loss is {value} at step {step + 1}{where}; {REMEDY}"
