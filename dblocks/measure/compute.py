"""What training Huginn takes in operations, by stochastic depth and as a denoiser: the "~10×" under every accounting.

None is preferred: each says what it counts, and the table shows them side by side (paper, Table 5 and its text).
"""

from __future__ import annotations

import torch

from dblocks.budget import steps_per_epoch, total_steps
from dblocks.measure.made_up import vocabulary_size
from dblocks.measure.operations import Operations, denoiser_step, steps_of
from dblocks.measure.request import Request
from dblocks.record import Metric
from dblocks.spec import RunSpec

TERA, EXA = 10**12, 10**18


def per_step(spec: RunSpec, doubled: bool = False) -> Operations:
    """Operations of one training step of a run at its batch size and length."""
    vocabulary = vocabulary_size(spec.task.tokenizer)
    if doubled:
        sizes = (vocabulary, spec.training.batch_size, spec.task.length - 1)
        return denoiser_step(spec.network, spec.method, *sizes, doubled=True)
    return steps_of(spec, vocabulary)


def accountings(baseline: RunSpec, blocks: RunSpec) -> dict[str, tuple[float, float, str]]:
    """(stochastic depth, denoiser, unit) by accounting.

    `paper`: its arithmetic, iterations × epochs against epochs of one pass. `step_…`: a step, which is the same as at
    equal epochs. `run_…`: times the steps of each run's epochs. `…_layers`: transformer layers alone; `…_whole`: with
    adapter, head and noise embedding; `…_doubled`: the latter if the sequence were doubled, as in Table 4.
    """
    first, second = per_step(baseline), per_step(blocks)
    doubled = per_step(blocks, doubled=True)
    steps = total_steps(baseline), total_steps(blocks)
    epochs = (steps[0] / steps_per_epoch(baseline), steps[1] / steps_per_epoch(blocks))
    pairs = {
        "layers": (first.layers, second.layers),
        "whole": (first.whole, second.whole),
        "doubled": (first.whole, doubled.whole),
    }
    found = {"paper": (baseline.network.iterations * epochs[0], epochs[1], "iterations × epochs")}
    for name, (one, other) in pairs.items():
        found[f"step_{name}"] = (one / TERA, other / TERA, "10^12 operations")
        found[f"run_{name}"] = (one * steps[0] / EXA, other * steps[1] / EXA, "10^18 operations")
    return found


def measure(request: Request, device: torch.device) -> tuple[str, list[Metric]]:
    """Shape in words, and both sides of every accounting with their ratio."""
    baseline, blocks = request.baseline, request.spec
    metrics = []
    for name, (one, other, unit) in accountings(baseline, blocks).items():
        for side, value in (("baseline", one), ("blocks", other)):
            metrics.append(_metric(blocks, f"{name}_{side}", value, unit))
        metrics.append(_metric(blocks, f"{name}_ratio", one / other, ""))
    network, batch = blocks.network, blocks.training.batch_size
    layers = f"{network.prelude}+{network.recurrent}+{network.coda} layers, width {network.width}"
    vocabulary = vocabulary_size(blocks.task.tokenizer)
    return f"huginn of {layers}, vocabulary {vocabulary}, {blocks.task.length - 1} tokens, batch {batch}", metrics


def _metric(spec: RunSpec, name: str, value: float, unit: str) -> Metric:
    return Metric.measured(spec.data, name, value, unit=unit, split="made up", samples=spec.training.batch_size)
