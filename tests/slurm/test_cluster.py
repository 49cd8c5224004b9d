"""What the pipeline relies on in SLURM and its Snakemake plugin, with a toy in place of the trainer."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("snakemake_executor_plugin_slurm")
PROFILE = Path(__file__).parents[2] / "slurm"

# Counts to 20 with a checkpoint at each step.  Its end after SIGTERM is the one that works:
# - requeue only while squeue says RUNNING, so that it was the warning before the time limit; a job that is
#   cancelled, preempted or requeued is already COMPLETING, and a cancelled one would come back to life;
# - requeue even after the last step, because the Snakemake around us fails a job that saw SIGTERM;
# - then leave with an error: SLURM ignores it after a requeue, and without one Snakemake retries.
TRAINER = """\
import os, signal, subprocess, sys, time
from pathlib import Path

run, done = Path(sys.argv[1]), Path(sys.argv[2])
run.mkdir(parents=True, exist_ok=True)
terminated = []
signal.signal(signal.SIGTERM, lambda *_: terminated.append(True))
job = os.environ["SLURM_JOB_ID"]
checkpoint = run / "checkpoint"
step = int(checkpoint.read_text()) if checkpoint.exists() else 0
with open(run / "starts", "a") as f:
    f.write(f"{job} {step} {os.environ['CUDA_VISIBLE_DEVICES']}\\n")
while step < 20 and not terminated:
    time.sleep(0.5)
    step += 1
    checkpoint.write_text(str(step))
if terminated:
    squeue = ["squeue", "-h", "-j", job, "-o", "%T"]
    state = subprocess.run(squeue, capture_output=True, text=True, timeout=20).stdout.strip()
    if state == "RUNNING":
        subprocess.run(["scontrol", "requeue", job], timeout=20)
    sys.exit(1)
done.write_text("done")
"""

SNAKEFILE = """\
configfile: "defaults.yaml"
localrules: all
rule all:
    input: expand("{run}.txt", run=["warned", "requeued"])
rule train:
    output: "{run}.txt"
    resources: gpu=1, mem_mb=200, runtime=5
    shell: "{config[python]} train.py runs/{wildcards.run} {output}"
rule show:
    shell: "echo scale={config[scale]} seeds={config[seeds]}"
"""


@pytest.fixture
def toy(tmp_path):
    """A directory with the toy pipeline and the profile of the repository."""
    shutil.copytree(PROFILE, tmp_path / "slurm")
    (tmp_path / "train.py").write_text(TRAINER)
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "defaults.yaml").write_text(f"scale: smoke\nseeds: 1\npython: {sys.executable}\n")
    return tmp_path


def snakemake(toy, *arguments):
    """Start `snakemake --profile slurm ...` in the toy directory, with its output in toy/log."""
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", *arguments]
    with open(toy / "log", "w") as log:
        return subprocess.Popen(command, cwd=toy, stdout=log, stderr=subprocess.STDOUT)


def finish(process, toy, seconds):
    """Wait for Snakemake and return (exit status, output)."""
    try:
        process.wait(seconds)
    finally:
        process.kill()
    return process.returncode, (toy / "log").read_text()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ([], "scale=paper seeds=1"),
        (["seeds=3"], "scale=paper seeds=3"),
        (["scale=smoke"], "scale=smoke seeds=1"),
    ],
)
def test_profile_sets_the_scale_and_the_command_line_goes_before_it(toy, config, expected):
    arguments = ["show", "--dry-run", "--printshellcmds", *(["--config", *config] if config else [])]
    status, output = finish(snakemake(toy, *arguments), toy, 60)
    assert status == 0, output
    assert f"echo {expected}" in output


def test_gpus_are_counted(slurm, tmp_path):
    for i in range(5):
        script = f"echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES > {tmp_path}/{i}; sleep 60"
        slurm.call("sbatch", "-n1", "--mem=100", "-t2", "--gpus=1", "-o/dev/null", "--wrap", script)

    def written():
        return [p.read_text().strip() for p in tmp_path.iterdir() if p.read_text().endswith("\n")]

    slurm.wait_until(lambda: len(written()) == 4, 30, "four jobs to start")
    assert sorted(written()) == ["n1 0", "n1 1", "n2 0", "n2 1"]
    assert len(slurm.call("squeue", "-h", "-t", "pending", "-o", "%A").split()) == 1


def test_requeued_jobs_resume_and_use_no_retry(slurm, toy):
    """SIGTERM before the time limit (sent by hand), and `scontrol requeue` from outside."""
    process = snakemake(toy, "all", "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5")
    try:
        starts = {name: toy / "runs" / name / "starts" for name in ("warned", "requeued")}
        slurm.wait_until(lambda: all(f.exists() for f in starts.values()), 60, "both jobs to start")
        slurm.wait_until(lambda: all(f.read_text() for f in starts.values()), 10, "their first lines")
        first = {name: f.read_text().split()[0] for name, f in starts.items()}
        slurm.call("scancel", "--signal=TERM", first["warned"])
        slurm.call("scontrol", "requeue", first["requeued"])
    finally:
        status, output = finish(process, toy, 200)
    assert status == 0, output
    assert "Trying to restart" not in output
    for file in starts.values():
        (job, _, _), (again, step, _) = (line.split() for line in file.read_text().splitlines())
        assert job == again
        assert int(step) > 0


def test_cancelled_job_stays_cancelled(slurm, toy):
    script = f"srun -n1 {sys.executable} train.py runs/cancelled done.txt"
    options = ["--requeue", "-n1", "--mem=100", "-t5", "--gpus=1", f"-D{toy}", "-oout.txt"]
    job = slurm.call("sbatch", "--parsable", *options, "--wrap", script).strip()
    slurm.wait_until((toy / "runs" / "cancelled" / "starts").exists, 30, "the job to start")
    slurm.call("scancel", job)
    slurm.wait_until(lambda: job not in slurm.job_ids(), 30, "the job to end")
    assert slurm.call("squeue", "-h", "-j", job, "-t", "all", "-o", "%T").strip() == "CANCELLED"
    assert not (toy / "done.txt").exists()


def test_a_job_that_is_started_again_says_so_to_its_steps(slurm, tmp_path):
    """By which dblocks/owner.py knows that a job's earlier start is dead, from another node of the same start."""
    counts = tmp_path / "counts"
    script = f"srun -n1 sh -c 'echo ${{SLURM_RESTART_COUNT:-none}} >> {counts}; sleep 60'"
    job = slurm.call(
        "sbatch", "--parsable", "--requeue", "-n1", "--mem=100", "-t5", f"-D{tmp_path}", "--wrap", script
    ).strip()
    slurm.wait_until(lambda: counts.exists() and counts.read_text(), 30, "the job to start")
    slurm.call("scontrol", "requeue", job)
    slurm.wait_until(lambda: len(counts.read_text().split()) == 2, 60, "the job to start again")
    assert counts.read_text().split() == ["none", "1"]
