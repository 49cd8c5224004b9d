"""The plan: which runs there are, each once, and what it does not need to make it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import dblocks.reading
from benchmarks.plan_time import more_rows
from dblocks.config import CONFIG_DIR, resolve
from dblocks.errors import UserError
from dblocks.identity import run_name
from dblocks.plan_files import write_plan
from dblocks.planning import make_plan
from dblocks.reading import parse_yaml
from dblocks.run import read_spec
from tests.workflow.helpers import REPOSITORY, edit, environment

GATED = {"skip": ["imagenet256"]}  # what only a person can bring
SENTENCES = {"austen_sentences", "austen_chapters", "austen_teacher"}  # of language models at smoke


@pytest.fixture
def config(tmp_path) -> Path:
    """A copy of the shipped configuration to edit."""
    return Path(shutil.copytree(CONFIG_DIR, tmp_path / "config"))


def of_rows(plan) -> list[list]:
    """The specs of each run that fills a row; what they need besides has one seed and takes not every override."""
    return [plan.runs[run] for run in dict.fromkeys(plan.run_of.values())]


def add_row(config: Path, row: str, run: str) -> None:
    """Another table with one row."""
    table = yaml.safe_load((config / "tables" / "table_1.yaml").read_text())
    table |= {"table": "table_99", "rows": [{"row": row, "run": run}]}
    (config / "tables" / "table_99.yaml").write_text(yaml.safe_dump(table))


def test_planning_imports_nothing_heavy(tmp_path):
    code = "import json, sys; from dblocks.planning import make_plan\n"
    code += "for scale in ('smoke', 'short', 'paper'):\n"
    code += "    plan = make_plan({'scale': scale, 'skip': ['imagenet256']}); plan.first_line()\n"
    code += "print(json.dumps(sorted(sys.modules)))"
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    loaded = {name.partition(".")[0] for name in json.loads(process.stdout)}
    assert "dblocks" in loaded
    assert not loaded & {"torch", "pandas", "matplotlib", "scipy", "sklearn", "wandb", "snakemake"}


def test_the_first_line_says_scale_seeds_data_directory_and_what_is_skipped():
    line = make_plan({"seeds": 2, "data_dir": "/somewhere/data", "skip": ["cifar10"]}).first_line()
    assert all(word in line for word in ("smoke", "seeds 2", "/somewhere/data", "skip: cifar10"))


def test_the_first_line_of_a_plan_without_runs_leaves_no_gap():
    assert "  " not in make_plan({"skip": ["digits"]}).first_line()


@pytest.mark.parametrize(("scale", "count"), [("smoke", 1), ("short", 3), ("paper", 3)])
def test_seeds_are_the_scales_unless_given(scale, count):
    within_a_day = [s for s in of_rows(make_plan({"scale": scale, **GATED})) if s[0].resources.runtime_minutes <= 1440]
    assert {len(specs) for specs in within_a_day} == {count}
    for specs in of_rows(make_plan({"scale": scale, "seeds": 2, **GATED})):
        assert [spec.seed for spec in specs] == [0, 1]


def test_runs_over_a_gpu_day_have_one_seed_unless_asked():
    day_long = {"resources": {"gpu": 4, "runtime_minutes": 600}}
    assert {len(specs) for specs in make_plan({"scale": "paper", **GATED, "override": day_long}).runs.values()} == {1}
    asked = make_plan({"scale": "paper", **GATED, "override": day_long, "seeds": 2})
    assert {len(specs) for specs in asked.runs.values()} == {2}


def test_rows_with_equal_specs_share_one_run(config):
    edit(config / "runs" / "vit.yaml", "  end_to_end: {}\n", "  end_to_end: {}\n  same_again: {}\n")
    add_row(config, "Same again", "vit/same_again")
    plan = make_plan({}, config)
    assert plan.run_of["vit/same_again"] == plan.run_of["vit/end_to_end"]
    assert len(plan.runs) == len(make_plan({}).runs)
    assert plan.records_of("table_99") == plan.records_of_row("vit/end_to_end")


def test_a_row_of_another_spec_is_another_run(config):
    edit(
        config / "runs" / "vit.yaml",
        "  end_to_end: {}\n",
        "  end_to_end: {}\n  narrower: {training: {weight_decay: 0.5}}\n",
    )
    add_row(config, "Narrower", "vit/narrower")
    plan = make_plan({}, config)
    assert plan.run_of["vit/narrower"] not in (plan.run_of["vit/end_to_end"], None)


def test_the_seeds_of_another_configuration_are_its_own(config):
    edit(config / "scales.yaml", "    seeds: 1\n", "    seeds: 2\n")
    assert {len(specs) for specs in of_rows(make_plan({}, config))} == {2}


def test_skipped_data_takes_its_runs_out_and_leaves_the_others(config):
    edit(
        config / "runs" / "vit.yaml",
        "      forward_forward: {training",
        "      forward_forward: {data: {name: cifar10}, training",
    )
    whole, plan = make_plan({}, config), make_plan({"skip": ["cifar10"]}, config)
    assert set(whole.datasets()) == {"cifar10", "digits", "digits16", "austen", *SENTENCES}
    assert set(plan.datasets()) == {"digits", "digits16", "austen", *SENTENCES}
    assert set(whole.run_of) - set(plan.run_of) == {"vit/forward_forward"}
    assert plan.records_of_row("vit/forward_forward") == []
    assert len(plan.records_of("table_1")) == len(plan.tables["table_1"].rows) - 1


def test_skipping_what_is_no_data_set_is_refused():
    with pytest.raises(UserError, match="digitz"):
        make_plan({"skip": ["digitz"]})


def test_the_command_line_reaches_every_run():
    plan = make_plan({"device": "cpu", "max_steps": 5, "override": {"training": {"batch_size": 32}}})
    for specs in of_rows(plan):
        training = specs[0].training
        assert (specs[0].compute.device, training.max_steps, training.batch_size) == ("cpu", 5, 32)


def test_a_plan_reads_each_file_of_its_configuration_once(config, tmp_path, monkeypatch):
    texts = []
    monkeypatch.setattr(dblocks.reading, "parse_yaml", lambda text: texts.append(text) or parse_yaml(text))
    write_plan(make_plan({"results_dir": str(tmp_path / "out")}, config))
    assert sorted(texts) == sorted(path.read_bytes() for path in config.rglob("*.yaml"))


def test_ten_times_the_rows_are_as_many_runs_of_their_own(config):
    plan = make_plan({}, config)
    before = sum(len(table.rows) for table in plan.tables.values()), len(set(plan.run_of.values()))
    more_rows(config)
    plan = make_plan({}, Path(shutil.copytree(config, config.parent / "more")))
    after = sum(len(table.rows) for table in plan.tables.values()), len(set(plan.run_of.values()))
    assert after == (10 * before[0], 10 * before[1])


def test_specs_lie_in_the_folder_their_content_names(tmp_path):
    plan = make_plan({"results_dir": str(tmp_path / "out"), "seeds": 2})
    write_plan(plan)
    written = sorted((tmp_path / "out" / "smoke" / "runs").rglob("*.json"))
    assert [path.name for path in written] == ["spec.json"] * sum(map(len, plan.runs.values()))
    for path in written:
        spec = read_spec(path)
        assert path.parent == tmp_path / "out" / "smoke" / "runs" / run_name(spec) / f"seed{spec.seed}"


def test_a_spec_that_is_there_is_not_written_again(tmp_path):
    plan = make_plan({"results_dir": str(tmp_path)})
    write_plan(plan)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("spec.json")}
    write_plan(plan)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("spec.json")} == before


def test_names_of_rows_and_runs_are_those_of_every_scale():
    plans = [make_plan({"scale": scale}) for scale in ("smoke", "short", "paper")]
    assert len({frozenset(plan.run_of) for plan in plans}) == 1
    assert len({name for plan in plans for name in plan.run_of.values()}) == 3 * len(set(plans[0].run_of.values()))


def test_paper_scale_wants_cuda_unless_told_otherwise():
    assert resolve("vit/end_to_end", "paper").compute.device == "cuda"
    specs = make_plan({"scale": "paper", "device": "cpu", **GATED}).runs.values()
    assert {spec.compute.device for seeds in specs for spec in seeds} == {"cpu"}


def test_equal_image_rows_are_one_run_and_share_what_they_need():
    plan = make_plan({})
    run = plan.run_of
    assert run["dit_cifar10/equi_4_4_4"] in {p.parent.parent.name for p in plan.records_of("table_7")}
    assert run["dit_cifar10/equi_4_4_4"] in {p.parent.parent.name for p in plan.records_of("table_10")}
    assert run["dit_cifar10/end_to_end"] in {p.parent.parent.name for p in plan.records_of("table_2")}
    tables = ("table_2", "table_7", "table_8", "table_10")
    rows = [row.run for table in tables for row in plan.tables[table].rows]
    assert (len(rows), len({run[row] for row in rows})) == (24, 21)
    # one extractor a data set, one autoencoder; the digits' classifier is Table 1's ViT
    needed = {(role, name) for row in rows for role, name in plan.needed[run[row]].items()}
    assert len(needed) == 3
    assert ("extractor", run["vit/end_to_end"]) in needed
    assert {name for _, name in needed} <= set(plan.runs)


def test_latents_are_a_folder_of_their_own_and_encoded_once():
    plan = make_plan({})
    ((key, run),) = plan.encoded().items()
    assert key.startswith("digits16-latents-")
    assert plan.manifest_of(run) == plan.manifest(key)
    assert plan.needs_of(run)["images"] == plan.manifest("digits16")
    assert key not in plan.datasets()


def test_at_the_papers_scale_images_need_published_weights_and_imagenet_a_person():
    with pytest.raises(UserError, match=r"imagenet256.*skip=\[imagenet256\]"):
        make_plan({"scale": "paper", "data_dir": "nowhere"}).check_data("imagenet256")
    plan = make_plan({"scale": "paper", "skip": ["imagenet256"]})
    assert plan.needs_of(plan.run_of["dit_cifar10/end_to_end"]) == {"extractor": plan.weights("inception")}
    whole = make_plan({"scale": "paper"})
    needs = whole.needs_of(whole.run_of["dit_imagenet/end_to_end"])
    assert needs["autoencoder"] == whole.weights("sd-vae-ft-ema")


def test_a_classifier_can_stand_in_for_inception_at_any_scale():
    line = {"scale": "paper", "skip": ["imagenet256"], "override": {"generation": {"extractor": "classifier"}}}
    plan = make_plan(line)
    run = plan.run_of["dit_cifar10/end_to_end"]
    assert plan.runs[plan.needed[run]["extractor"]][0].data.name == "cifar10"
    assert plan.runs[plan.run_of["vit/end_to_end"]][0].generation is None
    assert run != make_plan({**line, "override": {}}).run_of["dit_cifar10/end_to_end"]


def test_what_editors_and_systems_leave_beside_the_configuration_is_not_read(config):
    for folder, name in (("runs", "vit.yaml"), ("tables", "table_1.yaml")):
        (config / folder / f".#{name}").symlink_to("somebody@somewhere.1234")
        (config / folder / f"._{name}").write_bytes(b"\0\5\x16\7\xff")
    assert list(make_plan({}, config).tables) == list(make_plan({}).tables)


def test_a_tables_plan_that_is_no_text_is_written_anew(tmp_path):
    plan = make_plan({"results_dir": str(tmp_path)})
    write_plan(plan)
    path = tmp_path / "smoke" / "plans" / "table_1.json"
    whole = path.read_bytes()
    path.write_bytes(b"\xff\xfe" + whole)
    write_plan(plan)
    assert path.read_bytes() == whole


SITE = yaml.safe_load((REPOSITORY / "slurm" / "scale.yaml").read_text())


def test_what_a_site_does_without_at_the_papers_scale_changes_no_other():
    assert make_plan(SITE).command_line.skip == ["imagenet256", "llama2"]
    assert make_plan({**SITE, "skip": []}).command_line.skip == [], "what is given for all wins"
    trial, plain = make_plan({**SITE, "scale": "smoke"}), make_plan({})
    assert (trial.runs, trial.measurements, trial.skipped) == (plain.runs, plain.measurements, plain.skipped)
    assert make_plan({**SITE, "scale": "short"}).published_weights()[-1].stem == "tinyllama-tokenizer"


def test_target_data_has_all_that_wants_a_network():
    plan = make_plan({"scale": "paper", "skip": ["imagenet256", "llama2", "llama2-tokenizer"]})
    assert [path.stem for path in plan.published_weights()] == ["inception"]  # no run is left that text is judged in
    plan = make_plan(SITE)
    names = ["gpt2-large", "gpt2-xl", "inception", "tinyllama-tokenizer"]
    assert [path.stem for path in plan.published_weights()] == names
    assert make_plan({}).published_weights() == []
