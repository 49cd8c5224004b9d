"""A run folder has one owner at a time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dblocks.errors import UserError
from dblocks.owner import OWNER, SILENCE, claim, identity_of, owned, read

HOLD = "import sys, time; from pathlib import Path; from dblocks.owner import owned\n"
HOLD += "with owned(Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)"


def holder(folder: Path) -> subprocess.Popen:
    """Another process that owns the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    return process


def test_a_live_owner_is_respected_and_a_killed_one_is_not(tmp_path):
    process = holder(tmp_path)
    try:
        with pytest.raises(UserError, match=f"in use by process {process.pid} on "), owned(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
    with owned(tmp_path):
        assert read(tmp_path / OWNER)["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_free_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), owned(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_used_again_process_number_is_not_the_owner(tmp_path):
    someone = identity_of(1) | {"started": "0"}
    (tmp_path / OWNER).write_text(json.dumps(someone))
    with owned(tmp_path):
        pass


def test_another_machine_is_judged_by_its_heartbeat(tmp_path):
    path = tmp_path / OWNER
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "job": "7"}))
    with pytest.raises(UserError, match="on elsewhere, SLURM job 7"), owned(tmp_path):
        pass
    long_ago = time.time() - SILENCE - 1
    os.utime(path, (long_ago, long_ago))
    with owned(tmp_path):
        pass


def test_a_requeued_job_takes_over_from_itself_on_another_node(tmp_path):
    path = tmp_path / OWNER
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "job": "7"}))
    claim(path, identity_of(os.getpid()) | {"job": "7"})
    assert read(path)["pid"] == os.getpid()


def test_a_broken_owner_file_does_not_lock_for_ever(tmp_path):
    (tmp_path / OWNER).write_text('{"host": "h')
    with owned(tmp_path):
        pass
