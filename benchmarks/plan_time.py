"""Seconds to plan and to build all tables, at the default seeds and rows, at 10 times the seeds, at 10 times the rows.

    python -m benchmarks.plan_time [--repeats N] [--out FILE]

For each of the three: `make_plan` in this process, with its files read anew; a real `snakemake -n all`, of a plan that
was never written and of the same again; and all tables from made-up records of every run and seed, in a process of its
own. Ten times the rows are nine more copies of every experiment with another weight decay, and of every row. Prints
one JSON object; `growth` is the median time over that of the default, to be read beside the factor of what was planned.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from dblocks.config import load_experiments, load_scales, merge
from dblocks.machine import describe
from dblocks.measure.request import load_measurements
from dblocks.plan import Plan
from dblocks.planning import make_plan
from dblocks.record import write_record
from dblocks.spec import ComputeSpec
from dblocks.tables import Table
from tests.workflow.helpers import call, copy_repository, record_of, snakemake

TIMES = 10


def more_rows(config: Path) -> None:
    """Give a configuration ten times its experiments and its tables' rows."""
    for path in sorted((config / "runs").glob("*.yaml")):
        experiment = yaml.safe_load(path.read_text())
        for k in range(1, TIMES):
            name = f"{experiment['experiment']}_{k}"
            own = {"base": {"training": {"weight_decay": 0.5 + k / 1000}}}
            scales = {scale: merge(section, own) for scale, section in experiment.get("scales", {}).items()}
            copy = merge(experiment, own) | {"experiment": name, "scales": scales}
            (path.parent / f"{name}.yaml").write_text(yaml.safe_dump(copy))
    for path in sorted((config / "tables").glob("*.yaml")):
        table = yaml.safe_load(path.read_text())
        table["rows"] += [copied(row, k) for k in range(1, TIMES) for row in table["rows"]]
        path.write_text(yaml.safe_dump(table))


def copied(row: dict, k: int) -> dict:
    """A row of the k-th copy of its experiment."""

    def renamed(run: str) -> str:
        experiment, _, variant = run.partition("/")
        return f"{experiment}_{k}/{variant}"

    new = row | {"row": f"copy {k} of {row['row']}"}
    if "run" in row:
        new["run"] = renamed(row["run"])
    if "reads" in row:
        reads = row["reads"].items()
        new["reads"] = {key: one | ({"run": renamed(one["run"])} if "run" in one else {}) for key, one in reads}
    return new


def metrics_of(tables: dict[str, Table]) -> dict[str, dict[str, float]]:
    """Something for every column that reads a run, by run."""
    values: dict[str, dict[str, float]] = {}
    for table in tables.values():
        for row in table.rows:
            for run, read in map(row.reading, table.columns):
                if run is not None:
                    values.setdefault(run, {})[read.metric] = 1.0
    return values


def write_records(plan: Plan, folder: Path) -> int:
    """A made-up record of every run and seed that a table reads; returns how many."""
    values, written = metrics_of(plan.tables), 0
    for row_run, run in plan.run_of.items():
        for spec in plan.runs[run]:
            path = folder / plan.command_line.scale / "runs" / run / f"seed{spec.seed}" / "record.json"
            if not path.exists():
                write_record(path, record_of(spec, values[row_run], plan.config_dir))
                written += 1
    return written


def seconds(repeats: int, work: Callable[[], object]) -> dict[str, float]:
    """Median, spread and count of the time that `work` takes."""
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return {"median": statistics.median(taken), "min": min(taken), "max": max(taken), "n": repeats}


def plan_anew(line: dict, config: Path) -> Plan:
    """A plan whose configuration is read from its files, as a new process would."""
    for cached in (load_experiments, load_scales, load_measurements):
        cached.cache_clear()
    return make_plan(line, config)


def must_succeed(process) -> None:
    """Raises: SystemExit with what a process said, if it failed."""
    if process.returncode:
        raise SystemExit(process.stderr[-2000:])


def measured(repeats: int, seeds: int, rows: int) -> dict[str, object]:
    """All times at so many times the seeds and the rows."""
    with tempfile.TemporaryDirectory() as name:
        clone = copy_repository(Path(name) / "clone")
        if rows > 1:
            more_rows(clone / "config")
        line = {"seeds": seeds, "results_dir": str(Path(name) / "results")}
        plan = plan_anew(line, clone / "config")
        records = write_records(plan, Path(name) / "records")

        def dry_run() -> None:
            must_succeed(snakemake(clone, "-n", "all", "--config", f"seeds={seeds}", timeout=600))

        def tables() -> None:
            arguments = ("tables", "--from-records", Path(name) / "records", "--to", Path(name) / "tables")
            must_succeed(call("dblocks", clone, *arguments, timeout=600, PYTHONPATH=str(clone)))

        return {
            "rows": sum(len(table.rows) for table in plan.tables.values()),
            "jobs": sum(map(len, plan.runs.values())),
            "records": records,
            "make_plan": seconds(repeats, lambda: plan_anew(line, clone / "config")),
            "snakemake -n all, first": seconds(1, dry_run),
            "snakemake -n all, again": seconds(repeats, dry_run),
            "tables --from-records": seconds(repeats, tables),
        }


def growth(case: dict, default: dict) -> dict[str, float]:
    """How many times the default's there is of everything, medians of times."""

    def number(value: dict[str, float] | int) -> float:
        return value["median"] if isinstance(value, dict) else value

    return {key: round(number(case[key]) / number(default[key]), 2) for key in default}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="how often each is timed (default: 3)")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    cases = {"default": (1, 1), f"seeds x {TIMES}": (TIMES, 1), f"rows x {TIMES}": (1, TIMES)}
    load = os.getloadavg()[0]
    found = {name: measured(options.repeats, *case) for name, case in cases.items()}
    result = {
        "benchmark": "plan_time",
        "scale": "smoke",
        "seconds": found,
        "growth": {name: growth(case, found["default"]) for name, case in found.items() if name != "default"},
        "load when it began": load,
        "machine": describe(ComputeSpec(device="cpu"), torch.device("cpu")).model_dump(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
