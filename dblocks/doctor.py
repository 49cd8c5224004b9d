"""`dblocks doctor`: what is here, what is missing for which table, and what a plan costs."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dblocks.data.files import free_bytes, readable
from dblocks.data.origins import WEIGHTS
from dblocks.data.registry import dataset
from dblocks.data.sources import availability
from dblocks.errors import UserError
from dblocks.identity import data_key
from dblocks.plan import Plan
from dblocks.spec import RunSpec
from dblocks.weights import is_here

PACKAGES = ("torch", "numpy", "pydantic", "snakemake", "snakemake-executor-plugin-slurm", "wandb")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `ok`, `missing` (some tables cannot run) or `note`."""

    subject: str
    state: str
    detail: str


def installation() -> Iterator[Finding]:
    """Python and the packages a plan needs."""
    yield Finding("Python", "ok" if sys.version_info >= (3, 11) else "missing", sys.version.split()[0])
    for package in PACKAGES:
        try:
            yield Finding(package, "ok", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, "missing", "not installed; run `make setup`")


def gpus() -> Iterator[Finding]:
    """GPUs of this machine; a login node need not have one."""
    import torch

    if not torch.cuda.is_available():
        yield Finding("GPU", "note", "none on this machine: scales short and paper need one where their jobs run")
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        yield Finding("GPU", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def slurm() -> Iterator[Finding]:
    """Whether `--profile slurm` finds a cluster."""
    if shutil.which("sbatch") is None:
        yield Finding("SLURM", "note", "no sbatch here: --profile slurm cannot be used, everything else can")
        return
    command = ["sinfo", "--noheader", "--format=%P %D nodes %G"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=15)
    except subprocess.TimeoutExpired:
        yield Finding("SLURM", "missing", "sinfo does not answer within 15 s")
        return
    if answer.returncode:
        yield Finding(
            "SLURM", "note", f"sbatch is here but no cluster answers ({answer.stderr.strip().splitlines()[-1]})"
        )
    else:
        yield Finding("SLURM", "ok", "; ".join(answer.stdout.split("\n")[:5]).strip("; "))


def wandb_login() -> Iterator[Finding]:
    """Whether `--config wandb=online` could log in; the key itself is never shown."""
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    known = bool(os.environ.get("WANDB_API_KEY")) or (netrc.is_file() and "wandb" in netrc.read_text(errors="ignore"))
    detail = "a key is there" if known else "no key: runs are written offline; `wandb login` to go online"
    yield Finding("W&B", "ok" if known else "note", detail)


def directories(plan: Plan) -> Iterator[Finding]:
    """Data directory, and disk against what the plan prepares and downloads."""
    line = plan.command_line
    here = Path(line.data_dir)
    yield Finding("data directory", "ok" if here.is_dir() else "note", str(here) if here.is_dir() else f"no {here} yet")
    downloads, arrays = room(plan, plan.datasets(), (path.stem for path in plan.published_weights()))
    place, free = free_bytes(Path(line.results_dir))
    state = "ok" if free > downloads + arrays else "missing"
    wanted = f"{readable(downloads)} to download, {readable(arrays)} for prepared data"
    yield Finding("disk", state, f"{readable(free)} free at {place}; {wanted}")


def data_sets(plan: Plan) -> Iterator[Finding]:
    """Every data set of the plan, and the tables that wait for it."""
    for key, data in plan.datasets().items():
        found = availability(data.name, Path(plan.command_line.data_dir), data.path and Path(data.path))
        tables = [name for name in plan.tables if key in data_of(plan, name)]
        state = "missing" if found.state == "needs a person" and not plan.manifest(key).exists() else "ok"
        prepared = ", prepared" if plan.manifest(key).exists() else ""
        yield Finding(f"data {key}", state, f"{found}{prepared}; for {', '.join(tables)}")


def published_weights(plan: Plan) -> Iterator[Finding]:
    """Published weights and tokenizers of the plan, and the tables that wait for them."""
    for name in (path.stem for path in plan.published_weights()):
        tables = f"for {', '.join(table for table in plan.tables if name in weights_of(plan, table))}"
        try:
            plan.check_weights(name)
        except UserError as error:
            token = os.environ.get("HF_TOKEN") or (Path.home() / ".cache/huggingface/token").exists()
            yield Finding(name, "missing", f"{error}; {'a' if token else 'no'} hub token is there; {tables}")
            continue
        here = f"downloadable, {readable(to_fetch(plan, name))}" if to_fetch(plan, name) else "here"
        yield Finding(name, "ok", f"{here}; {tables}")


def rows_runs(plan: Plan, target: str) -> list[str]:
    """The runs that rows read, each once: of a table, or of all of target `all`."""
    tables = plan.in_all if target == "all" else [target]
    read = (run for table in tables for run in plan.tables[table].runs)
    return list(dict.fromkeys(plan.run_of[run] for run in read if run in plan.run_of))


def runs_of(plan: Plan, target: str) -> set[str]:
    """A target's runs, and those that these need."""
    runs = set(rows_runs(plan, target))
    return runs | {needed for run in runs for needed in plan.needed[run].values()}


def data_of(plan: Plan, target: str) -> set[str]:
    """Prepared folders that a target's runs read."""
    return {data_key(plan.runs[run][0].data) for run in runs_of(plan, target)}


def weights_of(plan: Plan, target: str) -> set[str]:
    """Published weights and tokenizers that a target's runs read."""
    return {path.stem for path in plan.published_weights(runs_of(plan, target))}


def to_fetch(plan: Plan, name: str) -> int:
    """Bytes, about, of published weights that are not here."""
    here = plan.weights(name).exists() or is_here(name, Path(plan.command_line.data_dir))
    return 0 if here else WEIGHTS[name].bytes


def room(plan: Plan, keys: Iterable[str], weights: Iterable[str]) -> tuple[int, int]:
    """Bytes that data sets and weights still take: downloads that are not here, prepared arrays that are not."""
    downloads, arrays = sum(to_fetch(plan, name) for name in weights), 0
    for key in keys:
        data = plan.datasets()[key]
        origin = dataset(data.name).origin
        found = availability(data.name, Path(plan.command_line.data_dir), data.path and Path(data.path))
        downloads += origin.download_bytes if found.state == "downloadable" else 0
        arrays += 0 if plan.manifest(key).exists() else origin.prepared_bytes
    return downloads, arrays


def training_jobs(spec: RunSpec) -> int:
    """Jobs that train a run: one, or one a block."""
    return spec.num_blocks if spec.in_parallel else 1


def cost(plan: Plan, target: str) -> Mapping[str, str]:
    """Jobs, GPU-hours, disk and downloads of a table, whose runs may be shared with others, or of target `all`."""
    specs = [(run, spec) for run in rows_runs(plan, target) for spec in plan.runs[run]]
    waiting = [(run, spec) for run, spec in specs if not plan.is_recorded(run, spec.seed)]
    # what takes another run's weights is evaluated, in minutes; the other is trained, unless it has been
    training = {(plan.trainer_of(run, spec.seed) or run, spec.seed): spec for run, spec in waiting}
    training = {key: spec for key, spec in training.items() if not plan.is_recorded(*key)}
    hours = (
        sum(training_jobs(spec) * spec.gpu_count * spec.resources.runtime_minutes for spec in training.values()) / 60
    )
    downloads, arrays = room(plan, data_of(plan, target), weights_of(plan, target))
    return {
        "table": target,
        "runs": f"{len(specs)}, {len(waiting)} to do",
        "GPU-hours": f"≤ {hours:.0f}" if hours else "0",
        "to download": readable(downloads),
        "prepared data": readable(arrays),
    }


def report(plan: Plan) -> tuple[str, bool]:
    """All findings and costs as text, and whether nothing is missing."""
    rooms: list[Callable[[], Iterator[Finding]]] = [
        installation,
        gpus,
        slurm,
        wandb_login,
        lambda: directories(plan),
        lambda: data_sets(plan),
        lambda: published_weights(plan),
    ]
    findings = [finding for look in rooms for finding in look()]
    width = max(len(finding.subject) for finding in findings)
    lines = [plan.first_line(), ""]
    lines += [f"{finding.state:8}{finding.subject.ljust(width)}  {finding.detail}" for finding in findings]
    lines += [
        "",
        "Cost of what is not done yet (GPU-hours: a time limit for each job that trains, what should suffice):",
    ]
    costs = [cost(plan, target) for target in ("all", *plan.tables)]
    lines += ["  " + ", ".join(f"{key} {value}" for key, value in entry.items()) for entry in costs]
    return "\n".join(lines), all(finding.state != "missing" for finding in findings)
