"""SIGTERM, Ctrl-C and a connection that is cut: the run saves its state, ends with one line and goes on later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dblocks.checkpoint import checkpoints
from dblocks.errors import Interrupted
from dblocks.runlog import read_log
from dblocks.stopping import ECHO, flag_on_signals, interrupt_on_signals
from tests.workflow.helpers import dblocks, environment, hear

OVER = {
    "training": {"max_steps": 150, "epochs": 100},
    "logging": {"log_every": 1},
    "data": {"max_evaluation_samples": 4},
}
FAKE_SLURM = """#!/bin/sh
case $(basename $0) in squeue) echo RUNNING ;; *) touch "$ASKED" ;; esac
"""


@pytest.fixture
def run(tmp_path, tiny_spec, digits_folder):
    """run(**environment): a run in a process of its own that has begun to train, and its arguments."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "spec.json").write_text(tiny_spec("end_to_end", OVER).model_dump_json())
    arguments = ["run", str(folder / "spec.json"), "--data", str(digits_folder / "manifest.json"), "--quiet"]
    processes = []

    def start(before: tuple[str, ...] = (), **extra: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "dblocks", *arguments],
            env=environment(**extra),
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear,
        )
        processes.append(process)
        while not read_log(folder / "log.jsonl"):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        return process

    start.folder, start.arguments = folder, arguments
    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_run_that_is_asked_to_stop_saves_its_state_in_one_line_and_goes_on(run, tmp_path, number):
    process = run()
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert error.startswith("dblocks: stopped at step") and error.endswith("; state saved\n") and error.count("\n") == 1
    assert checkpoints(run.folder)
    assert dblocks(tmp_path, *run.arguments).returncode == 0
    assert [line["step"] for line in read_log(run.folder / "log.jsonl")] == list(range(1, 151))


def test_an_echo_of_ctrl_c_changes_nothing(run):
    process = run()
    for _ in range(50):
        process.send_signal(signal.SIGINT)
        time.sleep(0.002)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error.count("\n")) == (75, 1), error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_is_ignored_stays_ignored(run, number):
    """As Ctrl-C is by what a shell runs in its background, and a hang-up under nohup."""
    process = run(before=("sh", "-c", f"trap '' {number.name[3:]}; exec \"$@\"", "sh"))
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")


@pytest.mark.parametrize(
    ("number", "requeued"), [(signal.SIGTERM, True), (signal.SIGINT, False), (signal.SIGHUP, False)]
)
def test_a_scheduler_alone_has_a_job_put_back_into_its_queue(run, tmp_path, number, requeued):
    for name in ("squeue", "scontrol"):
        (tmp_path / name).write_text(FAKE_SLURM)
        (tmp_path / name).chmod(0o755)
    asked = tmp_path / "asked"
    process = run(SLURM_JOB_ID="7", ASKED=str(asked), PATH=f"{tmp_path}:{os.environ['PATH']}")
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, asked.exists()) == (75, requeued), error


# in this process


@pytest.fixture(autouse=True)
def handlers():
    """Every signal's handler is after the test what it was before."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    found = {number: signal.getsignal(number) for number in numbers}
    hear()
    before = {number: signal.getsignal(number) for number in numbers}
    yield before
    after = {number: signal.getsignal(number) for number in numbers}
    for number, handler in found.items():
        signal.signal(number, handler)
    assert after == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_says_who_asked(number):
    with flag_on_signals() as stop:
        assert not stop.asked.is_set()
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked.is_set() and stop.by == number


def test_outside_training_the_first_signal_interrupts_and_the_next_are_ignored(handlers):
    with pytest.raises(Interrupted) as error, interrupt_on_signals() as attempt:
        attempt.progress = True
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    assert not error.value.progress, "a person is not a scheduler"
    for number, handler in handlers.items():
        assert signal.getsignal(number) == signal.SIG_IGN
        signal.signal(number, handler)


SECOND = f"""
import os, signal, time
from dblocks.stopping import flag_on_signals
with flag_on_signals() as stop:
    signal.raise_signal(signal.SIGINT)
    time.sleep({ECHO} + 0.1)
    print("still here", flush=True)
    signal.raise_signal(signal.SIGINT)
    print("too late", flush=True)
"""


def test_a_second_ctrl_c_ends_a_run_at_once(tmp_path: Path):
    process = subprocess.run(
        [sys.executable, "-c", SECOND], env=environment(), capture_output=True, text=True, timeout=60, preexec_fn=hear
    )
    assert (process.returncode, process.stdout, process.stderr) == (-signal.SIGINT, "still here\n", "")
