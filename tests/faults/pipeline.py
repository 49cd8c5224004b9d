"""The whole pipeline is hurt: Snakemake is killed; SLURM requeues, preempts, or ends a job at its time limit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.outcome import Outcome
from tests.slurm import cluster
from tests.slurm.test_slurm_pipeline import (
    GPU,
    finish,
    folder_of,
    one_run_table,
    start,
    wait_for_steps,
    weights_of,
    without_slurm,
)
from tests.workflow.helpers import copy_repository, environment

RUN = "end_to_end"


def logged_once(clone: Path) -> bool:
    """Whether every step stands once in the run's log."""
    lines = [json.loads(line) for line in (folder_of(clone, RUN) / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    return steps == sorted(set(steps))


def sigkill_of_snakemake(place: Path) -> Outcome:
    """Snakemake is killed while a job runs, and called again, with --unlock, as it asks for, in between."""
    outcome = Outcome("SIGKILL of Snakemake while a job runs", "no two writers, nothing lost, nothing trained twice")
    clone = copy_repository(place / "clone")
    one_run_table(clone)
    override = "{training: {max_steps: 700}, logging: {log_every: 5}}"

    def snakemake(*options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "table_1", *options]
        command += ["--config", "wandb=off", f"override={override}"]
        with open(clone / "snakemake.out", "w") as out:
            return subprocess.Popen(command, cwd=clone, env=environment(), stdout=out, stderr=subprocess.STDOUT)

    def ended(process: subprocess.Popen) -> str:
        return finish(process, clone, 200)

    first = snakemake()
    wait_for_steps(clone, RUN, 30, first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    owner = folder_of(clone, RUN) / "owner.json"
    said = ended(snakemake())
    outcome.note("--unlock" in said, said[-300:])
    ended(snakemake("--unlock"))
    if owner.exists():  # the trainer has outlived Snakemake: the second is told so and does not write
        said = ended(snakemake("--show-failed-logs", "--rerun-incomplete"))
        outcome.note("in use by process" in said, said[-300:])
    deadline = time.monotonic() + 200
    while owner.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    weights = next(folder_of(clone, RUN).glob("weights-*.pt")).stat().st_mtime_ns
    last = snakemake("--rerun-incomplete")
    said = ended(last)
    untouched = next(folder_of(clone, RUN).glob("weights-*.pt")).stat().st_mtime_ns == weights
    same = last.returncode == 0 and untouched and weights_of(clone, RUN) == without_slurm(clone, override)
    outcome.note(same and logged_once(clone), said[-300:])
    return outcome


def on_slurm(place: Path, outcome: Outcome, minutes: int, training: str, hurt: Callable[[Path, int], None]) -> Outcome:
    """One run as a SLURM job that is hurt in mid-training; the same job must end with the bits of one left alone."""
    clone = copy_repository(place / "clone")
    one_run_table(clone)
    override = f"{{{GPU % minutes}, training: {{{training}}}, logging: {{log_every: 5}}}}"
    with cluster.running():
        options = ("--default-resources", "slurm_extra='--signal=TERM@20'", "mem_mb=500")
        process = start(clone, "table_1", "scale=smoke", "wandb=off", f"override={override}", options=options)
        wait_for_steps(clone, RUN, 50, process)
        (job,) = cluster.job_ids()
        hurt(clone, job)
        output = finish(process, clone, 600)
        restarts = cluster.call("scontrol", "show", "job", str(job)).partition("Restarts=")[2].partition(" ")[0]
        cluster.cancel_all()
    well = process.returncode == 0 and int(restarts) >= 1 and logged_once(clone)
    outcome.note(well and weights_of(clone, RUN) == without_slurm(clone, override), output[-300:])
    return outcome


def slurm_requeue(place: Path) -> Outcome:
    """`scontrol requeue` in mid-training."""
    outcome = Outcome("`scontrol requeue` in mid-training", "the same job goes on; same final bits")
    return on_slurm(place, outcome, 5, "max_steps: 500", lambda _, job: cluster.call("scontrol", "requeue", str(job)))


def slurm_preemption(place: Path) -> Outcome:
    """A job of a partition with higher priority takes both nodes."""

    def preempt(clone: Path, job: int) -> None:
        wanted = ("-p", "urgent", "-N", "2", "--exclusive", "--wrap", "sleep 5")
        cluster.call("sbatch", *wanted, cwd=clone)

    outcome = Outcome("Preemption by a higher partition", "the same job goes on; same final bits")
    return on_slurm(place, outcome, 5, "max_steps: 500", preempt)


def slurm_time_limit(place: Path) -> Outcome:
    """A job that needs longer than its time limit, on fast machines too (80 epochs took 30 s on one)."""
    outcome = Outcome("SIGTERM at SLURM's time limit", "requeues itself, uses up no retry; same final bits")
    return on_slurm(place, outcome, 1, "epochs: 240", lambda *_: None)
