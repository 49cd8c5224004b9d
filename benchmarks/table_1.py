"""Table 1 from its data to its records, timed end to end: every row a process of its own, as the pipeline starts it.

    python -m benchmarks.table_1 --data-dir DIR [--scale short|paper] [--epochs N] [--rows RUN …] [--together]

With fewer epochs than the scale's, each row's time at the whole budget is projected from the time of its steps and that
of the rest (start, compilation, evaluation); a projection is named so. Records lie where the pipeline would put them,
and those that are there are not made again. `--together` runs all rows of a seed at once, for one of these networks
leaves much of a GPU idle. Prints one JSON object with device and n.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dblocks.budget import total_steps
from dblocks.config import resolve
from dblocks.identity import run_name, weights_identity
from dblocks.needs import TRAINED
from dblocks.record import RECORD, read_record
from dblocks.spec import ContrastiveForwardForwardSpec, RunSpec
from dblocks.tables import load_tables


def prepared(results: Path, data_dir: Path, name: str) -> Path:
    """The manifest of the prepared data."""
    folder = results / "data" / name
    if (folder / "manifest.json").exists():
        return folder / "manifest.json"
    verb = ["prepare", name, "--data-dir", data_dir, "--folder", folder]
    subprocess.run([sys.executable, "-m", "dblocks", *map(str, verb)], check=True)
    return folder / "manifest.json"


def cut(whole: RunSpec, epochs: float) -> RunSpec:
    """The same run of fewer epochs, all its phases cut alike: an average step then costs what it does in the whole."""
    share = epochs / whole.training.epochs
    fields: dict[str, Any] = {"training": {"epochs": epochs, "warmup_epochs": whole.training.warmup_epochs * share}}
    if isinstance(whole.method, ContrastiveForwardForwardSpec):
        fields["method"] = {"probe_epochs": whole.method.probe_epochs * share}
    return whole.changed(fields)


def timed_run(spec: RunSpec, folder: Path, manifest: Path, trainer: Path) -> float:
    """Seconds of a whole process that brings a run to its record; the weights are another's where `trainer` is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(spec.model_dump_json(indent=1) + "\n")
    start = time.perf_counter()
    verb = ["run", folder / "spec.json", "--data", manifest, "--wandb", "off"]
    if trainer != folder / RECORD:
        verb += ["--need", f"{TRAINED}={trainer}"]
    subprocess.run([sys.executable, "-m", "dblocks", *map(str, verb)], check=True)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Planned:
    """A row's run of one seed: as it is made, as it would be whole, where, and whose weights it has."""

    row: str
    spec: RunSpec
    whole: RunSpec
    folder: Path
    trainer: Path

    @property
    def trains(self) -> bool:
        return self.trainer == self.folder / RECORD


def planned(options: argparse.Namespace, seed: int) -> list[Planned]:
    """The runs of a seed that have no record yet."""
    runs, trainers = [], {}  # rows that differ in how they predict alone are trained once
    for row in options.rows or load_tables()["table_1"].runs:
        whole = resolve(row, options.scale, seed, {"compute": {"device": options.device}})
        spec = cut(whole, options.epochs) if options.epochs else whole
        folder = options.results / options.scale / "runs" / run_name(spec) / f"seed{seed}"
        trainer = trainers.setdefault(weights_identity(spec), folder / RECORD)
        runs.append(Planned(row, spec, whole, folder, trainer))
    return [run for run in runs if not (run.folder / RECORD).exists()]


def timed(run: Planned, manifest: Path) -> dict[str, Any]:
    """Make a run: its seconds, those of the whole budget, what its record says."""
    seconds = timed_run(run.spec, run.folder, manifest, run.trainer)
    record = read_record(run.folder / RECORD)
    a_step = 0 if record.trained_as else record.train_seconds / record.steps
    found = {
        "seed": record.spec.seed,
        "seconds": seconds,
        "train_seconds": record.train_seconds,
        "evaluate_seconds": record.evaluate_seconds,
        "steps": record.steps,
        "share_of_paper": record.budget,
        "trained_as": record.trained_as,
        "metrics": {metric.name: metric.value for metric in record.metrics},
        "projected_seconds": seconds + (total_steps(run.whole) - record.steps) * a_step,
        "machine": record.machine.model_dump(),
    }
    print(run.row, json.dumps(found), flush=True)
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every row's seconds: of the process, of training alone, and of the whole budget; and those of all."""
    rows: dict[str, Any] = {}
    start, projected = time.perf_counter(), 0.0
    for seed in range(options.seeds):
        runs = planned(options, seed)
        for part in ([run for run in runs if run.trains], [run for run in runs if not run.trains]):
            manifests = [prepared(options.results, options.data_dir, run.spec.data.name) for run in part]
            with ThreadPoolExecutor(max(1, len(part)) if options.together else 1) as pool:
                found = list(pool.map(timed, part, manifests))
            for run, entry in zip(part, found, strict=True):
                rows.setdefault(run.row, []).append(entry)
            times = [entry["projected_seconds"] for entry in found]
            projected += max(times, default=0) if options.together else sum(times)
    whole = {"together": options.together, "seconds": time.perf_counter() - start, "projected_seconds": projected}
    return {"benchmark": "table_1", "scale": options.scale, "rows": rows, **whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="where cifar100 lies (DATA.md)")
    parser.add_argument("--scale", choices=("short", "paper"), default="paper")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--epochs", type=float, help="instead of the scale's; warm-up is as large a share of them")
    parser.add_argument("--rows", nargs="+", metavar="RUN", help="such as vit/end_to_end (default: all of the table)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--together", action="store_true", help="all rows of a seed at once, on one GPU")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    text = json.dumps(measure(options), indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
