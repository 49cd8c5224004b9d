"""A short training run in a folder of its own, by the real command line, to be hurt."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dblocks.config import resolve
from dblocks.data.prepare import prepare
from dblocks.runlog import read_log
from tests.workflow.helpers import environment, hear

STEPS = 60
# small and quick, but with weights big enough that writing them takes a moment
TINY = {
    "network": {"layers": 6, "width": 96},
    "training": {"max_steps": STEPS // 3, "batch_size": 16},
    "data": {"max_evaluation_samples": 20},
    "logging": {"log_every": 1, "checkpoint_steps": 1},
}


class RunFolder:
    """A run's folder and its data.

    Attributes:
        folder: where spec.json lies.
        data: the prepared data set's folder.
    """

    def __init__(self, place: Path, run: str = "vit/diffusion_blocks", overrides: Mapping[str, Any] = TINY):
        self.folder, self.data = place / "run", place / "data"
        self.folder.mkdir(parents=True)
        self.spec = resolve(run, "smoke", 0, overrides)
        (self.folder / "spec.json").write_text(self.spec.model_dump_json())
        if not self.data.exists():
            prepare(self.spec.data.name, None, self.data)

    def start(self, *options: str, **extra: str) -> subprocess.Popen:
        """`dblocks run` in the background."""
        command = [sys.executable, "-m", "dblocks", "run", str(self.folder / "spec.json"), "--quiet", *options]
        command += ["--data", str(self.data / "manifest.json")]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=environment(**extra), preexec_fn=hear, **pipes)

    def finish(self, *options: str, **extra: str) -> tuple[int, str]:
        """`dblocks run` to its end: (exit status, standard error)."""
        process = self.start(*options, **extra)
        error = process.communicate(timeout=300)[1]
        return process.returncode, error

    @property
    def steps(self) -> list[int]:
        return [line["step"] for line in read_log(self.folder / "log.jsonl")]

    @property
    def losses(self) -> list[Any]:
        """The losses of every step: equal for equal courses of training."""
        return [line["loss"] for line in read_log(self.folder / "log.jsonl")]

    @property
    def weights(self) -> str | None:
        """Name of the final weights' file, which holds their checksum; None if they are not there."""
        found = sorted(self.folder.glob("weights-*.pt"))
        return found[0].name if found else None

    @property
    def metrics(self) -> Any:
        return json.loads((self.folder / "record.json").read_text())["metrics"]

    def same_as(self, other: RunFolder) -> bool:
        """Same final bits, same losses, every step once, same metrics."""
        return (
            self.weights is not None
            and self.weights == other.weights
            and self.losses == other.losses
            and self.steps == sorted(set(self.steps))
            and self.metrics == other.metrics
        )


def left_alone(place: Path, overrides: Mapping[str, Any] = TINY) -> RunFolder:
    """The same run, never hurt."""
    run = RunFolder(place / "left_alone", overrides=overrides)
    code, error = run.finish()
    if code:
        raise RuntimeError(error)
    return run


def wait_for_steps(process: subprocess.Popen, run: RunFolder, step: int, seconds: float = 120) -> bool:
    """Until the run has logged `step`; whether the process still runs then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if run.steps and run.steps[-1] >= step:
            return True
        time.sleep(0.002)
    return process.poll() is None


def wait_for_writing(process: subprocess.Popen, run: RunFolder, seconds: float = 120) -> bool:
    """Until a checkpoint is being written; whether one was seen."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if any(run.folder.glob(".step-*.tmp")):
            return True
    return False


def kill(process: subprocess.Popen) -> None:
    """SIGKILL, and wait until it is gone."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def chance(seed: int) -> random.Random:
    """Random moments that are other ones for another seed, and the same for the same."""
    return random.Random(seed)
