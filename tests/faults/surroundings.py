"""What is around a run fails: the disk fills up, W&B goes away, the clock jumps back, a loss is NaN."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from dblocks.checkpoint import checkpoints, load_verified
from tests.faults.outcome import Outcome
from tests.faults.run_folder import TINY, RunFolder, left_alone, wait_for_steps
from tests.report.wandb_server import wandb_server


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A tmpfs of a given size. Raises: CalledProcessError where mounting is not allowed."""
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def disk_full(place: Path) -> Outcome:
    """The disk fills up while checkpoints are written; with room again, training goes on from the last good one."""
    outcome = Outcome("Disk full while a checkpoint is written", "last good checkpoint stays, one line; same bits")
    calm = left_alone(place)
    with small_disk(place / "disk", "64m") as disk:
        run = RunFolder(disk)
        process = run.start()
        wait_for_steps(process, run, 8)
        # unbuffered, else closing it would once more want room for what did not fit
        with open(disk / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:  # until nothing fits any more
                ballast.write(b"\0" * 2**16)
        error = process.communicate(timeout=120)[1]
        intact = load_verified(checkpoints(run.folder)[0])["step"] >= 7
        left = [path.name for path in run.folder.iterdir() if path.name.endswith(".tmp")]
        clear = process.returncode == 2 and error.count("\n") == 1 and "No space left" in error
        outcome.note(clear and intact and not left, error)
        (disk / "ballast").unlink()
        code, error = run.finish()
        outcome.note(code == 0 and run.same_as(calm), error or "other bits")
    return outcome


def wandb_goes_away(place: Path) -> Outcome:
    """W&B is online when training starts and gone before it ends."""
    outcome = Outcome("W&B unreachable in mid-run", "training goes on, one warning; same final bits")
    calm, run = left_alone(place), RunFolder(place)
    with wandb_server() as server:
        own = {**server.settings, "HOME": str(place), "WANDB_INIT_TIMEOUT": "10"}
        process = run.start("--wandb", "online", **own)
        wait_for_steps(process, run, 5)
    error = process.communicate(timeout=400)[1]
    said = [line for line in error.splitlines() if line.startswith("dblocks:")]  # W&B has words of its own
    outcome.note(process.returncode == 0 and run.same_as(calm) and len(said) == 1 and "warning" in said[0], error)
    return outcome


def nan(place: Path) -> Outcome:
    """A loss is not finite: where, in which block, at which noise is said, and the next attempt says it at once."""
    outcome = Outcome("NaN in mid-training", "says step, block, σ and last checkpoint; is not retried")
    overrides = {**TINY, "training": {**TINY["training"], "learning_rate": 1e30, "min_learning_rate": 0.0}}
    run = RunFolder(place, overrides=overrides)
    code, error = run.finish()
    words = ("loss is", "at step", "block", "sigma", "last good checkpoint")
    outcome.note(code == 3 and all(word in error for word in words) and error.count("\n") == 1, error)
    steps = run.steps
    again, said = run.finish()
    kept = json.loads((run.folder / "failed.json").read_text())["error"]
    outcome.note(again == 3 and kept in said and run.steps == steps and not (run.folder / "record.json").exists(), said)
    return outcome


JUMP = """
import time
_real, _start = time.time, time.monotonic()
# an hour back once the process is four seconds old
time.time = lambda: _real() - (3600 if time.monotonic() - _start > 4 else 0)
"""


def clock_jumps_back(place: Path) -> Outcome:
    """The wall clock of the process jumps back an hour while it trains."""
    outcome = Outcome("Clock jumps back an hour", "same final bits, no negative time")
    calm, run = left_alone(place), RunFolder(place)
    (place / "jump").mkdir()
    (place / "jump" / "sitecustomize.py").write_text(JUMP)
    path = os.pathsep.join([str(place / "jump"), str(Path(__file__).resolve().parents[2])])
    process = run.start(PYTHONPATH=path)
    error = process.communicate(timeout=300)[1]
    record = json.loads((run.folder / "record.json").read_text()) if process.returncode == 0 else {}
    seconds = record.get("train_seconds", -1)
    outcome.note(process.returncode == 0 and run.same_as(calm) and 0 < seconds < 300, error or f"{seconds} s")
    return outcome
