"""One owner a run folder: a second process that would write into it is refused while the first is alive.

After `kill -9` of Snakemake its SLURM jobs run on; started again, it submits the same runs once more.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dblocks.errors import UserError

OWNER = "owner.json"
HEARTBEAT = 30.0  # seconds between two signs of life
SILENCE = 300.0  # seconds without one after which an owner on another machine is taken for dead


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own `folder` while the block runs.

    Raises: UserError naming the live owner's host, process and SLURM job.
    """
    path, me = folder / OWNER, identity_of(os.getpid())
    claim(path, me)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if read(path) == me:
            path.unlink(missing_ok=True)


def identity_of(pid: int) -> dict[str, Any]:
    """Host, process (with its start, since numbers are used again) and SLURM job of a process on this machine."""
    job = os.environ.get("SLURM_JOB_ID")
    return {"host": socket.gethostname(), "pid": pid, "started": _start_of(pid), "job": job}


def claim(path: Path, me: dict[str, Any]) -> None:
    """Write `me` into the owner's file; a dead owner's is put aside first. Raises: UserError if one is alive."""
    for _ in range(10):
        temporary = path.with_name(f".{OWNER}.{me['host']}.{me['pid']}")
        temporary.write_text(json.dumps(me))
        try:
            os.link(temporary, path)  # fails if it is there, also on network file systems
            return
        except FileExistsError:
            owner = read(path)
            if owner is not None and is_alive(path, owner, me):
                job = f", SLURM job {owner['job']}" if owner.get("job") else ""
                raise UserError(
                    f"{path.parent}: in use by process {owner['pid']} on {owner['host']}{job}; wait for it or end it"
                ) from None
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, temporary.with_suffix(".dead"))
        finally:
            temporary.unlink(missing_ok=True)
            temporary.with_suffix(".dead").unlink(missing_ok=True)
    raise UserError(f"{path}: could not be claimed; another process claims it at the same time")


def read(path: Path) -> dict[str, Any] | None:
    """The owner's file; None if there is none or it cannot be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and {"host", "pid", "started"} <= set(content) else None


def is_alive(path: Path, owner: dict[str, Any], me: dict[str, Any]) -> bool:
    """Whether an owner still runs: by its process on this machine, by its heartbeat on another.

    SLURM runs a job once at a time, so the same job's earlier process is dead when it is started again.
    """
    if owner["host"] == me["host"]:
        return owner["pid"] != me["pid"] and owner["started"] == _start_of(owner["pid"]) is not None
    if owner.get("job") and owner["job"] == me["job"]:
        return False
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime < SILENCE
    return False


def _start_of(pid: int) -> str | None:
    """When a process of this machine started, in ticks since boot; None if there is none."""
    try:
        # the name, in parentheses, may hold spaces: fields count from behind it
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with contextlib.suppress(OSError):
            os.utime(path)
