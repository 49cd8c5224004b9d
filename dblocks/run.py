"""One run, one job: train, evaluate, write the record; each stage is skipped when it is done already.

In a run's folder: `spec.json` (what to do), `log.jsonl`, `step-*.pt` (checkpoints, while training),
`weights-<sha16>.pt`, `result.json` (the finished record), `failed.json` (a failure that would repeat) and
`record.json`, the copy of `result.json` that the pipeline declares as its output and may delete.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from dblocks import processes
from dblocks.budget import budget_fraction, total_steps
from dblocks.data.files import sha256_of, write_atomically
from dblocks.data.prepared import PreparedData
from dblocks.errors import TrainingFailed, UserError
from dblocks.identity import code_versions, data_fingerprint, identity, training_fingerprint, wandb_id
from dblocks.owner import owned
from dblocks.reading import read_json
from dblocks.record import RECORD, RESULT, Record, read_record, write_record
from dblocks.seal import check_place
from dblocks.spec import RunSpec
from dblocks.stopping import Attempt, interrupt_on_signals

FAILED = "failed.json"


def read_spec(path: Path) -> RunSpec:
    """The RunSpec in a spec.json.

    Raises: UserError naming the file and field.
    """
    return read_json(path, RunSpec)


def execute(
    spec_path: Path,
    data_folder: Path,
    wandb_mode: str = "off",
    progress: bool = False,
    needs: dict[str, Path] | None = None,
) -> Path:
    """Bring the run of `spec_path` to its record, from wherever it stands. Returns the record's path.

    Args:
        needs: what its evaluation reads besides the data, by role (needs.py).
    Raises: UserError (bad input, or a failure that would repeat), Interrupted (asked to stop, state saved).
    """
    spec = read_spec(spec_path)
    check_place(spec_path, identity(spec), spec.seed)
    with processes.joined(spec):
        if not processes.is_first():
            return assist(spec, spec_path.parent, data_folder)
        with disk_full_in_one_line(spec_path.parent), owned(spec_path.parent):
            return _execute(spec, spec_path.parent, data_folder, wandb_mode, progress, needs or {})


def assist(spec: RunSpec, folder: Path, data_folder: Path) -> Path:
    """The part of a process that is not the first: to train along, if there is something to train."""
    from dblocks.build import build
    from dblocks.machine import set_up
    from dblocks.training import Trainer

    if processes.same_for_all(False):
        device = set_up(spec.compute)
        method, _ = build(spec, PreparedData(data_folder), device)
        Trainer(spec, method, total_steps(spec), folder, device).run()
    return folder / RECORD


@contextlib.contextmanager
def disk_full_in_one_line(folder: Path) -> Iterator[None]:
    """Turns what the system says of a full disk into one line with what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{folder}: {os.strerror(error.errno)}; make room and start again, it goes on from the last checkpoint"
        ) from error


def _execute(
    spec: RunSpec, folder: Path, data_folder: Path, wandb_mode: str, progress: bool, needs: dict[str, Path]
) -> Path:
    given = {name for role, name in spec.needed_weights().items() if role in needs}
    if finished(folder, given):
        processes.same_for_all(False)
        write_record(folder / RECORD, read_record(folder / RESULT))
        remove_checkpoints(folder)
        return folder / RECORD
    with remembered_failure(folder), interrupt_on_signals() as attempt:
        data = PreparedData(data_folder)
        record = train_and_evaluate(spec, folder, data, attempt, wandb_mode, progress, needs)
    write_record(folder / RESULT, record)
    show_at_wandb(record, folder, wandb_mode)
    write_record(folder / RECORD, record)
    remove_checkpoints(folder)
    return folder / RECORD


def remove_checkpoints(folder: Path) -> None:
    """What only training needs; the final weights are there."""
    for checkpoint in folder.glob("step-*.pt"):
        checkpoint.unlink()


@contextlib.contextmanager
def remembered_failure(folder: Path) -> Iterator[None]:
    """Write down a failure that would repeat, and end at once with the same line until that is removed."""
    if (folder / FAILED).exists():
        raise TrainingFailed(f"{failure(folder / FAILED)} (remove {folder / FAILED} to try again)")
    try:
        yield
    except TrainingFailed as error:
        write_atomically(folder / FAILED, json.dumps({"error": str(error)}) + "\n")
        raise


def failure(path: Path) -> str:
    """What a failed.json says; of a broken one, that it is there."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "it failed before, and what was written of it cannot be read"


def finished(folder: Path, given: set[str]) -> bool:
    """Whether the folder holds a finished run whose weights are what the record says, and which was measured with
    all the published weights that are given; if not, it is measured again, and not trained."""
    if not (folder / RESULT).exists():
        return False
    record = read_record(folder / RESULT)
    weights = folder / record.weights
    if not weights.exists() or sha256_of(weights)[:16] != weights.stem.rpartition("-")[2]:
        raise UserError(
            f"{weights}: missing or changed since {folder / RESULT} was written; "
            f"bring it back, or remove {folder} to train again"
        )
    return not given & set(record.skipped)


def final_weights_in(folder: Path) -> Path | None:
    """The final weights in `folder`, None if there are none. Raises: UserError if there are several."""
    found = sorted(folder.glob("weights-*.pt"))
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise UserError(f"{folder}: holds {names}, and a run leaves one; remove those that are not its own")
    return found[0] if found else None


def train_and_evaluate(
    spec: RunSpec,
    folder: Path,
    data: PreparedData,
    attempt: Attempt,
    wandb_mode: str,
    progress: bool,
    needs: dict[str, Path],
) -> Record:
    """Train from where the folder stands, evaluate, export to W&B where wanted; returns the record."""
    from dblocks.build import build
    from dblocks.final_weights import final_weights
    from dblocks.machine import autocast, describe, peak_memory, set_up
    from dblocks.needs import TRAINED, Needs
    from dblocks.shared_training import trainer_of

    data.must_be(training_fingerprint(spec))
    device = set_up(spec.compute)
    own = Needs(needs, folder, on_progress=lambda: setattr(attempt, "progress", True))
    method, task = build(spec, data, device, own)
    was_trained = any(folder.glob("weights-*.pt"))
    resumed = was_trained or any(folder.glob("step-*.pt"))
    in_one_process = not (resumed or TRAINED in needs or spec.in_parallel or spec.compute.gpus > 1)
    weights, seconds = final_weights(spec, method, folder, device, wandb_mode, progress, needs.get(TRAINED))
    attempt.progress = not was_trained
    method.network.eval()
    start = time.monotonic()
    with autocast(spec.compute, device):
        metrics = task.evaluate(method.predictors())
        task.write_samples(method.predictors(), folder)
    record = Record(
        identity=identity(spec),
        spec=spec,
        code_versions=code_versions(spec),
        data_checksum=data.checksum(),
        data_fingerprint=data_fingerprint(spec.data),
        metrics=metrics,
        evaluations_per_block=method.evaluations_per_block(),
        steps=total_steps(spec),
        parameters=sum(p.numel() for p in method.network.parameters()),
        budget=budget_fraction(spec),
        train_seconds=seconds,
        evaluate_seconds=time.monotonic() - start,
        peak_memory_bytes=peak_memory(device) if in_one_process else None,
        machine=describe(spec.compute, device),
        finished=datetime.now(UTC),
        wandb_id=wandb_id(spec),
        skipped=tuple(name for role, name in spec.needed_weights().items() if role not in needs),
        weights=weights.name,
        trained_as=trainer_of(weights, needs.get(TRAINED)),
    )
    return record


def show_at_wandb(record: Record, folder: Path, wandb_mode: str) -> None:
    """Export a finished run. What was measured does not depend on where it is shown: a failure is a warning."""
    if wandb_mode == "off":
        return
    from dblocks.report.wandb_export import export

    try:
        export(record, folder, wandb_mode)
    except (UserError, OSError) as error:
        print(f"dblocks: warning: {error}; `snakemake wandb_sync` uploads it later", file=sys.stderr)
        shutil.rmtree(folder / "wandb", ignore_errors=True)  # half of it: the log has all
