"""A copy of the repository to work on, real Snakemake and `dblocks` processes in it, records made by hand."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dblocks.budget import budget_fraction
from dblocks.claims import TablePlan, load_claims
from dblocks.config import CONFIG_DIR, resolve
from dblocks.identity import code_versions, identity
from dblocks.record import Machine, Metric, Record, write_record
from dblocks.report.build_tables import build_table
from dblocks.spec import RunSpec
from dblocks.tables import load_tables

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = ("max_steps=2", "max_samples=4", "wandb=off")  # of `--config`: a run takes a second once its job has started
BUILT = ("table_1", "table_2")  # between them every task, every kind of node; more tables would only take time
UNITS = {"sigma_max_ce": "nats", "ce": "nats"}


def copy_repository(target: Path) -> Path:
    """All files that git tracks or would track, without results: a fresh clone of the working tree."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for name in filter(None, listing.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, target / name)
    return target


def hear() -> None:
    """In a new process: signals that were ignored where the tests were started, as in a shell's background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without what steers W&B, Snakemake or dblocks; one thread, no GPU, this package."""
    foreign = ("WANDB_", "SNAKEMAKE_", "DBLOCKS_", "PYTHONPATH", "PYTHONSAFEPATH")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
    return kept | own | extra


def call(module: str, folder: Path, *arguments: object, timeout: float = 120, **extra: str):
    """`python -m <module> <arguments>` in `folder`, with nothing to read from a terminal."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=folder,
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def snakemake(folder: Path, *arguments: object, timeout: float = 240, cores: int = 1, **extra: str):
    """Real Snakemake."""
    return call("snakemake", folder, "--cores", cores, *arguments, timeout=timeout, **extra)


def dblocks(folder: Path, *arguments: object, **extra: str):
    """The package's own command line."""
    return call("dblocks", folder, *arguments, **extra)


def edit(path: Path, old: str, new: str) -> None:
    """Replace text that must be there exactly once."""
    text = path.read_text()
    assert text.count(old) == 1, f"{path} holds {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new))


def files_below(folder: Path) -> set[str]:
    """Relative paths of all files, without what Snakemake and Python keep for themselves."""
    own = {".snakemake", "__pycache__"}
    relative = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {str(path) for path in relative if not own & set(path.parts)}


def one_line(process: subprocess.CompletedProcess, code: int = 2) -> str:
    """The single line on stderr of a process that ended with `code`."""
    lines = [line for line in process.stderr.splitlines() if line.strip()]
    assert process.returncode == code, process.stderr[-2000:]
    assert len(lines) == 1, process.stderr[-2000:]
    assert lines[0].startswith("dblocks: ")
    return lines[0]


def make_record(
    run: str = "vit/end_to_end",
    scale: str = "smoke",
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    **values: float,
) -> Record:
    """A record as a run would leave it, with `values` as its metrics."""
    return record_of(resolve(run, scale, seed, overrides), values or {"accuracy": 90.0 + seed})


def record_of(spec: RunSpec, values: Mapping[str, float], config_dir: Path = CONFIG_DIR) -> Record:
    """A record of `spec` with `values` as its metrics."""
    return Record(
        identity=identity(spec),
        spec=spec,
        code_versions=code_versions(spec),
        data_checksum="0" * 64,
        metrics=[
            Metric(name=name, value=value, unit=UNITS.get(name, "%"), dataset=spec.data.name, split="test", samples=360)
            for name, value in values.items()
        ],
        evaluations_per_block=None,
        steps=1,
        parameters=1,
        budget=budget_fraction(spec, config_dir),
        train_seconds=1.5,
        evaluate_seconds=0.5,
        peak_memory_bytes=2**20,
        machine=Machine(device="CPU", threads=1, python="3.11", torch="2.6", commit=None),
        finished=datetime(2026, 1, 2, tzinfo=UTC),
        wandb_id="id",
        weights="weights-0123456789abcdef.pt",
    )


def save_records(folder: Path, records: list[Record]) -> list[Path]:
    """Write records as a pipeline would: one folder a run, one a seed."""
    paths = []
    for record in records:
        spec = record.spec
        run = f"{spec.experiment}-{spec.variant}-{record.identity[:8]}"
        paths.append(folder / spec.scale / "runs" / run / f"seed{spec.seed}" / "record.json")
        write_record(paths[-1], record)
    return paths


def build_of(folder: Path, records: list[Record], scale: str, missing: Mapping[str, str] | None = None) -> Path:
    """table_1 built of `records`, as a pipeline would; returns the folder of its files."""
    found: dict[str, list[str]] = {}
    for path, record in zip(save_records(folder, records), records, strict=True):
        found.setdefault(f"{record.spec.experiment}/{record.spec.variant}", []).append(str(path))
    tables = load_tables()
    claims = [claim for claim in load_claims(tables) if claim.table == "table_1"]
    plan = TablePlan(scale=scale, table=tables["table_1"], claims=claims, records=found, missing=dict(missing or {}))
    return build_table(plan, folder / "tables")[0].parent
