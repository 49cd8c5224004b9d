"""The measurements that tables read, as the pipeline takes them, without Snakemake: memory, wall time, operations.

    python -m benchmarks.measurements --results DIR [--scale SCALE] [--device DEVICE] [--kind KIND]

On CUDA those of memory have the allocator's peaks beside what is accounted. Each lies where the pipeline would put it;
one that is there is not taken again, and one that fails, for want of memory say, is named and left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import torch

from dblocks.data.files import write_atomically
from dblocks.measure.request import REQUEST, MeasurementSpec
from dblocks.planning import make_plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--scale", default="paper")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--kind", choices=get_args(MeasurementSpec.model_fields["kind"].annotation), help="default: all"
    )
    options = parser.parse_args()
    plan = make_plan({"scale": options.scale, "device": options.device, "results_dir": str(options.results)})
    failed = []
    for name, request in plan.measurements.items():
        if options.kind not in (None, request.kind):
            continue
        path = plan.measurement(name)
        start = time.perf_counter()
        if not path.exists():
            write_atomically(path.with_name(REQUEST), request.model_dump_json(indent=1) + "\n")
            # a process each: a peak is the process's, and what one leaves behind is not the next one's
            call = [sys.executable, "-m", "dblocks", "measure", str(path.with_name(REQUEST))]
            subprocess.run(call, check=False)
        failed += [] if path.exists() else [name]
        print(f"{path if path.exists() else 'failed'} {name} {time.perf_counter() - start:.0f} s", flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
