"""Runs that differ in how they predict alone: one of them trains, the others take its weights."""

from __future__ import annotations

from pathlib import Path

from dblocks.checkpoint import load_verified
from dblocks.data.files import write_atomically
from dblocks.errors import UserError
from dblocks.identity import identity, run_name, weights_identity
from dblocks.record import read_record
from dblocks.spec import RunSpec


def take_weights(spec: RunSpec, trainer: Path, folder: Path) -> Path:
    """Copy the weights and the training log of the finished run behind the record `trainer` into `folder`.

    Returns: the copy of the weights.
    Raises: UserError if that run was trained otherwise than `spec` says, or its files are not what its record says.
    """
    record = read_record(trainer)
    wanted = (weights_identity(spec), spec.seed, identity(record.spec))
    if (weights_identity(record.spec), record.spec.seed, record.identity) != wanted:
        raise UserError(f"{trainer}: was not trained as {folder}: more than method.sampling differs")
    source, log = trainer.parent / record.weights, trainer.parent / "log.jsonl"
    try:
        load_verified(source)
        # the log first: what has its weights counts as trained
        write_atomically(folder / log.name, log.read_bytes())
        write_atomically(folder / source.name, source.read_bytes())
    except ValueError as error:
        raise UserError(f"{trainer}: its weights cannot be read: {error}") from error
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}: missing, and {folder} is to take it; bring it back, or remove {trainer.parent} to train"
            " again"
        ) from error
    return folder / source.name


def trainer_of(weights: Path, trainer: Path | None) -> str | None:
    """<run>/seed<k> of the record `trainer` if `weights` are that run's; their file's name is their checksum's."""
    if trainer is None:
        return None
    record = read_record(trainer)
    return f"{run_name(record.spec)}/seed{record.spec.seed}" if record.weights == weights.name else None
