"""Checkpoints that are whole or not there: written beside, synced, renamed, and named by their checksum.

A file is `step-<step>-<first 16 hex digits of SHA-256>.pt`, so its name proves its content.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dblocks.data.files import one_line, write_atomically
from dblocks.errors import UserError

NAME = re.compile(r"^(?P<stem>.+)-(?P<digest>[0-9a-f]{16})\.pt$")
STEP = re.compile(r"^step-(?P<step>\d+)-[0-9a-f]{16}\.pt$")
KEEP = 2


def save_verified(folder: Path, stem: str, state: dict[str, Any]) -> Path:
    """Write `state` to <folder>/<stem>-<sha16>.pt, whole or not at all. Returns its path."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    path = folder / f"{stem}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    write_atomically(path, content, synced=True)
    return path


def load_verified(path: Path) -> dict[str, Any]:
    """Read, into main memory, what `save_verified` wrote; tensors and plain data only, nothing else is unpickled.

    Raises: ValueError if the content is not what the name promises, or is no state.
    """
    match = NAME.match(path.name)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    if match is None or match["digest"] != digest:
        raise ValueError(f"{path}: content has sha256 {digest}…, its name says otherwise (truncated or changed)")
    try:
        return read_tensors(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_tensors(content: bytes) -> dict[str, Any]:
    """The state in the bytes of a file of torch's, in main memory.

    Raises: ValueError if they hold anything else than tensors and plain data, none of which is run, or no state.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of a stranger's pickle; the error below says what matters
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle can raise anything; none of it is the caller's
        raise ValueError("holds something else than tensors and plain data; nothing of it was run") from error
    if not isinstance(state, dict):
        raise ValueError(f"holds a {type(state).__name__}, not a state")
    return state


def load_weights(network: torch.nn.Module, state: dict[str, Any], path: Path) -> None:
    """Put the weights of a state read from `path` into a network.

    Raises: ValueError if they are of another network.
    """
    try:
        network.load_state_dict(state["network"])
    except (AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: weights of another network ({one_line(error)})") from error


def load_recorded(network: torch.nn.Module, record_path: Path, weights: str) -> None:
    """Put the final weights of the run of `record_path`, in the file `weights` beside it, into a network.

    Raises: UserError if they are not what the record says, or of another network.
    """
    path = record_path.parent / weights
    try:
        load_weights(network, load_verified(path), path)
    except (OSError, ValueError) as error:
        raise UserError(f"{record_path}: its weights cannot be read: {error}") from error


def step_in(path: Path) -> int | None:
    """The step that a checkpoint's name says; None if it is no checkpoint's."""
    match = STEP.match(path.name)
    return int(match["step"]) if match else None


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, newest first."""
    found = [(step, path) for path in folder.glob("step-*.pt") if (step := step_in(path)) is not None]
    return [path for _, path in sorted(found, reverse=True)]


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Save the state after `step` steps and drop all but the newest two."""
    save_verified(folder, f"step-{step:09d}", {"step": step, **state})
    for old in checkpoints(folder)[KEEP:]:
        old.unlink(missing_ok=True)


def load_newest(
    folder: Path, check: Callable[[dict[str, Any], Path], None] = lambda *_: None
) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is intact, with its state, or None; a broken one is named on stderr and put aside.

    What only fails to be read, as on a file system that is away for a moment, is not broken: that error is raised.

    Args:
        check: raises ValueError if a state is broken.
    """
    for path in checkpoints(folder):
        try:
            state = load_verified(path)
            check(state, path)
            return path, state
        except ValueError as error:
            path.rename(path.with_suffix(".broken"))  # kept for a look, but no longer counted among the newest two
            print(f"dblocks: refused checkpoint: {error}; going on from the one before", file=sys.stderr, flush=True)
    return None
