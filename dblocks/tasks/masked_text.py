"""Masked text: windows of characters to learn from, bits per character, and sampled texts.

Shapes: N windows, L characters, codes int64 in 0 … K − 1; K is the mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dblocks import seeds
from dblocks.data.characters import ALPHABET, decode
from dblocks.data.files import write_atomically
from dblocks.data.prepared import PreparedData
from dblocks.masked_sampling import ancestral_sample
from dblocks.masking import Denoise, MaskPartition, sampling_times
from dblocks.metrics.bits_per_character import bigram_entropy, bits_per_character, unigram_entropy
from dblocks.record import Metric
from dblocks.spec import RunSpec
from dblocks.tasks.windows import WindowOrder

MASK = len(ALPHABET)
SAMPLES = "samples.txt"


@dataclass
class MaskedPredictor:
    """A network that predicts masked characters, and the blocks it is routed by."""

    denoise: Denoise
    partition: MaskPartition


class MaskedText:
    """The text of a run: training windows, and what is measured of it."""

    def __init__(self, spec: RunSpec, data: PreparedData, device: torch.device):
        self.spec, self.device, self.length = spec, device, spec.task.length
        # validation is a part of its own, so `train` and `fit` are the same characters
        self.codes = torch.from_numpy(np.array(data.array("train"))).to(device)
        self.evaluation_codes = data.array(spec.data.evaluation_split)
        self.order = WindowOrder(spec.seed, len(self.codes), self.length, spec.training.batch_size, device)

    def batch(self, step: int) -> Tensor:
        """The windows [N, L] of `step`."""
        places = self.order.indices(step)[:, None] + torch.arange(self.length, device=self.device)
        return self.codes[places].long()

    def evaluation_windows(self) -> Tensor:
        """Disjoint windows [N, L] of the evaluation split, the first `max_evaluation_samples` of them."""
        count = len(self.evaluation_codes) // self.length
        count = min(count, self.spec.data.max_evaluation_samples or count)
        codes = np.array(self.evaluation_codes[: count * self.length])
        return torch.from_numpy(codes).to(self.device).view(count, self.length)

    @torch.no_grad()
    def evaluate(self, predictors: dict[str, MaskedPredictor]) -> list[Metric]:
        """Bits per character of each predictor, keys prefixed by its name, with each block's part of them; and
        the entropies of the split they were read on."""
        windows, metrics = self.evaluation_windows().long(), []
        for prefix, predictor in predictors.items():
            draws = seeds.generator(self.device, self.spec.seed, "evaluate")
            found = bits_per_character(
                predictor.denoise, windows, predictor.partition, MASK, self.spec.task.evaluation_times, draws
            )
            metrics.append(self._metric(f"{prefix}bpc", found.value, found.windows, found.standard_error))
            if predictor.partition.num_blocks > 1:
                for block, value in enumerate(found.by_block, start=1):
                    metrics.append(self._metric(f"{prefix}bpc_of_block_{block}", value, found.windows))
        # over the whole split, also where fewer windows are evaluated: frequencies of a short text understate them
        text, count = np.array(self.evaluation_codes), len(self.evaluation_codes) // self.length
        metrics.append(self._metric("unigram_entropy", unigram_entropy(text, MASK), count))
        metrics.append(self._metric("bigram_entropy", bigram_entropy(text, MASK), count))
        return metrics

    @torch.no_grad()
    def write_samples(self, predictors: dict[str, MaskedPredictor], folder: Path) -> None:
        """Sampled texts, one a line, into samples.txt (of a predictor with a name: <name>samples.txt)."""
        task = self.spec.task
        levels = sampling_times(task.sampling_grid, task.schedule, task.sampling_steps)
        for prefix, predictor in predictors.items():
            draws = seeds.generator(self.device, self.spec.seed, "sample")
            shape = (task.samples, task.length)
            codes = ancestral_sample(predictor.denoise, predictor.partition, levels, shape, MASK, draws)
            lines = [decode(row) + "\n" for row in codes.cpu().numpy()]
            write_atomically(folder / f"{prefix}{SAMPLES}", "".join(lines))

    def _metric(self, name: str, value: float, windows: int, standard_error: float | None = None) -> Metric:
        return Metric.measured(
            self.spec.data, name, value, unit="bits/char", samples=windows, standard_error=standard_error
        )
