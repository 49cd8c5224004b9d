"""Seconds per training step: the baseline, one block, and every block once (Table 12).

Whole steps are timed as training makes them (batch and augmentation, forward, backward, clipping, AdamW), baseline and
blocks in turn, so that a drifting machine meets both alike. Where a GPU augments the batches of several steps at once,
one reading is the mean of as many steps of each kind, so that every reading has its share of that.
"""

from __future__ import annotations

import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dblocks.build import build
from dblocks.machine import set_up
from dblocks.measure.made_up import made_up_data
from dblocks.measure.request import Request
from dblocks.record import Metric
from dblocks.spec import DiffusionBlocksSpec, RunSpec
from dblocks.training import Trainer

WARM_UP = 1  # readings that are not counted, and before them
LEAST_READINGS = 20  # where one is the mean of many steps
FIRST_STEPS = 8  # of each part, in which kernels are compiled and graphs recorded


def make_trainer(spec: RunSpec, device: torch.device, folder: Path) -> Trainer:
    """A trainer on made-up data that is about to make its first step; blocks take turns."""
    # networks that are measured side by side are compiled as each is by itself, for its own sizes
    torch._dynamo.config.automatic_dynamic_shapes = False
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
    if isinstance(spec.method, DiffusionBlocksSpec) and spec.num_blocks > 1:
        spec = spec.changed({"method": {"block_order": "turns"}})
    set_up(spec.compute)
    method, _ = build(spec, made_up_data(spec, folder), device)
    return Trainer(spec, method, 10**6, folder, device)


def seconds(device: torch.device, act: Callable[[], object]) -> float:
    """Wall time of `act`, the device's work included."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    act()
    synchronize()
    return time.perf_counter() - start


class Pace:
    """A trainer that goes on from step to step; a round is a step of each of its parts."""

    def __init__(self, trainer: Trainer, device: torch.device):
        self.trainer, self.device, self.next, self.next_batch = trainer, device, 0, 0
        self.round = trainer.spec.num_blocks
        batches = getattr(trainer.method.task, "batches", None)
        self.together = getattr(batches, "together", 1)  # steps whose batches are made at once
        # batches are timed apart: the trainer keeps what it has made for its next steps
        self.apart = copy.copy(trainer.method.task)
        if batches is not None:
            self.apart.batches = batches.anew()
        self._steps(FIRST_STEPS * self.round if device.type == "cuda" else self.round)
        # a reading holds as many steps as are made at once, from the first of them on
        self.next = math.ceil(self.next / self.together) * self.together

    def _steps(self, count: int) -> None:
        for step in range(self.next, self.next + count):
            self.trainer.train_step(step)
        self.next += count
        self.trainer.buffer.entries.clear()

    def _batches(self, count: int) -> None:
        for step in range(self.next_batch, self.next_batch + count):
            self.apart.batch(step)
        self.next_batch += count

    def read(self) -> list[float]:
        """Seconds a step, one reading for each step of a round."""
        return [seconds(self.device, partial(self._steps, self.together)) / self.together for _ in range(self.round)]

    def read_batch(self) -> float:
        """Seconds that a batch takes."""
        return seconds(self.device, partial(self._batches, self.together)) / self.together


def timed_steps(request: Request, device: torch.device, iterations: int) -> tuple[dict[str, list[float]], int]:
    """Seconds of each baseline step (`whole`), block's step (`block`), round of all blocks (`blocks`), and of making
    a batch for either (`whole_data`, `block_data`); first steps, which warm up, are left out. And of how many steps
    each reading is the mean."""
    times: dict[str, list[float]] = {name: [] for name in ("whole", "block", "blocks", "whole_data", "block_data")}
    with tempfile.TemporaryDirectory() as name:
        baseline = Pace(make_trainer(request.baseline, device, Path(name) / "baseline"), device)
        blocks = Pace(make_trainer(request.spec, device, Path(name) / "blocks"), device)
        readings = max(LEAST_READINGS, iterations // blocks.together) if blocks.together > 1 else iterations
        for i in range(WARM_UP + readings):
            (whole,), parts = baseline.read(), blocks.read()
            data = [pace.read_batch() for pace in (baseline, blocks)]
            if i >= WARM_UP:
                times["whole"].append(whole)
                times["block"].extend(parts)
                times["blocks"].append(sum(parts))
                times["whole_data"].append(data[0])
                times["block_data"].append(data[1])
    return times, blocks.together


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """5th and 95th percentile."""
    low, high = np.percentile(values, (5, 95))
    return float(low), float(high)


def measure(request: Request, device: torch.device) -> tuple[str, list[Metric]]:
    """Shape in words; medians with their spread, ratios to the baseline (of each round), and data's share."""
    times, together = timed_steps(request, device, request.settings.iterations)
    data = request.spec.data
    metrics = []
    for name in ("whole", "block", "blocks"):
        values, median = times[name], statistics.median(times[name])
        per_round = len(values) // len(times["whole"])
        base = [second for second in times["whole"] for _ in range(per_round)]
        ratios = [value / second for value, second in zip(values, base, strict=True)]
        batches = request.spec.num_blocks if name == "blocks" else 1
        share = 100 * batches * statistics.median(times["whole_data" if name == "whole" else "block_data"]) / median
        common = {"split": "made up", "samples": len(values)}
        metrics += [
            Metric.measured(data, f"{name}_seconds", median, unit="s", spread=percentiles(values), **common),
            Metric.measured(
                data, f"{name}_ratio", statistics.median(ratios), unit="", spread=percentiles(ratios), **common
            ),
            Metric.measured(data, f"{name}_data_share", share, unit="%", **common),
        ]
    # of a step, whatever it holds, baseline over blocks; means, for a step's depth may be random
    one, other = statistics.fmean(times["whole"]), statistics.fmean(times["block"])
    common = {"split": "made up", "samples": len(times["whole"])}
    for name, value, unit in (("baseline", one, "s"), ("blocks", other, "s"), ("ratio", one / other, "")):
        metrics.append(Metric.measured(data, f"step_{name}", value, unit=unit, **common))
    shape = f"{request.shape}, batch {request.spec.training.batch_size}"
    count = len(times["whole"])
    return f"{shape}, {count} " + (f"readings of {together} steps" if together > 1 else "iterations"), metrics
