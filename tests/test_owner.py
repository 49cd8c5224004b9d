"""A run folder has one owner at a time."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dblocks import owner
from dblocks.errors import UserError
from dblocks.owner import OWNER, SILENCE, identity_of, owned, read
from dblocks.stopping import interrupt_on_signals

ELSEWHERE = {"host": "elsewhere", "pid": 1, "started": "1", "job": "7"}
DEAD = identity_of(1) | {"started": "0"}

HOLD = "import sys, time; from pathlib import Path; from dblocks.owner import owned\n"
HOLD += "with owned(Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)"
# takes a dead owner's place again and again; fails if another is inside at the same time
CLAIM = """
import json, os, sys
from pathlib import Path
from dblocks import owner
from dblocks.errors import UserError

place, dead = Path(sys.argv[1]), Path(f"{sys.argv[1]}/dead.{os.getpid()}")
for _ in range(200):
    try:
        with owner.owned(place / "run"):
            os.close(os.open(place / "inside", os.O_CREAT | os.O_EXCL))
            with open(place / "owned", "a") as file:
                file.write(".")
            os.unlink(place / "inside")
            # as if it had been killed here
            dead.write_text(json.dumps(owner.identity_of(os.getpid()) | {"started": "0"}))
            os.replace(dead, place / "run" / owner.OWNER)
    except UserError:
        pass
"""


def holder(folder: Path) -> subprocess.Popen:
    """Another process that owns the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    return process


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("never came true")


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


@pytest.mark.skipif(shutil.which("ps") is None, reason="no ps here")
def test_where_there_is_no_proc_ps_tells_the_living_from_the_dead():
    process = subprocess.Popen(["sleep", "60"])
    try:
        started = owner._start_by_ps(process.pid)
        assert started and started == owner._start_by_ps(process.pid)
    finally:
        process.kill()
    wait_until(lambda: owner._start_by_ps(process.pid) is None)  # dead, and not waited for: a zombie
    process.wait()
    assert owner._start_by_ps(process.pid) is None


def test_another_machine_is_judged_by_its_heartbeat(tmp_path):
    path = tmp_path / OWNER
    path.write_text(json.dumps(ELSEWHERE))
    with pytest.raises(UserError, match="on elsewhere, SLURM job 7"), owned(tmp_path):
        pass
    long_ago = time.time() - SILENCE - 1
    os.utime(path, (long_ago, long_ago))
    with owned(tmp_path):
        pass


def test_another_machines_clock_does_not_count(tmp_path, monkeypatch):
    path = tmp_path / OWNER
    path.write_text(json.dumps(ELSEWHERE))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)  # this machine's is an hour ahead of the file system's
    with pytest.raises(UserError, match="on elsewhere"), owned(tmp_path):
        pass


def test_a_requeued_job_takes_over_from_itself_on_another_node(tmp_path, monkeypatch):
    path = tmp_path / OWNER
    path.write_text(json.dumps(ELSEWHERE))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with owned(tmp_path):
        assert read(path) == identity_of(os.getpid())


def test_two_nodes_of_one_job_are_two_owners(tmp_path, monkeypatch):
    path = tmp_path / OWNER
    path.write_text(json.dumps(ELSEWHERE))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(UserError, match="on elsewhere, SLURM job 7"), owned(tmp_path):
        pass


@pytest.mark.parametrize(
    "content",
    ['{"host": "h', "[" * 100_000, '{"host": 1, "pid": 1, "started": "1"}', '{"host": "h", "pid": "1", "started": ""}'],
)
def test_a_broken_owner_file_does_not_lock_for_ever(tmp_path, content):
    (tmp_path / OWNER).write_text(content)
    with owned(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_owner_files_place_is_refused_by_name_and_nothing_is_left(tmp_path):
    (tmp_path / OWNER / "kept").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{OWNER}: a folder, .*; remove it$"), owned(tmp_path):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == [OWNER, "kept"]


def test_a_claim_whose_answer_was_lost_on_the_way_is_a_claim(tmp_path, monkeypatch):
    link = os.link

    def link_and_try_again(*paths: Path) -> None:
        link(*paths)
        link(*paths)

    monkeypatch.setattr(os, "link", link_and_try_again)
    with owned(tmp_path):
        assert read(tmp_path / OWNER) == identity_of(os.getpid())


def test_what_killed_owners_were_writing_goes_and_nothing_else(tmp_path):
    left = {".step-000000005.77.tmp", ".weights.77.tmp", ".log.jsonl.77.tmp", ".result.json.77.tmp"}
    left |= {"samples-test/.0-0000000-4.npz.77.tmp"}
    kept = {".spec.json.77.tmp", ".mine.tmp", "step-000000005.77.tmp", "blocks/1/.weights.77.tmp", "samples-test/a.npz"}
    for name in left | kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with owned(tmp_path):
        pass
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == kept


# two that take a dead owner's place


def test_a_slower_process_leaves_the_quicker_one_what_both_saw_free(tmp_path, monkeypatch):
    path, quicker = tmp_path / OWNER, ELSEWHERE | {"host": "quicker"}
    path.write_text(json.dumps(DEAD))
    look = owner.is_alive

    def look_slowly(found: dict, *rest: object) -> bool:
        alive = look(found, *rest)
        if found == DEAD:
            path.write_text(json.dumps(quicker))
        return alive

    monkeypatch.setattr(owner, "is_alive", look_slowly)
    with pytest.raises(UserError, match="in use by process 1 on quicker"), owned(tmp_path):
        pass
    assert read(path) == quicker
    assert list(tmp_path.iterdir()) == [path]


def test_of_many_that_take_a_dead_owners_place_one_at_a_time_has_it(tmp_path):
    (tmp_path / "run").mkdir()
    processes = [
        subprocess.Popen([sys.executable, "-c", CLAIM, str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert errors == [""] * 6
    assert (tmp_path / "owned").stat().st_size > 0


def test_a_process_that_was_killed_as_it_took_a_dead_ones_place_is_dead_too(tmp_path, monkeypatch):
    (tmp_path / OWNER).write_text(json.dumps(DEAD))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt), owned(tmp_path):
        pass
    monkeypatch.undo()
    (place,) = (path for path in tmp_path.glob(f".{OWNER}.*") if len(path.suffix) == 17)
    assert read(place) == identity_of(os.getpid())
    place.write_text(json.dumps(DEAD | {"pid": 2}))
    with owned(tmp_path):
        assert read(tmp_path / OWNER) == identity_of(os.getpid())
    assert not place.exists()


def test_an_owner_whose_file_was_removed_puts_it_there_again(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "HEARTBEAT", 0.01)
    with owned(tmp_path):
        (tmp_path / OWNER).unlink()
        wait_until(lambda: read(tmp_path / OWNER) == identity_of(os.getpid()))


def test_an_owner_that_was_taken_for_dead_stops_in_one_line_and_leaves_the_place(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "HEARTBEAT", 0.01)
    taken = r": taken over by process 1 on elsewhere, SLURM job 7, as if this process were dead; it stopped$"
    with pytest.raises(UserError, match=taken), owned(tmp_path), interrupt_on_signals():
        (tmp_path / "theirs").write_text(json.dumps(ELSEWHERE))
        (tmp_path / "theirs").rename(tmp_path / OWNER)
        wait_until(lambda: False)
    assert read(tmp_path / OWNER) == ELSEWHERE


def test_what_killed_claims_have_left_goes_when_it_is_old(tmp_path):
    for name, age in ((".owner.json.h.1", SILENCE + 1), (".owner.json.h.1.dead", SILENCE + 1), (".owner.json.h.2", 1)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    with owned(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".owner.json.h.2"]
