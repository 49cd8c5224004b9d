"""One owner a run folder: a second process that would write into it is refused while the first is alive.

After `kill -9` of Snakemake its SLURM jobs run on; started again, it submits the same runs once more.
"""

from __future__ import annotations

import _thread
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dblocks.errors import Interrupted, UserError

OWNER = "owner.json"
HEARTBEAT = 30.0  # seconds between two signs of life
SILENCE = 300.0  # seconds without one after which an owner on another machine is taken for dead
HALF_WRITTEN = re.compile(r"^\.(?!spec\.json\.).+\.\d+\.tmp$")  # .<name>.<process>.tmp, which is renamed to <name>


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own `folder` while the block runs.

    Raises: UserError naming the live owner's host, process and SLURM job; likewise if the block was interrupted because
        another process has taken this one for dead.
    """
    path, me = folder / OWNER, identity_of(os.getpid())
    claim(path, me)
    _remove_old_claims(path)
    _remove_half_written(folder)
    ended, lost = threading.Event(), threading.Event()
    beat = threading.Thread(target=_beat, args=(path, me, ended, lost), daemon=True)
    beat.start()
    try:
        yield
    except Interrupted:
        if not lost.is_set():
            raise
        owner = read(path)
        by = described(owner) if owner else "someone"
        raise UserError(f"{folder}: taken over by {by}, as if this process were dead; it stopped") from None
    finally:
        ended.set()
        beat.join()
        if read(path) == me:
            path.unlink(missing_ok=True)


def identity_of(pid: int) -> dict[str, Any]:
    """Host, process (with its start, since numbers are used again) and SLURM job of a process on this machine."""
    job, restart = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT")
    return {"host": socket.gethostname(), "pid": pid, "started": _start_of(pid), "job": job, "restart": restart}


def described(owner: dict[str, Any]) -> str:
    """An owner, for people."""
    job = f", SLURM job {owner['job']}" if owner.get("job") else ""
    return f"process {owner['pid']} on {owner['host']}{job}"


def claim(path: Path, me: dict[str, Any]) -> None:
    """Write `me` into the owner's file, also in a dead owner's place. Raises: UserError if one is alive.

    One alone may take the place of a given dead owner, whoever owns the file that is named by what the dead one's says:
    else a second, which read it as well, would take the place of the first.
    """
    temporary = path.with_name(f".{path.name.lstrip('.')}.{me['host']}.{me['pid']}")
    for _ in range(10):
        try:
            temporary.unlink(missing_ok=True)  # a killed one's of this number, which may be linked to the owner's file
            temporary.write_text(json.dumps(me))
            now = _touched(temporary)  # by the file system's clock, as a heartbeat: those of two machines may differ
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)  # fails if it is there, also on network file systems
                return
            if temporary.stat().st_nlink > 1:  # it was linked, and a network file system's answer was lost
                return
            if path.is_dir():
                raise UserError(f"{path}: a folder, where the owner's file is to be; remove it")
            with contextlib.suppress(FileNotFoundError):
                content, silent = path.read_bytes(), now - _touched(path)
                owner = _owner_in(content)
                if owner is not None and is_alive(owner, me, silent):
                    raise UserError(f"{path.parent}: in use by {described(owner)}; wait for it or end it")
                place = path.with_name(f".{OWNER}.{hashlib.sha256(content).hexdigest()[:16]}")
                claim(place, me)
                try:
                    if path.read_bytes() == content:
                        os.replace(temporary, path)
                        return
                finally:
                    place.unlink(missing_ok=True)
        finally:
            temporary.unlink(missing_ok=True)
    raise UserError(f"{path}: could not be claimed; another process claims it at the same time")


def read(path: Path) -> dict[str, Any] | None:
    """The owner's file; None if there is none or it cannot be read."""
    try:
        return _owner_in(path.read_bytes())
    except OSError:
        return None


def is_alive(owner: dict[str, Any], me: dict[str, Any], silent: float) -> bool:
    """Whether an owner still runs: by its process on this machine, by the seconds since its heartbeat on another.

    SLURM runs a job once at a time, so its earlier start is dead when it was started again; the same start may hold
    several nodes.
    """
    if owner["host"] == me["host"]:
        return owner["started"] == _start_of(owner["pid"]) is not None
    if owner.get("job") and owner["job"] == me["job"] and owner.get("restart") != me.get("restart"):
        return False
    return silent < SILENCE


def _owner_in(content: bytes) -> dict[str, Any] | None:
    """What an owner's file says; None if it is none."""
    try:
        owner = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(owner, dict) or not {"host", "pid", "started"} <= set(owner):
        return None
    return owner if isinstance(owner["host"], str) and type(owner["pid"]) is int else None


def _touched(path: Path) -> float:
    return path.stat().st_mtime


def _remove_old_claims(path: Path) -> None:
    """What processes that were killed while they claimed have left; of a living one nothing is that old."""
    for left in path.parent.glob(f".{OWNER}.*"):
        with contextlib.suppress(FileNotFoundError):
            if _touched(path) - _touched(left) > SILENCE:
                left.unlink()


def _remove_half_written(folder: Path) -> None:
    """What owners that were killed have left of files they were writing; spec.json is written by others."""
    for pattern in (".*.tmp", "samples-*/.*.tmp"):
        for left in folder.glob(pattern):
            if HALF_WRITTEN.match(left.name) and left.is_file():
                left.unlink()


def _start_of(pid: int) -> str | None:
    """When a process of this machine started, in ticks since boot; None if there is none."""
    if not Path("/proc/self/stat").exists():
        return _start_by_ps(pid)
    try:
        # the name, in parentheses, may hold spaces: fields count from behind it
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _start_by_ps(pid: int) -> str | None:
    """The same as a date, where there is no /proc (macOS)."""
    ps = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    state, _, started = subprocess.run(ps, capture_output=True, text=True).stdout.strip().partition(" ")
    return None if state.startswith("Z") else started.strip() or None


def _beat(path: Path, me: dict[str, Any], ended: threading.Event, lost: threading.Event) -> None:
    """Signs of life; where the folder is another's by now, what SIGTERM does (nothing, where that is not caught)."""
    while not ended.wait(HEARTBEAT):
        if _is_still(path, me):
            with contextlib.suppress(OSError):
                os.utime(path)
        else:
            lost.set()
            _thread.interrupt_main(signal.SIGTERM)


def _is_still(path: Path, me: dict[str, Any]) -> bool:
    """Whether the owner's file is `me`; one that was removed is put there again."""
    try:
        return _owner_in(path.read_bytes()) == me
    except FileNotFoundError:
        with contextlib.suppress(UserError, OSError):
            claim(path, me)
        return True  # if it is another's, the next look says so
    except OSError:
        return True  # a file system that is away for a moment
