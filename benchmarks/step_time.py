"""Seconds per training step: the paper's ViT against its blocks (the comparison of Table 12), as JSON.

    python -m benchmarks.step_time [--device cpu|cuda] [--steps N] [--override YAML] [--inductor YAML] [--out FILE]

`snakemake table_12` takes the same measurement and makes a table of it; this is for trying out a machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from dblocks.command_line import CommandLine
from dblocks.machine import describe
from dblocks.measure.request import make_request
from dblocks.measure.wall_time import measure
from dblocks.reading import parse_yaml


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, spread and count."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default)
    parser.add_argument("--steps", type=int, help="timed steps (default: 10 on CPU, 100 on CUDA)")
    parser.add_argument("--override", default="{}", help="fields of both runs, as '{compute: {deterministic: true}}'")
    parser.add_argument("--inductor", default="{}", help="settings of PyTorch's compiler, as '{combo_kernels: true}'")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    device = torch.device(options.device)
    override, inductor = parse_yaml(options.override), parse_yaml(options.inductor)
    if inductor:
        from torch._inductor import config

        if unknown := inductor.keys() - config.get_config_copy().keys():
            parser.error(f"--inductor: PyTorch's compiler has no setting {', '.join(sorted(unknown))}")
        config.load_config(inductor)
    request = make_request("time_vit", CommandLine(scale="paper", device=options.device, override=override))
    settings = {"iterations": options.steps or (100 if device.type == "cuda" else 10)}
    request = request.model_copy(update={"settings": request.settings.model_copy(update=settings)})
    shape, metrics = measure(request, device)
    found = {metric.name: metric.model_dump(include={"value", "unit", "spread", "samples"}) for metric in metrics}
    machine = describe(request.spec.compute, device).model_dump()
    about = {"benchmark": "step_time", "shape": shape, "override": override, "inductor": inductor}
    text = json.dumps({**about, "metrics": found, "machine": machine}, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
