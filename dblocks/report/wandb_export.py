"""W&B: offline, one run is written from the log of a finished run; online, the log is streamed as it grows.

An offline W&B run cannot be resumed (each start makes a new directory), so nothing is written before the
run is finished, and what an earlier, killed export left is removed.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import wandb

from dblocks.data.files import one_line
from dblocks.errors import UserError
from dblocks.identity import run_name
from dblocks.record import Record
from dblocks.runlog import read_log
from dblocks.spec import RunSpec
from dblocks.tables import load_tables

PROJECT = "dblocks"
EXPORTED = "wandb/exported"  # written last; how the run was exported: offline or online
# W&B would wait for ever for a server that has gone away
SETTINGS = {
    "silent": True,
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "x_disable_stats": True,
    "finish_timeout": 60,
}


def history(line: dict[str, Any]) -> dict[str, float]:
    """A log line as W&B metrics: loss/<block>, learning_rate, seconds."""
    losses = {f"loss/{block}": value for block, value in line["loss"].items()}
    return {**losses, "learning_rate": line["learning_rate"], "seconds": line["seconds"]}


def tag(text: str) -> str:
    """A tag of W&B, which takes 64 characters."""
    return text[:64]


def tags(spec: RunSpec) -> list[str]:
    """The scale, and each table and row the run fills."""
    run = f"{spec.experiment}/{spec.variant}"
    rows = [(table.table, row.row) for table in load_tables().values() for row in table.rows if run in row.runs]
    return list(dict.fromkeys(tag(text) for text in (spec.scale, *(part for pair in rows for part in pair))))


@contextlib.contextmanager
def _session(spec: RunSpec, wandb_id: str, folder: Path, mode: str, resume: str | None) -> Iterator[Any]:
    """A W&B run of this spec.

    Raises: UserError in one line where W&B refuses, as for a missing or wrong key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        session = wandb.init(
            project=PROJECT,
            id=wandb_id,
            name=wandb_id,
            group=run_name(spec),
            tags=tags(spec),
            config=spec.model_dump(mode="json"),
            dir=folder,
            mode=mode,
            resume=resume,
            settings=wandb.Settings(**SETTINGS),
        )
    except (wandb.errors.Error, ValueError) as error:
        raise UserError(
            f"W&B did not start ({one_line(error)}); log in with `wandb login` or set WANDB_API_KEY, "
            "or give `--config wandb=offline`"
        ) from error
    try:
        with session:
            yield session
    except wandb.errors.Error as error:
        raise UserError(f"W&B did not take the run ({one_line(error)})") from error


def export(record: Record, folder: Path, mode: str) -> None:
    """Bring a finished run to W&B: all of it when offline, the results of what was streamed when online."""
    if mode == "offline":
        shutil.rmtree(folder / "wandb", ignore_errors=True)
    (folder / EXPORTED).unlink(missing_ok=True)
    resume = "allow" if mode == "online" else None
    with _session(record.spec, record.wandb_id, folder, mode, resume) as session:
        there = session.step if mode == "online" else 0  # what was streamed is not sent again
        for line in read_log(folder / "log.jsonl"):
            if line["step"] >= there:
                session.log(history(line), step=line["step"])
        session.summary.update({metric.name: metric.value for metric in record.metrics})
        several = [metric for metric in record.metrics if metric.mean is not None]
        session.summary.update({f"{metric.name}_mean": metric.mean for metric in several})
        if record.peak_memory_bytes is not None:
            session.summary["peak_memory_bytes"] = record.peak_memory_bytes
        session.summary.update(
            {
                "budget": record.budget,
                "parameters": record.parameters,
                # of a run with another's weights it is that one's
                **({"trained_as": record.trained_as} if record.trained_as else {"train_seconds": record.train_seconds}),
                "device": record.machine.device,
                "commit": record.machine.commit,
                "identity": record.identity,
            }
        )
    (folder / EXPORTED).write_text(mode + "\n")


@contextlib.contextmanager
def stream(spec: RunSpec, wandb_id: str, folder: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """While training, hand each log line on; started again, the same W&B run goes on."""
    with _session(spec, wandb_id, folder, "online", "allow") as session:

        def on_log(line: dict[str, Any]) -> None:
            with contextlib.suppress(wandb.errors.Error):  # training goes on; the log has all
                session.log(history(line), step=line["step"])

        yield on_log
