"""Files that are not what they were: truncated, bit-flipped, or something else altogether."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

from dblocks.checkpoint import checkpoints
from tests.faults.outcome import Outcome
from tests.faults.run_folder import RunFolder, kill, left_alone, wait_for_steps


def truncate(path: Path) -> None:
    """The second half is gone."""
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    """One bit in the middle is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: tuple[Callable[[Path], None], ...] = (truncate, flip_a_bit)


class Malice:
    """Unpickled, it would make a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def damaged_checkpoint(place: Path) -> Outcome:
    """The newest checkpoint is damaged: it is named, and training goes on from the one before."""
    outcome = Outcome("Checkpoint truncated or with a flipped bit", "named, the one before is used; same final bits")
    calm, run = left_alone(place), RunFolder(place)
    for damage in DAMAGES:
        process = run.start()
        wait_for_steps(process, run, (run.steps or [0])[-1] + 5)
        kill(process)
        newest = checkpoints(run.folder)[0]
        damage(newest)
        process = run.start()
        alive = wait_for_steps(process, run, run.steps[-1] + 2)
        kill(process)
        said = process.stderr.read() if not process.stderr.closed else ""
        outcome.note(alive and newest.with_suffix(".broken").exists(), said)
    code, error = run.finish()
    outcome.note(code == 0 and run.same_as(calm), error or "other bits")
    return outcome


def malicious_checkpoint(place: Path) -> Outcome:
    """A pickle that would run code lies in the newest checkpoint's place, with a name that fits its content."""
    import hashlib

    outcome = Outcome("Malicious pickle in a checkpoint's place", "nothing of it is run; the one before is used")
    calm, run, mark = left_alone(place), RunFolder(place), place / "ran"
    process = run.start()
    wait_for_steps(process, run, 5)
    kill(process)
    content = pickle.dumps(Malice(mark))
    name = f"step-{999:09d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    (run.folder / name).write_bytes(content)
    code, error = run.finish()
    outcome.note(code == 0 and not mark.exists() and name in error and run.same_as(calm), error or "it was run")
    return outcome


def damaged_weights(place: Path) -> Outcome:
    """The final weights are damaged before evaluation, and after the record was made."""
    outcome = Outcome("Final weights truncated or with a flipped bit", "named in one line, with what to do")
    for damage in DAMAGES:
        run = left_alone(place / damage.__name__)
        (run.folder / "record.json").unlink()
        damage(run.folder / run.weights)
        code, error = run.finish()
        outcome.note(code == 2 and run.weights in error and error.count("\n") == 1, error)
    return outcome


def damaged_array(place: Path) -> Outcome:
    """A prepared array is damaged: the run that reads it names it."""
    outcome = Outcome("Prepared array truncated or with a flipped bit", "named in one line, with what to do")
    for damage in DAMAGES:
        run = RunFolder(place / damage.__name__)
        damage(run.data / "train_images.npy")
        code, error = run.finish()
        outcome.note(code == 2 and "train_images.npy" in error and error.count("\n") == 1, error or "not noticed")
    return outcome


def damaged_record(place: Path) -> Outcome:
    """A record or result is damaged: it is named; without them it is made again from the weights."""
    outcome = Outcome("Record truncated or with a flipped bit", "named, or made again without training")
    for damage in DAMAGES:
        run = left_alone(place / damage.__name__)
        before = run.metrics
        damage(run.folder / "record.json")
        code, error = run.finish()
        outcome.note(code == 0 and run.metrics == before, error)
        truncate(run.folder / "result.json")
        code, error = run.finish()
        outcome.note(code == 2 and "result.json" in error and error.count("\n") == 1, error)
    return outcome
