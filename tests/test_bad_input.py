"""Bad inputs to real Snakemake and to running jobs: one clear line each, a non-zero exit, and nothing half-written.

All that have a name are in bad_input/.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dblocks.cli import main
from dblocks.record import read_record
from tests.bad_input.cases import CONFIGURATION
from tests.workflow.helpers import (
    copy_repository,
    dblocks,
    environment,
    files_below,
    make_record,
    one_line,
    save_records,
    snakemake,
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A fresh clone, put back as it was after each test."""
    return copy_repository(tmp_path_factory.mktemp("bad") / "repository")


@pytest.mark.parametrize("name", ["unknown key", "broken YAML", "an infinite budget", "a claim about no row"])
def test_a_configuration_that_cannot_be_is_refused_by_the_plan(repository, name):
    case = CONFIGURATION[name]
    path = repository / "config" / case.file
    before, text = files_below(repository), path.read_bytes()
    try:
        case.apply(repository / "config")
        line = one_line(snakemake(repository, "all"))
    finally:
        path.write_bytes(text)
    assert all(word in line for word in (f"config/{case.file}", *case.said)), line
    assert files_below(repository) == before


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("scale=huge", ["scale", "huge", "smoke, short, paper"]),
        ("sale=paper", ["sale", "scale"]),
        ("override={training: {epochs: [}}", ["override", "not YAML"]),
        (
            f"override_runs={{mdm: {{data: {{name: characters, title: t, path: {'f' * 300}}}}}}}",
            ["fff", "name too long"],
        ),
        ("results_dir=README.md/results", ["results_dir", "README.md/results", "Not a directory"]),
    ],
)
def test_a_command_line_that_cannot_be_is_refused_by_the_plan(repository, setting, said):
    before = files_below(repository)
    line = one_line(snakemake(repository, "all", "--config", setting))
    assert all(word in line for word in said), line
    assert files_below(repository) == before


def test_a_truncated_array_is_refused_by_name(tmp_path, tiny_spec, digits_folder):
    data = Path(shutil.copytree(digits_folder, tmp_path / "data"))
    array = data / "train_images.npy"
    array.write_bytes(array.read_bytes()[:-100])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "spec.json").write_text(tiny_spec("end_to_end").model_dump_json())
    line = one_line(dblocks(tmp_path, "run", "run/spec.json", "--data", "data/manifest.json"))
    assert str(array.relative_to(tmp_path)) in line and "truncated" in line and "prepare" in line
    assert files_below(tmp_path / "run") == {"spec.json"}


def test_a_spec_with_an_unknown_key_is_refused_by_name(tmp_path, tiny_spec, digits_folder):
    content = json.loads(tiny_spec("end_to_end").model_dump_json())
    content["training"]["epoch"] = 3
    (tmp_path / "spec.json").write_text(json.dumps(content))
    line = one_line(dblocks(tmp_path, "run", "spec.json", "--data", digits_folder / "manifest.json"))
    assert "spec.json" in line and "training.epoch" in line
    assert files_below(tmp_path) == {"spec.json"}


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"))


def test_a_corrupted_checkpoint_is_refused_and_the_one_before_is_used(tmp_path, tiny_spec, digits_folder):
    over = {
        "training": {"max_steps": 80, "epochs": 100},
        "logging": {"log_every": 1, "checkpoint_steps": 5},
    }
    (tmp_path / "spec.json").write_text(tiny_spec("end_to_end", over).model_dump_json())
    arguments = ["run", "spec.json", "--data", str(digits_folder / "manifest.json"), "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dblocks", *arguments], cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(checkpoints(tmp_path)) < 2:
        assert process.poll() is None and time.monotonic() < deadline, "the run saved no two checkpoints"
        time.sleep(0.002)
    process.kill()
    process.wait(timeout=10)

    before, broken = checkpoints(tmp_path)[-2:]
    broken.write_bytes(broken.read_bytes()[:-1])
    step = int(before.name.split("-")[1])
    log = (tmp_path / "log.jsonl").read_text().splitlines()[:step]

    again = dblocks(tmp_path, *arguments)
    assert again.returncode == 0, again.stderr
    assert [broken.name in line and "refused" in line for line in again.stderr.splitlines()] == [True]
    # lines hold the seconds they were written after: these were not written anew
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert lines[:step] == log and len(lines) == 80
    assert read_record(tmp_path / "record.json").steps == 80


def test_a_record_with_a_missing_field_makes_no_table(tmp_path):
    (path,) = save_records(tmp_path, [make_record()])
    content = json.loads(path.read_text())
    del content["budget"]
    path.write_text(json.dumps(content))
    line = one_line(dblocks(tmp_path, "tables", "--from-records", "."))
    assert str(path.relative_to(tmp_path)) in line and "budget" in line
    assert files_below(tmp_path) == {str(path.relative_to(tmp_path))}


LINE = b'{"step": %d, "loss": {"all": 2.5}, "learning_rate": 0.1, "seconds": 4.5}'


@pytest.fixture
def trained(tmp_path, tiny_spec, digits_folder) -> Path:
    """A run's folder with weights and log, but no record."""
    over = {"training": {"max_steps": 3}, "logging": {"log_every": 1}, "data": {"max_evaluation_samples": 4}}
    (tmp_path / "spec.json").write_text(tiny_spec("end_to_end", over).model_dump_json())
    assert main(["run", str(tmp_path / "spec.json"), "--data", str(digits_folder / "manifest.json"), "--quiet"]) == 0
    for name in ("record.json", "result.json"):
        (tmp_path / name).unlink()
    return tmp_path


@pytest.mark.parametrize("content", [None, b"", b"\xff\n", LINE % 2 + b"\n", LINE % 2 + b"\n" + LINE[:9]])
def test_trained_weights_without_all_of_their_log_are_refused_by_name(trained, capfd, digits_folder, content):
    (trained / "log.jsonl").unlink()
    if content is not None:
        (trained / "log.jsonl").write_bytes(content)
    line = refusal(trained, digits_folder, capfd)
    assert "log.jsonl: missing, or does not end at step 3, and weights-" in line


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (LINE % 1 + b"\n\x80" + LINE % 2 + b"\n" + LINE % 3 + b"\n", "line 2: not JSON"),
        (LINE % 1 + b"\n\n" + LINE % 3 + b"\n", "line 2: not JSON"),
        (LINE % 1 + LINE % 2 + b"\n" + LINE % 3 + b"\n", "line 1: not JSON"),
        (LINE % 1 + b"\n[1]\n", "line 2: no JSON object"),
        (b"[" * 100_000, "line 1: nested too deeply"),
        (LINE.replace(b"%d", b'"3"'), "line 1: step: must be a whole number"),
        (LINE.replace(b"%d", b"true"), "line 1: step: must be a whole number"),
        ((LINE % 3).replace(b"4.5", b'"4.5"'), "line 1: seconds: must be a number"),
        ((LINE % 3).replace(b"4.5", b"-4.5"), "line 1: seconds: must be a number from 0"),
        ((LINE % 3).replace(b"4.5", b"NaN"), "line 1: seconds: must be a number"),
        ((LINE % 3).replace(b"4.5", b"1" * 400), "line 1: seconds: must be a number"),
        ((LINE % 3).replace(b"0.1", b"null"), "line 1: learning_rate: must be a number"),
        ((LINE % 3).replace(b"2.5", b"[]"), "line 1: loss: must be a number for each block"),
        (b'{"step": 3}', "line 1: learning_rate: must be a number"),
    ],
)
def test_a_log_with_another_damaged_line_than_a_cut_off_last_one_is_refused_by_line(
    trained, capfd, digits_folder, content, problem
):
    log = trained / "log.jsonl"
    log.write_bytes(content)
    assert f"log.jsonl: {problem}" in refusal(trained, digits_folder, capfd)
    for weights in trained.glob("weights-*.pt"):
        weights.unlink()
    assert f"log.jsonl: {problem}" in refusal(trained, digits_folder, capfd)
    assert log.read_bytes() == content, "nothing is written anew"


def test_a_remembered_failure_that_cannot_be_read_is_one_line(trained, capfd, digits_folder):
    (trained / "failed.json").write_text("[" * 100_000)
    assert "what was written of it cannot be read" in refusal(trained, digits_folder, capfd, 3)


def refusal(folder: Path, digits_folder: Path, capfd: pytest.CaptureFixture, code: int = 2) -> str:
    """The one line with which a run ends that may not go on."""
    capfd.readouterr()
    assert main(["run", str(folder / "spec.json"), "--data", str(digits_folder / "manifest.json"), "--quiet"]) == code
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert not (folder / "record.json").exists()
    return line
