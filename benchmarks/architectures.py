"""Step time and samples per second of every architecture, whole and per block, against the floor of its arithmetic.

    python -m benchmarks.architectures [--device cpu|cuda] [--scale smoke|paper] [--only NAME …]

The floor is the larger of two times: the step's multiplications and additions of matrices at the rate of a large matrix
product, and the fewest bytes it must move (weights, gradients and moments through the optimiser; what is saved for
backward, written and read once) at the rate of a large copy; both rates are measured here, on the same device in the
same minute. Of attention what a mask leaves counts; of Huginn's baseline, which is counted by formula, every pair.
Baseline and blocks are read in turn. Prints one JSON object with device and n.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step_time import summary
from dblocks.config import resolve
from dblocks.machine import autocast, describe
from dblocks.measure.made_up import made_up_data, vocabulary_size
from dblocks.measure.memory import account_part, accounting_spec, build_without_numbers
from dblocks.measure.operations import steps_of
from dblocks.measure.wall_time import Pace, make_trainer, seconds
from dblocks.spec import RunSpec

# experiment: baseline, block-wise run
ARCHITECTURES = {
    "vit": ("end_to_end", "diffusion_blocks"),
    "vit_tiny": ("end_to_end", "diffusion_blocks"),
    "noprop": ("backprop", "diffusion_blocks"),
    "dit_cifar10": ("end_to_end", "diffusion_blocks"),
    "dit_imagenet": ("end_to_end", "diffusion_blocks"),
    "mdm": ("end_to_end", "diffusion_blocks"),
    "ar_lm1b": ("end_to_end", "diffusion_blocks"),
    "ar_owt": ("end_to_end", "diffusion_blocks"),
    "huginn": ("recurrent_depth", "diffusion_blocks"),
}
OPTIMIZER_BYTES = 28  # a weight of float32: read with its gradient and two moments, written with the moments


def rates(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Operations per second of a matrix product of random numbers, bytes per second of a copy (read and written)."""
    size, numbers = (8192, 2**30) if device.type == "cuda" else (1024, 2**26)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)

    def best(act: Any) -> float:
        act()
        return min(seconds(device, act) for _ in range(10))

    return {
        "operations_per_second": 2 * size**3 / best(lambda: a @ b),
        "bytes_per_second": 2 * 4 * numbers / best(lambda: target.copy_(source)),
    }


def counts(spec: RunSpec, folder: Path, half: bool) -> dict[str, float]:
    """Operations and fewest bytes of a step, on average over the blocks; nothing is computed for it.

    Args:
        half: what is saved for backward is saved in 16 bits.
    """
    spec = accounting_spec(spec, spec.samples_at_once)
    data = made_up_data(spec, folder)
    found = []
    for step in range(spec.num_blocks):
        method = build_without_numbers(spec, data)
        part = account_part(spec, method, step)
        method.network.zero_grad(set_to_none=True)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            method.training_step(step).loss.backward()
        weights = part.account.gradients / 4
        moved = OPTIMIZER_BYTES * weights + 2 * part.account.activations / (2 if half else 1)
        products = counter.get_flop_counts()["Global"].get(torch.ops.aten.bmm, 0)  # of attention, every pair of tokens
        found.append((counter.get_total_flops() - (1 - seen_pairs(spec)) * products, moved))
    operations, moved = (sum(values) / len(found) for values in zip(*found, strict=True))
    return {"operations": operations, "bytes": moved}


def seen_pairs(spec: RunSpec) -> float:
    """The share of pairs of tokens that attend to each other, about: half under a causal mask, and a quarter over
    [noisy | clean], where a noisy token sees the clean ones before it, and those each other."""
    if spec.task.name != "autoregressive_text":
        return 1.0
    return 0.25 if (spec.network.name, spec.method.name) == ("llama", "diffusion_blocks") else 0.5


def spec_of(experiment: str, variant: str, scale: str, device: str) -> RunSpec:
    """A run of the paper's or smoke's shape, as many samples a step as go through its network at once."""
    spec = resolve(f"{experiment}/{variant}", scale, 0, {"compute": {"device": device}})
    return spec.changed({"training": {"batch_size": spec.samples_at_once}})


def one(experiment: str, scale: str, device: torch.device, readings: int, ceiling: dict[str, float]) -> dict[str, Any]:
    """Baseline and blocks of one architecture."""
    baseline, blocks = ARCHITECTURES[experiment]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        paces = {}
        for key, variant in (("whole", baseline), ("block", blocks)):
            spec = spec_of(experiment, variant, scale, device.type)
            half = autocast(spec.compute, device)._enabled
            if key == "whole" and experiment == "huginn":  # of random depth: its mean, and no count of bytes
                counted = {"operations": steps_of(spec, vocabulary_size(spec.task.tokenizer)).whole}
            else:
                counted = counts(spec, Path(name) / f"{key}-counted", half)
            start = time.perf_counter()
            paces[key] = Pace(make_trainer(spec, device, Path(name) / key), device)
            found[key] = {"samples": spec.training.batch_size, **counted, "start_seconds": time.perf_counter() - start}
            if hasattr(spec.task, "length"):
                found[key]["tokens"] = spec.training.batch_size * spec.task.length
        times: dict[str, list[float]] = {key: [] for key in paces}
        for _ in range(readings):
            for key, pace in paces.items():
                times[key] += pace.read()
    for key, values in times.items():
        entry = found[key]
        entry["step_seconds"] = summary(values)
        median = entry["step_seconds"]["median"]
        entry["samples_per_second"] = entry["samples"] / median
        if "tokens" in entry:
            entry["tokens_per_second"] = entry["tokens"] / median
        floors = {c: entry[c] / ceiling[f"{c}_per_second"] for c in ("operations", "bytes") if c in entry}
        entry["floor_is"] = max(floors, key=floors.get)
        entry["floor_seconds"] = floors[entry["floor_is"]]
        entry["step_over_floor"] = median / entry["floor_seconds"]
        entry["share_of_matrix_rate"] = floors["operations"] / median
    return found


def measure(device: torch.device, scale: str, names: list[str], readings: int) -> Iterator[dict[str, Any]]:
    """All of them, one after another; gives what there is after each, so that what is cut off has shown something."""
    torch.set_num_threads(1)
    half = device.type == "cuda"
    ceiling = rates(device, torch.bfloat16 if half else torch.float32)
    found: dict[str, Any] = {}
    machine = describe(resolve("vit/end_to_end", scale).compute, device).model_dump()
    for name in names:
        found[name] = one(name, scale, device, readings, ceiling)
        print(name, {key: entry["step_seconds"]["median"] for key, entry in found[name].items()}, flush=True)
        gc.collect()
        if half:
            torch.cuda.empty_cache()
        yield {"benchmark": "architectures", "scale": scale, "rates": ceiling, "networks": found, "machine": machine}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--scale", choices=("smoke", "paper"), help="shapes (default: paper on CUDA, smoke on CPU)")
    parser.add_argument("--only", nargs="+", choices=tuple(ARCHITECTURES), default=list(ARCHITECTURES))
    parser.add_argument("--readings", type=int, default=5, help="of each; default: %(default)s")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    scale = options.scale or ("paper" if options.device == "cuda" else "smoke")
    for found in measure(torch.device(options.device), scale, options.only, options.readings):
        text = json.dumps(found, indent=1)
        if options.out:
            options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
