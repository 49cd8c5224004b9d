"""What W&B's own reader finds in the offline run that a finished run leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dblocks.identity import identity, run_name
from dblocks.record import read_record
from dblocks.report.wandb_export import export
from dblocks.run import read_spec
from dblocks.runlog import read_log
from tests.report.wandb_server import wandb_server
from tests.workflow.helpers import dblocks, environment, one_line

MISSING_KEY = {"WANDB_API_KEY": "", "NETRC": "/nonexistent/netrc"}
# a closed port of this machine, so that nothing can go out however W&B behaves
OFFLINE = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "10"}


def run_it(folder: Path, data: Path, mode: str, **extra: str):
    """`dblocks run` with a home directory of its own, so that no one's key is found."""
    own = {"HOME": str(folder.parent), "XDG_CONFIG_HOME": str(folder.parent), **extra}
    return dblocks(folder, "run", "spec.json", "--data", data / "manifest.json", "--quiet", "--wandb", mode, **own)


def offline_runs(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


def inspect(folder: Path, *options: str) -> list[dict]:
    """The JSON that W&B's reader prints of the only offline run in `folder`."""
    (run,) = offline_runs(folder)
    tool = Path(sys.executable).with_name("wandb")
    process = subprocess.run(
        [tool, "leet", "inspect", "--json", *options, run],
        env=environment(HOME=str(folder.parent)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [json.loads(process.stdout)] if options else [json.loads(line) for line in process.stdout.splitlines()]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_spec, digits_folder) -> Path:
    """The folder of a tiny run that was finished with W&B offline."""
    folder = tmp_path_factory.mktemp("wandb") / "run"
    folder.mkdir()
    over = {"training": {"max_steps": 4}, "logging": {"log_every": 5}}
    (folder / "spec.json").write_text(tiny_spec("diffusion_blocks", over).model_dump_json())
    process = run_it(folder, digits_folder, "offline")
    assert process.returncode == 0, process.stderr
    return folder


def same_run(folder: Path) -> dict:
    """The W&B summary of `folder`, after checking it against the run's own files."""
    (found,) = inspect(folder, "--summary")
    spec, record = read_spec(folder / "spec.json"), read_record(folder / "record.json")
    assert found["run_id"] == record.wandb_id
    assert (found["project"], found["state"], found["exit_code"]) == ("dblocks", "finished", 0)
    assert found["config"] == json.loads(spec.model_dump_json())
    assert {metric.name: found["summary"][metric.name] for metric in record.metrics} == {
        metric.name: metric.value for metric in record.metrics
    }
    kept = ("budget", "parameters", "train_seconds", "peak_memory_bytes")
    # memory that is not known, after a restart, is left out
    expected = {name: getattr(record, name) for name in kept if getattr(record, name) is not None}
    assert {name: found["summary"][name] for name in kept if name in found["summary"]} == expected
    assert found["summary"]["identity"] == identity(spec)
    return found


def test_a_finished_run_is_one_wandb_run_with_its_spec_and_metrics(exported):
    found = same_run(exported)
    assert {"smoke", "table_1", "ViT + DiffusionBlocks"} <= set(found["tags"])


def test_the_run_belongs_to_the_group_of_its_seeds(exported):
    (run,) = [record["run"] for record in inspect(exported) if record["type"] == "run"]
    assert run["run_group"] == run_name(read_spec(exported / "spec.json"))


def test_the_history_is_the_log(exported):
    log = read_log(exported / "log.jsonl")
    history = [record["history"] for record in inspect(exported) if record["type"] == "history"]
    assert [entry["step"]["num"] for entry in history] == [line["step"] for line in log] == [5, 10, 12]
    for entry, line in zip(history, log, strict=True):
        own = {name: value for name, value in entry["item"].items() if not name.startswith("_")}
        losses = {f"loss/{block}": value for block, value in line["loss"].items()}
        assert own == {**losses, "learning_rate": line["learning_rate"], "seconds": line["seconds"]}


def test_exporting_again_leaves_one_run(exported, digits_folder):
    (before,) = offline_runs(exported)
    weights = next(exported.glob("weights-*.pt")).stat().st_mtime_ns
    # as if killed between export and record: weights are there, the record is not
    (exported / "record.json").unlink()
    (exported / "result.json").unlink()
    assert run_it(exported, digits_folder, "offline").returncode == 0
    assert next(exported.glob("weights-*.pt")).stat().st_mtime_ns == weights
    (after,) = offline_runs(exported)
    assert after.name.partition("-smoke")[2] == before.name.partition("-smoke")[2]
    same_run(exported)


def test_seconds_of_another_runs_training_are_not_this_runs(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    record = read_record(tmp_path / "run" / "record.json").model_copy(update={"trained_as": "another/seed0"})
    export(record, tmp_path / "run", "offline")
    (found,) = inspect(tmp_path / "run", "--summary")
    assert found["summary"]["trained_as"] == "another/seed0" and "train_seconds" not in found["summary"]


@pytest.mark.parametrize("key", [MISSING_KEY, {"WANDB_API_KEY": "malformed"}], ids=["missing", "malformed"])
def test_online_without_a_good_key_is_one_line(tmp_path, tiny_spec, digits_folder, key):
    (tmp_path / "run").mkdir()
    spec = tiny_spec("end_to_end", {"training": {"max_steps": 1}})
    (tmp_path / "run" / "spec.json").write_text(spec.model_dump_json())
    line = one_line(run_it(tmp_path / "run", digits_folder, "online", **OFFLINE, **key))
    assert "W&B" in line and "WANDB_API_KEY" in line and "wandb=offline" in line
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not {name for name in left if name.startswith(("record", "result", "failed", "weights", "log"))}


STREAM = """
import sys
from pathlib import Path
from dblocks.record import read_record
from dblocks.report.wandb_export import export, stream
from dblocks.runlog import read_log

folder = Path(sys.argv[1])
record, lines = read_record(folder / "record.json"), read_log(folder / "log.jsonl")
for line in lines[:2]:
    with stream(record.spec, record.wandb_id, folder) as on_log:  # a run that is cut off after each line
        on_log(line)
export(record, folder, "online")
"""


def test_a_run_that_is_streamed_in_several_attempts_is_one_run_with_each_line_once(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / exported.name)
    record = read_record(folder / "record.json")
    steps = [line["step"] for line in read_log(folder / "log.jsonl")]
    assert len(steps) > 2, "some are left for the end"
    with wandb_server() as server:
        process = subprocess.run(
            [sys.executable, "-c", STREAM, folder],
            env=environment(HOME=str(tmp_path), **server.settings),
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert process.returncode == 0, process.stderr
    assert set(server.runs) == {record.wandb_id}
    assert [line["_step"] for line in server.histories[record.wandb_id]] == steps
