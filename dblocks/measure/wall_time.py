"""Seconds per training step: the baseline, one block, and every block once (Table 12).

Whole steps are timed as training makes them (batch and augmentation, forward, backward, clipping, AdamW), baseline and
blocks in turn, so that a drifting machine meets both alike.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from dblocks.build import build
from dblocks.measure.made_up import made_up_data
from dblocks.measure.request import Request
from dblocks.record import Metric
from dblocks.spec import RunSpec
from dblocks.training import Trainer

WARM_UP = 3


def make_trainer(spec: RunSpec, device: torch.device, folder: Path) -> Trainer:
    """A trainer on made-up data that is about to make its first step; blocks take turns."""
    fields = {"method": {"block_order": "rounds"}} if spec.num_blocks > 1 else {}
    spec = spec.changed(fields)
    torch.set_num_threads(spec.compute.threads)
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


def timed_steps(request: Request, device: torch.device, iterations: int) -> dict[str, list[float]]:
    """Seconds of each baseline step (`whole`), block's step (`block`), round of all blocks (`blocks`), and of making
    a batch for either (`whole_data`, `block_data`); first steps, which warm up, are left out."""
    times: dict[str, list[float]] = {name: [] for name in ("whole", "block", "blocks", "whole_data", "block_data")}
    with tempfile.TemporaryDirectory() as name:
        baseline = make_trainer(request.baseline, device, Path(name) / "baseline")
        blocks = make_trainer(request.spec, device, Path(name) / "blocks")
        count = request.spec.num_blocks
        for i in range(WARM_UP + iterations):
            whole = seconds(device, lambda: baseline.train_step(i))  # noqa: B023, called at once
            parts = [seconds(device, lambda: blocks.train_step(i * count + k)) for k in range(count)]  # noqa: B023
            data = [seconds(device, lambda: trainer.method.task.batch(i)) for trainer in (baseline, blocks)]  # noqa: B023
            if i >= WARM_UP:
                times["whole"].append(whole)
                times["block"].extend(parts)
                times["blocks"].append(sum(parts))
                times["whole_data"].append(data[0])
                times["block_data"].append(data[1])
    return times


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """5th and 95th percentile."""
    low, high = np.percentile(values, (5, 95))
    return float(low), float(high)


def measure(request: Request, device: torch.device) -> tuple[str, list[Metric]]:
    """Shape in words; medians with their spread, ratios to the baseline (of each round), and data's share."""
    times = timed_steps(request, device, request.settings.iterations)
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
    network, batch = request.spec.network, request.spec.training.batch_size
    shape = f"{network.name} of {network.layers} layers, width {network.width}, on {data.name}, batch {batch}"
    return f"{shape}, {request.settings.iterations} iterations", metrics
