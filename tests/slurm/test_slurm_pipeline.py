"""The pipeline itself on a real SLURM: `--profile slurm`, requeue, time limit, failures."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dblocks.runlog import read_log
from dblocks.tables import load_tables
from tests.workflow.helpers import copy_repository, environment

pytest.importorskip("snakemake_executor_plugin_slurm")

GPU = "resources: {gpu: 1, mem_mb: 500, runtime_minutes: %d}"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return copy_repository(tmp_path / "clone")


def start(clone: Path, target: str, *config: str, options: tuple[str, ...] = ()) -> subprocess.Popen:
    """`snakemake --profile slurm` in the background; its output goes to <clone>/snakemake.out."""
    quick = ("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10")
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", target, *quick, *options, "--config", *config]
    with open(clone / "snakemake.out", "a") as out:
        return subprocess.Popen(command, cwd=clone, env=environment(), stdout=out, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen, clone: Path, seconds: float) -> str:
    """Wait for Snakemake; returns its output."""
    try:
        process.wait(seconds)
    finally:
        process.kill()
    return (clone / "snakemake.out").read_text()


def folder_of(clone: Path, variant: str) -> Path:
    """The folder of seed 0 of the one run of a variant."""
    found = list(clone.glob(f"results/smoke/runs/vit-{variant}-*/seed0"))
    assert len(found) == 1, found
    return found[0]


def weights_of(clone: Path, variant: str) -> str:
    """File name of the final weights: it holds their checksum."""
    return json.loads((folder_of(clone, variant) / "record.json").read_text())["weights"]


def wait_for_steps(clone: Path, variant: str, steps: int, process: subprocess.Popen, seconds: float = 90) -> int:
    """Wait until the run has logged so many steps; returns how many."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        logs = list(clone.glob(f"results/smoke/runs/vit-{variant}-*/seed0/log.jsonl"))
        lines = read_log(logs[0]) if logs else []
        if lines and lines[-1]["step"] >= steps:
            return lines[-1]["step"]
        time.sleep(0.2)
    raise AssertionError(f"no {steps} steps: {(clone / 'snakemake.out').read_text()[-2000:]}")


def jobs_submitted(output: str) -> int:
    return output.count("has been submitted with SLURM jobid")


def one_run_table(clone: Path, variant: str = "end_to_end") -> None:
    """Cut Table 1 to a row of one variant, so that one run's SLURM jobs are watched."""
    path = clone / "config/tables/table_1.yaml"
    head = path.read_text().partition("rows:\n")[0]
    path.write_text(f"{head}rows:\n  - {{row: one, run: vit/{variant}}}\n")
    (clone / "config/claims.yaml").write_text("claims: []\n")


def without_slurm(clone: Path, override: str, variant: str = "end_to_end") -> str:
    """Weights of the same run, never interrupted, in a results folder of its own."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "table_1", "--config"]
    config = ["results_dir=other", "wandb=off", f"override={override}"]
    subprocess.run([*command, *config], cwd=clone, env=environment(), check=True, timeout=300, capture_output=True)
    record = next(clone.glob(f"other/smoke/runs/vit-{variant}-*/seed0/record.json"))
    return json.loads(record.read_text())["weights"]


def test_table_1_with_gpu_jobs(slurm, clone):
    override = "override={%s}" % (GPU % 5)
    process = start(clone, "table_1", "scale=smoke", "max_steps=2", "wandb=off", override)
    output = finish(process, clone, 240)
    assert process.returncode == 0, output[-3000:]
    assert (clone / "results/smoke/tables/table_1.csv").exists()
    # one a run; data and tables are made where Snakemake runs
    assert jobs_submitted(output) == len(load_tables()["table_1"].runs)
    # the profile's scale is the paper's, unless the command line says otherwise
    dry = [
        sys.executable,
        "-m",
        "snakemake",
        "--profile",
        "slurm",
        "-n",
        "all",
        "--config",
        "seeds=3",
        "skip=[imagenet256,llama2,llama2-tokenizer]",
    ]
    plan = subprocess.run(dry, cwd=clone, env=environment(), capture_output=True, text=True, timeout=60)
    assert plan.returncode == 0
    assert "dblocks: scale paper, seeds 3 a run" in plan.stderr


@pytest.mark.slow
def test_requeue_in_mid_training_ends_with_the_same_weights(slurm, clone):
    one_run_table(clone)
    override = "{%s, training: {max_steps: 500}, logging: {log_every: 5}}" % (GPU % 5)
    process = start(clone, "table_1", "scale=smoke", "wandb=off", f"override={override}")
    reached = wait_for_steps(clone, "end_to_end", 50, process)
    assert reached < 450
    [job] = slurm.job_ids()
    slurm.call("scontrol", "requeue", str(job))
    output = finish(process, clone, 240)
    assert process.returncode == 0, output[-3000:]
    assert jobs_submitted(output) == 1
    assert weights_of(clone, "end_to_end") == without_slurm(clone, override)


@pytest.mark.slow
def test_blocks_in_parallel_are_jobs_of_their_own(slurm, clone):
    one_run_table(clone, "isolated_parallel")
    override = "{%s, training: {max_steps: 30}}" % (GPU % 5)
    process = start(clone, "table_1", "scale=smoke", "wandb=off", f"override={override}")
    output = finish(process, clone, 240)
    assert process.returncode == 0, output[-3000:]
    assert jobs_submitted(output) == 3 + 1  # one joins and evaluates them
    folders = [folder_of(clone, "isolated_parallel") / "blocks" / str(block) for block in (1, 2, 3)]
    assert [read_log(folder / "log.jsonl")[-1]["step"] for folder in folders] == [30, 30, 30]
    assert weights_of(clone, "isolated_parallel") == without_slurm(clone, override, "isolated_parallel")


@pytest.mark.slow
def test_a_job_at_its_time_limit_requeues_itself_and_uses_no_retry(slurm, clone):
    one_run_table(clone)
    # over a minute of training, on fast machines too, in jobs of one minute that are warned some time before the end
    override = "{%s, training: {epochs: 240}, logging: {log_every: 5}}" % (GPU % 1)
    resources = ("--default-resources", "slurm_extra='--signal=TERM@20'", "mem_mb=500")
    process = start(clone, "table_1", "scale=smoke", "wandb=off", f"override={override}", options=resources)
    wait_for_steps(clone, "end_to_end", 5, process)
    [job] = slurm.job_ids()
    output = finish(process, clone, 500)
    assert process.returncode == 0, output[-3000:]
    assert jobs_submitted(output) == 1
    shown = slurm.call("scontrol", "show", "job", str(job))
    assert int(re.search(r"Restarts=(\d+)", shown)[1]) >= 1
    steps = [line["step"] for line in read_log(folder_of(clone, "end_to_end") / "log.jsonl")]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_a_cancelled_job_stays_cancelled(slurm, clone):
    one_run_table(clone)
    override = "{%s, training: {epochs: 400}, logging: {log_every: 5}}" % (GPU % 5)
    process = start(clone, "table_1", "scale=smoke", "wandb=off", f"override={override}")
    wait_for_steps(clone, "end_to_end", 20, process)
    process.send_signal(signal.SIGINT)  # Ctrl-C: Snakemake cancels its jobs
    finish(process, clone, 90)
    time.sleep(10)  # longer than the hold on a requeued job of this cluster
    assert slurm.job_ids() == []


@pytest.mark.slow
def test_a_nan_fails_once_and_is_not_retried(slurm, clone):
    one_run_table(clone)
    override = "{%s, training: {learning_rate: 1.0e+30, max_steps: 50}}" % (GPU % 5)
    process = start(clone, "table_1", "scale=smoke", "wandb=off", f"override={override}")
    output = finish(process, clone, 120)
    assert process.returncode != 0
    assert jobs_submitted(output) == 1
    failed = json.loads((folder_of(clone, "end_to_end") / "failed.json").read_text())
    assert "loss is" in failed["error"]
    assert not (folder_of(clone, "end_to_end") / "record.json").exists()
