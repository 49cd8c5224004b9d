"""Where a training step's time goes: its kernels by name, number and microseconds, beside the time of the whole step.

    python -m benchmarks.step_profile [--only NAME] [--device cpu|cuda] [--scale smoke|paper] [--override YAML]

Of the baseline and of the blocks in turn, after their kernels are compiled and graphs recorded. Time within kernels is
the profiler's, a step's whole time is read without it. On a CPU the operators stand for kernels. Prints one JSON object
with device and n.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.architectures import ARCHITECTURES, spec_of
from benchmarks.step_time import summary
from dblocks.machine import describe
from dblocks.measure.wall_time import Pace, make_trainer
from dblocks.reading import parse_yaml


def kernels_of(pace: Pace, device: torch.device) -> tuple[list[dict[str, Any]], int]:
    """The kernels of one reading, dearest first: name, how many and microseconds a step; and of how many steps."""
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        pace.read()
    steps = pace.together * pace.round
    found = []
    for event in profiler.key_averages():
        if event.device_type != (DeviceType.CUDA if cuda else DeviceType.CPU):
            continue
        microseconds = event.self_device_time_total if cuda else event.self_cpu_time_total
        found.append({"name": event.key, "count": event.count / steps, "microseconds": microseconds / steps})
    return sorted(found, key=lambda kernel: -kernel["microseconds"]), steps


def one(pace: Pace, device: torch.device, readings: int, most: int) -> dict[str, Any]:
    """A step's time, that of its kernels, and the dearest of them by name."""
    times = [seconds for _ in range(readings) for seconds in pace.read()]
    kernels, steps = kernels_of(pace, device)
    return {
        "step_seconds": summary(times),
        "profiled_steps": steps,
        "kernels": sum(kernel["count"] for kernel in kernels),
        "kernel_seconds": sum(kernel["microseconds"] for kernel in kernels) / 1e6,
        "dearest": kernels[:most],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("--only", choices=tuple(ARCHITECTURES), default="vit", help="(default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--scale", choices=("smoke", "paper"), help="shapes (default: paper on CUDA, smoke on CPU)")
    parser.add_argument("--override", default="{}", help="fields of both runs, as '{compute: {compile: blocks}}'")
    parser.add_argument("--readings", type=int, default=5, help="of a step's time; default: %(default)s")
    parser.add_argument("--most", type=int, default=40, help="kernels named; default: %(default)s")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    device = torch.device(options.device)
    scale = options.scale or ("paper" if options.device == "cuda" else "smoke")
    override = parse_yaml(options.override)
    about: dict[str, Any] = {"benchmark": "step_profile", "network": options.only, "scale": scale, "override": override}
    for key, variant in zip(("whole", "block"), ARCHITECTURES[options.only], strict=True):
        spec = spec_of(options.only, variant, scale, options.device).changed(override)
        with tempfile.TemporaryDirectory() as name:
            pace = Pace(make_trainer(spec, device, Path(name) / key), device)
            about[key] = one(pace, device, options.readings, options.most)
    text = json.dumps({**about, "machine": describe(spec.compute, device).model_dump()}, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
