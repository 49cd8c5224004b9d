"""Finished runs to W&B, each once: what was written offline is uploaded by W&B's own tool."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dblocks.data.files import write_atomically
from dblocks.errors import UserError
from dblocks.record import read_record
from dblocks.report.wandb_export import EXPORTED, PROJECT, export

SYNCED = ".synced"  # W&B's tool leaves <run>.wandb.synced beside what it has uploaded


def sync(record_path: Path, target: Path) -> Path:
    """Upload the run of a record and write its W&B id to `target`, which says that it was; returns `target`.

    A run that was made with W&B off is written offline first; one that was streamed is there already.
    Raises: UserError where the upload did not succeed.
    """
    record, folder = read_record(record_path), record_path.parent
    mark = folder / EXPORTED
    how = mark.read_text().strip() if mark.exists() else None
    if how != "online":
        if how is None or not offline_files(folder):  # never exported, or not to the end: the log has all
            export(record, folder, "offline")
        upload(offline_files(folder)[0])
    write_atomically(target, f"{PROJECT}/{record.wandb_id}\n")
    return target


def offline_files(folder: Path) -> list[Path]:
    """The offline runs' files in a run's folder; there is one, or none."""
    return sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def upload(file: Path) -> None:
    """Upload one offline run, unless W&B's tool has marked it as uploaded.

    Raises: UserError with the last line of what it said.
    """
    mark = file.with_name(file.name + SYNCED)
    if mark.exists():
        return
    process = subprocess.run([sys.executable, "-m", "wandb", "sync", str(file.parent)], capture_output=True, text=True)
    if process.returncode or not mark.exists():
        said = [line for line in (process.stdout + process.stderr).splitlines() if line.strip()] or ["nothing was said"]
        raise UserError(
            f"{file.parent}: W&B did not take the run ({said[-1].strip()[:200]}); log in with `wandb login`"
        )
