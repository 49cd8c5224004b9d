"""The whole pipeline by real Snakemake, each run cut to two steps."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from dblocks.config import load_scales
from dblocks.measure.measurement import read_measurement
from dblocks.plan import Plan
from dblocks.planning import make_plan
from dblocks.record import read_record
from dblocks.tables import load_tables
from tests.report.wandb_server import wandb_server
from tests.workflow.helpers import (
    BUILT,
    REPOSITORY,
    TINY,
    copy_repository,
    edit,
    environment,
    files_below,
    snakemake,
)

TABLES = {name: table for name, table in load_tables().items() if table.in_all}
GATED = "skip=[imagenet256,llama2,llama2-tokenizer]"  # what only a person can bring
CONFIG = ("--config", *TINY)
NOTHING = "Nothing to be done"


def training(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of everything that training leaves, by path."""
    files = [path for name in ("weights-*.pt", "log.jsonl") for path in (folder / "results").rglob(name)]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def jobs(stderr: str) -> list[str]:
    """Rules of the jobs that ran, in order."""
    lines = [line.removeprefix("local") for line in stderr.splitlines()]
    return [line.split()[1].rstrip(":") for line in lines if line.startswith(("rule ", "checkpoint "))]


def ended_well(process: subprocess.CompletedProcess) -> str:
    """Stderr of a process that ended with 0."""
    assert process.returncode == 0, (process.stdout + process.stderr)[-3000:]
    return process.stderr


def runs_of_all(plan: Plan) -> set[str]:
    """The runs that `all` brings to their records: those its tables read, and those that these need."""
    runs = {plan.run_of[run] for table in TABLES.values() for run in table.runs if run in plan.run_of}
    return runs | {needed for run in runs for needed in plan.needed[run].values()}


def test_every_table_is_built(finished):
    for name, table in TABLES.items():
        folder = finished / "results" / "smoke" / "tables"
        suffixes = {".csv", ".md", ".tex"} | ({".svg"} if table.figure else set())
        assert {path.suffix for path in folder.glob(f"{name}.*")} == suffixes
        with open(folder / f"{name}.csv", newline="") as file:
            lines = list(csv.DictReader(file))
        assert {line["row"] for line in lines if line["mean"]} == {row.row for row in table.rows}


def test_every_run_has_a_record_a_log_and_a_benchmark(finished):
    root = finished / "results" / "smoke"
    records = sorted((root / "runs").glob("*/seed0/record.json"))
    assert {path.parent.parent.name for path in records} == runs_of_all(make_plan({"max_steps": 2, "max_samples": 4}))
    for path in records:
        run = path.parent.parent.name
        assert read_record(path).spec.training.max_steps == 2
        assert (root / "logs" / run / "seed0.log").exists()
        assert (root / "benchmarks" / run / "seed0.tsv").exists()
        assert not list(path.parent.glob("step-*.pt"))


def test_the_reports_are_there(finished):
    root = finished / "results" / "smoke"
    text = (root / "report.html").read_text()
    assert all(f'id="{name}"' in text for name in TABLES)
    assert {path.stem for path in (root / "wandb").glob("*.json")} == {*TABLES, "overview"}
    assert not list((root / "wandb").glob("*.url"))  # nothing is sent unless asked


def test_snakemakes_own_report_has_tables_and_page(finished, tmp_path):
    ended_well(snakemake(finished, "all", "--report", tmp_path / "report.zip", *CONFIG))
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        names = {Path(name).name for name in archive.namelist()}
    assert {f"{name}.csv" for name in TABLES} | {"report.html"} <= names


def test_blocks_in_parallel_had_a_job_each(finished):
    root, plan = finished / "results" / "smoke", make_plan({"max_steps": 2, "max_samples": 4})
    parallel = [run for run in plan.runs if plan.blocks_of(run, 0)]
    assert len(parallel) >= 2
    for run in parallel:
        for path in plan.blocks_of(run, 0):
            assert (finished / path).exists()
            assert (root / "benchmarks" / run / f"seed0-block{path.parent.name}.tsv").exists()


def test_runs_that_differ_in_prediction_alone_were_trained_once(finished):
    runs, plan = finished / "results" / "smoke" / "runs", make_plan({"max_steps": 2, "max_samples": 4})
    shared = {
        run: trainer for run, trainer in plan.trained_as.items() if (runs / run / "seed0" / "record.json").exists()
    }
    same = {
        "vit/bridge_normalized": "vit/diffusion_blocks",
        "dit_cifar10/end_to_end_rho7": "dit_cifar10/end_to_end",
        "dit_cifar10/diffusion_blocks_rho7": "dit_cifar10/diffusion_blocks",
        "noprop/diffusion_blocks_hard": "noprop/diffusion_blocks",
    }
    assert shared == {plan.run_of[run]: plan.run_of[trainer] for run, trainer in same.items()}
    for run, trainer in shared.items():
        taken, first = (read_record(runs / name / "seed0" / "record.json") for name in (run, trainer))
        assert taken.trained_as == f"{trainer}/seed0" and taken.weights == first.weights
        logs = [finished / "results" / "smoke" / "logs" / name / "seed0.log" for name in (run, trainer)]
        full = [re.search(r"\b(\d+)/\1 \[", log.read_text()) is not None for log in logs]
        assert full == [False, True], "who trained has a full bar"
        own, other = (runs / name / "seed0" / "log.jsonl" for name in (run, trainer))
        assert own.read_bytes() == other.read_bytes()


def test_every_measurement_is_taken(finished):
    plan = make_plan({"max_steps": 2, "max_samples": 4})
    for name, request in plan.measurements.items():
        assert read_measurement(finished / plan.measurement(name)).identity == request.identity


def test_called_again_there_is_nothing_to_do(finished):
    before = training(finished)
    assert NOTHING in ended_well(snakemake(finished, "all", *CONFIG))
    assert training(finished) == before


def test_touched_configuration_repeats_nothing(pipeline):
    for path in (pipeline / "config").rglob("*.yaml"):
        os.utime(path)
    for path in (pipeline / "results").rglob("spec.json"):
        os.utime(path)
    assert NOTHING in ended_well(snakemake(pipeline, *BUILT, *CONFIG))


def test_an_edited_rule_repeats_no_training(pipeline):
    before = training(pipeline)
    edit(pipeline / "workflow" / "rules" / "run.smk", '"python -m dblocks run ', '"python  -m dblocks run --quiet ')
    ran = jobs(ended_well(snakemake(pipeline, "table_1", *CONFIG)))
    assert ran.count("run") == len({row.run for row in TABLES["table_1"].rows})
    assert training(pipeline) == before


def test_a_fresh_clone_with_results_copied_in_repeats_no_training(finished, tmp_path):
    clone = copy_repository(tmp_path / "clone")
    shutil.copytree(finished / "results", clone / "results", copy_function=shutil.copy, dirs_exist_ok=True)
    before = training(clone)
    # a copy has new times in any order; here a run's inputs are even the newest: it is checked, and not trained
    for name in ("spec.json", "manifest.json"):
        for path in (clone / "results").rglob(name):
            os.utime(path)
    ended_well(snakemake(clone, *BUILT, *CONFIG))
    assert training(clone) == before


def test_a_record_that_was_deleted_is_written_again_without_training(pipeline):
    before = training(pipeline)
    record = next((pipeline / "results").rglob("record.json"))
    text = record.read_text()
    record.unlink()
    assert jobs(ended_well(snakemake(pipeline, record.relative_to(pipeline), *CONFIG))) == ["run"]
    assert record.read_text() == text
    assert training(pipeline) == before


def test_another_setting_is_another_folder_and_the_old_one_stays(pipeline):
    before = training(pipeline)
    changed = ("--config", "max_steps=1", "wandb=off")
    process = snakemake(pipeline, "-n", "all", *changed)
    plan = make_plan({"max_steps": 1})
    assert jobs(ended_well(process) + process.stdout).count("run") == len(runs_of_all(plan))
    assert len(list((pipeline / "results").rglob("spec.json"))) == 2 * len(
        plan.runs
    )  # the old ones, and now as many new
    assert training(pipeline) == before


def test_a_run_that_fails_leaves_its_reason_and_fails_at_once_the_next_time(pipeline):
    before = training(pipeline)
    setting = {"max_steps": 2, "max_samples": 4, "override": {"training": {"learning_rate": 1e30}}}
    record = make_plan(setting).records_of_row("vit/diffusion_blocks")[0]
    folder = pipeline / record.parent
    arguments = (record, "--config", *TINY, "override={training: {learning_rate: 1e30}}")

    assert snakemake(pipeline, *arguments).returncode == 1
    assert (folder / "failed.json").exists() and not (folder / "record.json").exists()
    (first,) = last_words(pipeline, folder)
    assert all(word in first for word in ("loss is nan", "step", "block", "sigma"))
    after = {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    assert snakemake(pipeline, *arguments).returncode == 1
    (again,) = last_words(pipeline, folder)
    assert again.startswith(first) and "failed.json" in again
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == after
    assert {path: content for path, content in training(pipeline).items() if path in before} == before


def last_words(pipeline: Path, folder: Path) -> list[str]:
    """The message that a run's last attempt ended with, on a line of its own."""
    log = pipeline / "results" / "smoke" / "logs" / folder.parent.name / f"{folder.name}.log"
    return [line for line in log.read_text().splitlines() if line.startswith("dblocks: ")]


# --- plans


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A fresh clone, for plans only."""
    return copy_repository(tmp_path_factory.mktemp("plan") / "clone")


@pytest.mark.parametrize("scale", [scale for scale in load_scales() if scale != "smoke"])
def test_a_plan_needs_neither_data_nor_gpu_and_writes_only_specs(clone, scale):
    before = files_below(clone)
    process = snakemake(clone, "-n", "all", "--config", f"scale={scale}", "data_dir=nowhere", GATED)
    first = ended_well(process).splitlines()[0]
    assert all(word in first for word in (f"scale {scale}", "seeds 3", "nowhere"))
    planned = jobs(process.stderr + process.stdout)
    plan = make_plan({"scale": scale, "data_dir": "nowhere", "skip": ["imagenet256", "llama2", "llama2-tokenizer"]})
    assert (planned.count("run"), planned.count("table")) == (3 * len(runs_of_all(plan)), len(TABLES))
    names = [Path(path).name for path in files_below(clone) - before]
    measured = {row.measurement for table in TABLES.values() for row in table.rows if row.measurement}
    # also of the tables that `all` leaves out
    wanted = ["spec.json"] * 3 * len(plan.runs) + ["request.json"] * len(measured)
    wanted += [f"{table}.json" for table in plan.tables]
    assert sorted(names) == sorted(wanted)


def test_a_table_that_all_leaves_out_is_made_when_it_is_asked_for(clone):
    process = snakemake(clone, "-n", "choices", "--config", "seeds=2", "scale=short", "data_dir=nowhere")
    ended_well(process)
    planned = jobs(process.stderr + process.stdout)
    choices = load_tables()["choices"]
    assert (planned.count("run"), planned.count("table")) == (2 * len(choices.rows), 1)


def test_scheduling_options_are_snakemakes_and_let_a_cluster_be_filled_at_once(clone):
    (line,) = re.findall(r"^SCHEDULING := (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    process = snakemake(clone, "-n", "table_1", *line.split())
    assert jobs(ended_well(process) + process.stdout).count("table") == 1
    profile = yaml.safe_load((REPOSITORY / "slurm" / "profile.yaml").read_text())
    assert profile["scheduler-subsample"] >= profile["jobs"]
    process = snakemake(clone, "-n", "table_1", "--profile", "slurm", "--config", "scale=smoke")
    assert jobs(ended_well(process) + process.stdout).count("table") == 1


def test_seeds_are_runs_of_their_own(clone):
    process = snakemake(clone, "-n", "table_1", "--config", "seeds=3")
    assert "seeds 3" in ended_well(process).splitlines()[0]
    assert jobs(process.stderr + process.stdout).count("run") == 3 * len(TABLES["table_1"].rows)


def test_skipped_data_is_not_run_and_its_cells_say_so(clone):
    embedded = "digits,digits16,austen,austen_sentences,austen_chapters"
    # depth has a figure, which is then of nothing
    process = snakemake(clone, *BUILT, "depth", "--config", f"skip=[{embedded}]", "results_dir=elsewhere")
    assert "skip: digits, digits16, austen" in ended_well(process).splitlines()[0]
    assert not {"run", "prepare_data"} & set(jobs(process.stderr))
    text = (clone / "elsewhere" / "smoke" / "tables" / "table_1.md").read_text()
    cells = len(TABLES["table_1"].rows) * len(TABLES["table_1"].columns)
    assert text.count("skipped: digits") == cells
    with open(clone / "elsewhere" / "smoke" / "tables" / "table_1.csv", newline="") as file:
        assert {line["mean"] + line["record"] for line in csv.DictReader(file)} == {""}


def test_finished_runs_are_brought_to_wandb_once(pipeline):
    runs = sorted((pipeline / "results" / "smoke" / "runs").iterdir())
    kept = [run.name for run in runs if run.name.startswith(("vit-end_to_end-", "vit-diffusion_blocks-"))]
    for run in runs:
        if run.name not in kept:
            shutil.rmtree(run)  # not finished: left for later
    with wandb_server() as server:
        home = {"HOME": str(pipeline), **server.settings}
        process = snakemake(pipeline, "wandb_sync", *CONFIG, **home)
        assert jobs(ended_well(process) + process.stdout).count("wandb_upload") == len(kept) == 2
        assert sorted(server.histories) == sorted(f"smoke-{run}-seed0" for run in kept)
        sent = len(server.runs)
        assert NOTHING in ended_well(snakemake(pipeline, "wandb_sync", *CONFIG, **home))
        assert len(server.runs) == sent


def test_every_action_has_its_log_and_its_benchmark():
    rules = [
        (path.name, rule.partition(":")[0], rule)
        for path in sorted((REPOSITORY / "workflow" / "rules").glob("*.smk"))
        for rule in re.split(r"^(?:rule|checkpoint) ", path.read_text(), flags=re.MULTILINE)[1:]
    ]
    acting = [entry for entry in rules if re.search("^    (shell|script|run):", entry[2], re.MULTILINE)]
    assert len(acting) > 10
    for part in ("log", "benchmark", "resources"):
        assert not [f"{file}: {name}" for file, name, text in acting if f"\n    {part}:" not in text], part


def test_the_workflow_is_lint_clean(clone):
    process = snakemake(clone, "--lint")
    assert "Congratulations" in ended_well(process) + process.stdout


def test_the_workflow_is_formatted():
    process = subprocess.run(
        [Path(sys.executable).with_name("snakefmt"), "--check", "Snakefile", "workflow"],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    ended_well(process)


def test_another_paper_value_makes_the_table_anew_without_metadata(pipeline):
    """Also in a clone without .snakemake, where Snakemake has only file times to go by."""
    shutil.rmtree(pipeline / ".snakemake")
    edit(pipeline / "config/tables/table_1.yaml", "60.25", "60.26")
    process = snakemake(pipeline, "-n", "all", "--config", *TINY)
    assert "table" in jobs(process.stdout + process.stderr)
    process = snakemake(pipeline, "-n", "all", "--config", *TINY, "seeds=2")
    assert {"table", "run"} <= set(jobs(process.stdout + process.stderr))


def test_more_seeds_are_run_also_when_the_data_is_prepared_again(finished, tmp_path):
    """A table of one seed must not stand for one of two."""
    clone = shutil.copytree(finished, tmp_path / "clone", symlinks=True)
    process = snakemake(clone, "-n", "all", "--config", *TINY, "seeds=2", "data_dir=elsewhere")
    assert process.returncode == 0, process.stderr[-2000:]
    counts = dict(re.findall(r"^(prepare_data|run|table) +(\d+)$", process.stdout + process.stderr, re.MULTILINE))
    assert int(counts["prepare_data"]) >= 1
    assert int(counts["run"]) >= 4
    assert int(counts["table"]) == len([table for table in TABLES.values() if table.runs])  # others have no seeds


def test_jobs_for_a_gpu_are_refused_at_once_where_there_is_none(clone):
    if shutil.which("nvidia-smi") or Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    config = ("scale=short", "data_dir=nowhere", "results_dir=gpu")
    process = snakemake(clone, "table_1", "--config", *config)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("dblocks: compute.device: 'cuda' is wanted")
    assert not list((clone / "gpu").rglob("log.jsonl"))
    # a dry run is a plan, and jobs told to take the CPU need no GPU
    assert snakemake(clone, "-n", "table_1", "--config", *config).returncode == 0
    assert "cuda" not in snakemake(clone, "-n", "table_1", "--config", *config, "device=cpu").stderr
