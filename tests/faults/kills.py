"""The trainer is killed, asked to stop, or started twice."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

from tests.faults.outcome import Outcome
from tests.faults.run_folder import RunFolder, chance, kill, left_alone, wait_for_steps, wait_for_writing


def sigkill_at_random_moments(place: Path) -> Outcome:
    """Ten kills at random steps of one run."""
    return _killed(place, Outcome("SIGKILL of the trainer at a random moment", "same final bits"), False)


def sigkill_while_a_checkpoint_is_written(place: Path) -> Outcome:
    """Ten kills as soon as the temporary file of a checkpoint is seen."""
    return _killed(place, Outcome("SIGKILL while a checkpoint is being written", "same final bits"), True)


def _killed(place: Path, outcome: Outcome, writing: bool) -> Outcome:
    calm, run, draws = left_alone(place), RunFolder(place), chance(0)
    kills, resumed = 0, []
    for _ in range(10):
        before = run.steps[-1] if run.steps else 0
        process = run.start()
        alive = wait_for_steps(process, run, before + draws.randint(1, 5))
        alive = (wait_for_writing(process, run) if writing else alive) and process.poll() is None
        kill(process)
        kills += alive
        resumed.append(run.steps[-1] if run.steps else 0)
    code, error = run.finish()
    went_on = all(later >= earlier - 1 for earlier, later in itertools.pairwise(resumed))
    same = code == 0 and run.same_as(calm) and went_on
    for _ in range(kills):
        outcome.note(same, error or "other bits than without the kills")
    return outcome


def sigterm(place: Path) -> Outcome:
    """A scheduler's warning: the state is saved at once, exit status 75, and the next start goes on."""
    outcome = Outcome("SIGTERM, Ctrl-C, cut connection, without SLURM", "exits 75, state saved; same final bits")
    calm, run, draws = left_alone(place), RunFolder(place), chance(1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        before = run.steps[-1] if run.steps else 0
        process = run.start()
        wait_for_steps(process, run, before + draws.randint(1, 8))
        process.send_signal(number)
        error = process.communicate(timeout=120)[1]
        outcome.note(process.returncode == 75 and "state saved" in error, error)
    code, error = run.finish()
    outcome.note(code == 0 and run.same_as(calm), error or "other bits")
    return outcome


def two_at_once(place: Path) -> Outcome:
    """A second process in a run's folder while the first is at work, then a dead owner's folder."""
    outcome = Outcome(
        "A second process starts in a run's folder", "a live owner is respected, a dead one's place is taken"
    )
    calm, run = left_alone(place), RunFolder(place)
    first = run.start()
    wait_for_steps(first, run, 3)
    code, error = run.finish()
    outcome.note(code == 2 and "in use by process" in error and error.count("\n") == 1, error)
    kill(first)
    code, error = run.finish()
    outcome.note(code == 0 and run.same_as(calm), error or "other bits")
    return outcome


def sigkill_while_the_record_is_made(place: Path) -> Outcome:
    """Killed after training, in evaluation: nothing is trained again."""
    outcome = Outcome("SIGKILL between training and record", "evaluated again, not trained again")
    calm, run = left_alone(place), RunFolder(place)
    process = run.start()
    while process.poll() is None and run.weights is None:
        pass
    alive = process.poll() is None
    kill(process)
    stamp = run.weights and (run.folder / run.weights).stat().st_mtime_ns
    code, error = run.finish()
    untouched = stamp == (run.folder / run.weights).stat().st_mtime_ns
    outcome.note(alive and code == 0 and untouched and run.same_as(calm), error or "trained again")
    return outcome
