"""A table's runs from data to records, timed end to end: every row a process of its own, as the pipeline starts it.

    python -m benchmarks.table_runs --data-dir DIR [--table TABLE] [--scale short|paper] [--share S] [--together]

For tables whose runs read no other run and no published weights (1, 3, 6, 9, choices). With a share of each row's
budget, its time at the whole budget is projected: the time of the process (start, compilation and evaluation once), and
the missing steps at the rate of those after the first line of the log; a projection is named so. Records lie where the
pipeline would put them, and those that are there are not made again. `--together` runs all rows of a seed at once, for
a small network leaves much of a GPU idle. Prints one JSON object with device and n, and writes it after every row.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dblocks.budget import probe_steps, total_steps
from dblocks.config import merge, resolve
from dblocks.identity import data_key, run_name, weights_identity
from dblocks.needs import TRAINED
from dblocks.reading import parse_yaml
from dblocks.record import RECORD, Record, read_record
from dblocks.runlog import read_log
from dblocks.spec import ContrastiveForwardForwardSpec, DataSpec, RunSpec
from dblocks.tables import load_tables


def prepared(results: Path, data_dir: Path, data: DataSpec) -> Path:
    """The manifest of the prepared data."""
    folder = results / "data" / data_key(data)
    if (folder / "manifest.json").exists():
        return folder / "manifest.json"
    own = ["--path", data.path, "--title", data.title] if data.path else []
    verb = ["prepare", data.name, "--data-dir", data_dir, "--folder", folder, *own]
    subprocess.run([sys.executable, "-m", "dblocks", *map(str, verb)], check=True)
    return folder / "manifest.json"


def cut(whole: RunSpec, share: float) -> RunSpec:
    """The same run of fewer epochs, all its phases cut alike: an average step then costs what it does in the whole."""
    epochs = {name: getattr(whole.training, name) * share for name in ("epochs", "warmup_epochs")}
    fields: dict[str, Any] = {"training": epochs}
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
    """The runs of a seed."""
    runs, trainers = [], {}  # rows that differ in how they predict alone are trained once
    for row in options.rows or load_tables()[options.table].runs:
        whole = resolve(row, options.scale, seed, merge({"compute": {"device": options.device}}, options.override))
        if whole.needed_runs() or whole.needed_weights():
            raise SystemExit(f"{row} reads other runs or published weights: use snakemake")
        spec = cut(whole, options.share) if options.share < 1 else whole
        folder = options.results / options.scale / "runs" / run_name(spec) / f"seed{seed}"
        trainer = trainers.setdefault(weights_identity(spec), folder / RECORD)
        runs.append(Planned(row, spec, whole, folder, trainer))
    return runs


def missing_seconds(run: Planned, record: Record) -> float | None:
    """Seconds of the steps that the whole budget has more, at the rate of those that were logged.

    By phase (a probe's steps cost less), and after a phase's first line, before which its code is compiled; None where
    a phase has but one.
    """
    if record.trained_as:
        return 0.0
    log, start, missing = read_log(run.folder / "log.jsonl"), 0, 0.0
    probe, whole_probe = probe_steps(run.spec), probe_steps(run.whole)
    for done, whole in (
        (record.steps - probe, total_steps(run.whole) - whole_probe),
        (probe, whole_probe),
    ):
        lines = [line for line in log if start < line["step"] <= start + done]
        start += done
        if whole > done:
            if len(lines) < 2:
                return None
            first, last = lines[0], lines[-1]
            missing += (whole - done) * (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])
    return missing


def timed(run: Planned, manifest: Path) -> dict[str, Any] | None:
    """Make a run: its seconds, those of the whole budget, what its record says; None if it fails.

    Of one that was there, or had begun, the seconds are its record's, which know of no start.
    """
    seconds, begun = None, any(run.folder.glob("step-*.pt"))
    if not (run.folder / RECORD).exists():
        try:
            seconds = timed_run(run.spec, run.folder, manifest, run.trainer)
        except subprocess.CalledProcessError:
            print(f"failed: {run.row}, seed {run.spec.seed}", flush=True)
            return None
    record = read_record(run.folder / RECORD)
    if seconds is None or begun:
        seconds = (0 if record.trained_as else record.train_seconds) + record.evaluate_seconds
    missing = missing_seconds(run, record)
    found = {
        "seed": record.spec.seed,
        "seconds": seconds,
        "train_seconds": record.train_seconds,
        "evaluate_seconds": record.evaluate_seconds,
        "steps": record.steps,
        "share_of_paper": record.budget,
        "trained_as": record.trained_as,
        "metrics": {metric.name: metric.value for metric in record.metrics},
        "projected_seconds": None if missing is None else seconds + missing,
        "machine": record.machine.model_dump(),
    }
    print(run.row, json.dumps(found), flush=True)
    return found


def projected(parts: list[list[float | None]], together: bool) -> float | None:
    """Seconds of all runs at their whole budgets: parts one after another, in each the runs one after another or at
    once; None if one of them is not known."""
    if any(None in part for part in parts):
        return None
    return sum(max(part, default=0.0) if together else sum(part) for part in parts)


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every row's seconds: of the process, of training alone, and of the whole budget; and those of all, so far."""
    rows: dict[str, Any] = {}
    failed: list[str] = []
    parts: list[list[float | None]] = []
    start = time.perf_counter()
    for seed in range(options.seeds):
        runs = planned(options, seed)
        for part in ([run for run in runs if run.trains], [run for run in runs if not run.trains]):
            manifests = [prepared(options.results, options.data_dir, run.spec.data) for run in part]
            parts.append([])
            with ThreadPoolExecutor(max(1, len(part)) if options.together else 1) as pool:
                for run, entry in zip(part, pool.map(timed, part, manifests), strict=True):
                    if entry is None:
                        failed.append(f"{run.row}, seed {seed}")
                    else:
                        rows.setdefault(run.row, []).append(entry)
                        parts[-1].append(entry["projected_seconds"])
                    about = {"benchmark": "table_runs", "table": options.table, "scale": options.scale, "rows": rows}
                    whole = {
                        "seconds": time.perf_counter() - start,
                        "projected_seconds": projected(parts, options.together),
                    }
                    yield {**about, "failed": failed, "together": options.together, **whole}


def share(text: str) -> float:
    """A share of a budget, above 0 and at most 1."""
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: above 0 and at most 1")
    return float(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="where data sets lie (DATA.md)")
    parser.add_argument("--table", choices=tuple(load_tables()), default="table_1")
    parser.add_argument("--scale", choices=("short", "paper"), default="paper")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--share", type=share, default=1.0, help="of each row's budget (default: all)")
    parser.add_argument("--override", type=parse_yaml, default={}, help="fields of all runs, as '{data: {…}}'")
    parser.add_argument("--rows", nargs="+", metavar="RUN", help="such as vit/end_to_end (default: all of the table)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--together", action="store_true", help="all rows of a seed at once, on one GPU")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for found in measure(options):
        if options.out:
            options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    if found["failed"]:
        raise SystemExit(f"failed: {'; '.join(found['failed'])}")


if __name__ == "__main__":
    main()
