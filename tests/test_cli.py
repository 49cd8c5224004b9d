"""The command line as a user meets it: one line and an exit status for an error, and no import too many."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dblocks.record import read_record
from dblocks.run import execute
from tests.workflow.helpers import dblocks, environment, files_below, make_record, one_line, save_records

NOT_NEEDED = ("wandb", "pandas", "scipy", "sklearn", "snakemake", "matplotlib", "tqdm", "jsonschema", "PIL", "pyarrow")


@pytest.fixture
def run_folder(tmp_path, tiny_spec):
    """run_folder({section: {field: value}}): a folder with the spec.json of a tiny run."""

    def make(over: dict | None = None, method: str = "end_to_end") -> Path:
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "spec.json").write_text(tiny_spec(method, over).model_dump_json())
        return folder

    return make


def run_arguments(folder: Path, data: Path) -> list[object]:
    return ["run", folder / "spec.json", "--data", data / "manifest.json", "--quiet"]


SCRIPT = """
import json, sys
from importlib.machinery import PathFinder
class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
from dblocks.cli import main
code = main(sys.argv[1:])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
sys.exit(code)
"""


def test_a_run_needs_only_torch_numpy_pydantic_and_yaml(run_folder, digits_folder):
    folder = run_folder({"training": {"max_steps": 2}}, "diffusion_blocks")
    arguments = [str(part) for part in run_arguments(folder, digits_folder) if part != "--quiet"]
    process = subprocess.run(
        [sys.executable, "-c", f"ABSENT = {NOT_NEEDED!r}\n{SCRIPT}", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert {"torch", "numpy", "pydantic", "yaml"} <= set(json.loads(process.stdout.splitlines()[-1]))
    assert not set(json.loads(process.stdout.splitlines()[-1])) & set(NOT_NEEDED)
    assert read_record(folder / "record.json").metric("accuracy").samples == 360


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nowhere/spec.json", "--data", "x/manifest.json"], ["nowhere/spec.json", "no such file"]),
        (["prepare", "mnist1", "--folder", "out"], ["mnist1", "digits"]),
        (["table", "plans/table_77.json", "--folder", "out"], ["plans/table_77.json", "no such file"]),
        (["tables", "--from-records", "nowhere"], ["nowhere"]),
        (["show", "smoke"], ["results/smoke/tables", "snakemake"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input_is_one_line_and_status_2(tmp_path, arguments, said):
    line = one_line(dblocks(tmp_path, *arguments), 2)
    assert all(word in line for word in said)
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize("arguments", [[], ["paint"], ["run"], ["run", "spec.json"], ["tables"]])
def test_misuse_is_explained_with_status_2(tmp_path, arguments):
    process = dblocks(tmp_path, *arguments)
    assert process.returncode == 2
    assert process.stderr.startswith("usage: dblocks")
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("verb", ["run", "prepare", "table", "tables", "show", "schema"])
def test_every_verb_explains_itself(tmp_path, verb):
    process = dblocks(tmp_path, verb, "--help")
    assert process.returncode == 0
    assert f"usage: dblocks {verb}" in process.stdout


def test_training_that_fails_is_status_3_and_the_next_attempt_says_the_same_at_once(run_folder, digits_folder):
    over = {"training": {"max_steps": 3, "learning_rate": 1e30, "grad_clip": None}}
    folder = run_folder(over, "diffusion_blocks")
    first = one_line(dblocks(folder, *run_arguments(folder, digits_folder)), 3)
    assert all(word in first for word in ("loss is", "step", "block", "sigma"))
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(before) >= {"spec.json", "failed.json"} and not set(before) & {"record.json", "result.json"}
    second = one_line(dblocks(folder, *run_arguments(folder, digits_folder)), 3)
    assert second.startswith(first)
    assert "failed.json" in second
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_weights_that_give_no_number_fail_as_training_does(run_folder, digits_folder):
    # the one loss is finite, what it does to the weights is not
    over = {"training": {"max_steps": 1, "learning_rate": 1e30, "warmup_epochs": 0, "grad_clip": None}}
    folder = run_folder(over)
    line = one_line(dblocks(folder, *run_arguments(folder, digits_folder)), 3)
    assert "nan" in line or "finite" in line
    assert not (folder / "record.json").exists()
    assert (folder / "failed.json").exists()


def test_a_terminated_run_saves_ends_with_75_and_goes_on(run_folder, digits_folder):
    over = {"training": {"max_steps": 120, "epochs": 100}, "logging": {"log_every": 1}}
    folder = run_folder(over)
    command = [sys.executable, "-m", "dblocks", *map(str, run_arguments(folder, digits_folder))]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    log, deadline = folder / "log.jsonl", time.monotonic() + 60
    while not (log.exists() and log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, "the run did not start to train"
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert stderr.count("\n") == 1 and stderr.startswith("dblocks: stopped at step") and "of 120" in stderr
    assert list(folder.glob("step-*.pt")) and not (folder / "record.json").exists()

    again = dblocks(folder, *run_arguments(folder, digits_folder))
    assert again.returncode == 0, again.stderr
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(1, 121))
    assert not list(folder.glob("step-*.pt"))


def test_a_finished_run_is_only_checked(run_folder, digits_folder):
    folder = run_folder({"training": {"max_steps": 2}})
    assert dblocks(folder, *run_arguments(folder, digits_folder)).returncode == 0
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    text = (folder / "record.json").read_text()
    assert not (folder / "wandb").exists(), "W&B is off unless asked for"
    (folder / "record.json").unlink()
    # nothing of the data is read either
    assert dblocks(folder, *run_arguments(folder, folder / "no data")).returncode == 0
    assert (folder / "record.json").read_text() == text
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"record.json"}

    weights = next(folder.glob("weights-*.pt"))
    weights.write_bytes(weights.read_bytes()[:-1])
    assert weights.name in one_line(dblocks(folder, *run_arguments(folder, digits_folder)))


def test_show_prints_tables_and_where_they_lie(tmp_path):
    save_records(tmp_path / "results", [make_record(accuracy=91.25), make_record("vit/diffusion_blocks")])
    assert dblocks(tmp_path, "tables", "--from-records", "results").returncode == 0
    process = dblocks(tmp_path, "show", "smoke")
    assert process.returncode == 0
    assert "91.25 (n = 1)" in process.stdout
    assert "results/smoke/tables/table_1.md" in process.stdout
    places = [process.stdout.index(f"tables/{name}.md") for name in ("headline", "table_1", "isolation")]
    assert places == sorted(places)


def test_what_a_terminal_cannot_show_is_replaced(tmp_path):
    for name in ("a", "b"):
        save_records(tmp_path / name, [make_record(accuracy=91.25)])
    assert dblocks(tmp_path, "tables", "--from-records", "a", "--to", "results").returncode == 0
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (tmp_path / "results" / "smoke" / "tables" / "table_1.md").write_text("Zürich 91.25 ± 0.30", encoding="utf-8")
    for arguments, said in ((("show", "smoke"), "rich 91.25"), (("compare", "a", "b"), "91.25")):
        process = dblocks(tmp_path, *arguments, **plain)
        assert process.returncode == 0 and said in process.stdout, process.stderr


def test_memory_is_that_of_the_process_that_trained_or_of_none(run_folder, digits_folder):
    path = run_folder() / "spec.json"
    first = read_record(execute(path, digits_folder))
    assert first.peak_memory_bytes > 0
    for name in ("record.json", "result.json"):
        (path.parent / name).unlink()
    # trained already: this process evaluates alone, and its memory is not the training's
    assert read_record(execute(path, digits_folder)).peak_memory_bytes is None
