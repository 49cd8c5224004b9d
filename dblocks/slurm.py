"""Under SLURM a run that has to stop puts its own job back into the queue, under the same id and using up no retry."""

from __future__ import annotations

import os
import subprocess
import sys

PATIENCE = 20  # seconds for an answer of squeue or scontrol


def requeue() -> bool:
    """Put this process's SLURM job back into the queue; returns whether that was done.

    Nothing is done outside SLURM, nor unless the job is RUNNING: `scancel` sends SIGTERM too and has the
    job COMPLETING, and a requeue would bring a cancelled job back to life.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or _answer("squeue", "--noheader", f"--jobs={job}", "--format=%T") != "RUNNING":
        return False
    done = _answer("scontrol", "requeue", job) is not None
    print(f"dblocks: SLURM job {job} {'is back in the queue' if done else 'could not be requeued'}", file=sys.stderr)
    return done


def _answer(*command: str) -> str | None:
    """What a SLURM command prints; None if it fails, is not there or does not answer.

    The time limit's SIGTERM reaches a running child as well, so that a cut-off answer is no answer.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
