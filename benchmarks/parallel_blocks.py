"""Two blocks as two parallel jobs against one job that trains both in turn, at equal updates a block.

    python -m benchmarks.parallel_blocks [--epochs N] [--out FILE]

A DiT of smoke's kind on digits, B = 2, isolated blocks. `parallel` is two `dblocks block` processes on a core each,
then `dblocks run`, which joins and evaluates; `sampled` is one `dblocks run` on 1 thread, and again on 2: the faster
one counts. Wall time from the first process's start to the record, less the evaluation, which both have in common.
Prints one JSON object with times, quality, machine and load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dblocks.config import resolve
from dblocks.data.prepare import prepare
from dblocks.record import RECORD, Record, read_record
from dblocks.spec import RunSpec

BLOCKS = 2


def run_spec(epochs: float, threads: int, schedule: str) -> RunSpec:
    """The DiT in two isolated blocks of six layers."""
    isolated = {"num_blocks": BLOCKS, "embedders": "own", "target_table": "frozen", "block_order": "turns"}
    fields = {
        "method": {**isolated, "schedule": schedule},
        "training": {"epochs": epochs},
        "compute": {"threads": threads},
    }
    return resolve("dit_cifar10/diffusion_blocks", "smoke", 0, fields)


def start(*arguments: object, threads: int = 1) -> subprocess.Popen:
    """One `dblocks` process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "DBLOCKS_WANDB": "off"}
    return subprocess.Popen([sys.executable, "-m", "dblocks", *map(str, arguments)], env=environment)


def finish(*processes: subprocess.Popen) -> None:
    """Wait for processes. Raises: SystemExit if one failed."""
    if any(process.wait() for process in processes):
        sys.exit("parallel_blocks: a process failed, see above")


class Bench:
    """A folder with data, the classifier that FID needs, and the runs."""

    def __init__(self, folder: Path, epochs: float):
        self.folder, self.epochs = folder, epochs
        self.data = prepare("digits", None, folder / "data" / "digits")
        self.classifier = self.write(resolve("classifier/pixels", "smoke"), "classifier")
        finish(start("run", self.classifier, "--data", self.data, "--quiet"))

    def write(self, spec: RunSpec, name: str) -> Path:
        path = self.folder / name / "spec.json"
        path.parent.mkdir(parents=True)
        path.write_text(spec.model_dump_json())
        return path

    def evaluate(self, path: Path, threads: int) -> None:
        """Train (or join) and evaluate."""
        need = f"extractor={self.classifier.with_name(RECORD)}"
        finish(start("run", path, "--data", self.data, "--quiet", "--need", need, threads=threads))

    def sampled(self, threads: int) -> tuple[float, Record]:
        """Seconds without evaluation, and the record, of one job that trains both blocks."""
        path = self.write(run_spec(self.epochs, threads, "sampled"), f"sampled{threads}")
        begin = time.monotonic()
        self.evaluate(path, threads)
        return self.training_seconds(begin, path)

    def parallel(self) -> tuple[float, Record]:
        """The same of one job a block, and the one that joins them."""
        path = self.write(run_spec(self.epochs, 1, "parallel"), "parallel")
        begin = time.monotonic()
        finish(*(start("block", path, block, "--data", self.data, "--quiet") for block in range(1, BLOCKS + 1)))
        self.evaluate(path, 1)
        return self.training_seconds(begin, path)

    def training_seconds(self, begin: float, path: Path) -> tuple[float, Record]:
        record = read_record(path.with_name(RECORD))
        return time.monotonic() - begin - record.evaluate_seconds, record


def quality(record: Record) -> dict[str, float]:
    """FID and KID by the classifier's features."""
    return {metric.name: metric.value for metric in record.metrics if metric.extractor}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=float, default=200, help="of the baseline; a block gets as many (%(default)s)")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        bench, load = Bench(Path(name), options.epochs), os.getloadavg()
        seconds_parallel, parallel = bench.parallel()
        sampled = {threads: bench.sampled(threads) for threads in (1, 2)}
    fastest = min(seconds for seconds, _ in sampled.values())
    found = {"parallel": (seconds_parallel, parallel), **{f"sampled, {n} threads": each for n, each in sampled.items()}}
    result = {
        "benchmark": "parallel_blocks",
        "blocks": BLOCKS,
        "updates_per_block": parallel.steps // BLOCKS,
        "seconds": {name: seconds for name, (seconds, _) in found.items()},
        "ratio": seconds_parallel / fastest,
        "quality": {name: quality(record) for name, (_, record) in found.items()},
        "machine": parallel.machine.model_dump(),
        "load_before": load,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
