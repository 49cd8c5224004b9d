"""The doctor says what is here, what is missing for which table, and what a plan costs."""

from __future__ import annotations

from dblocks.data.origins import WEIGHTS
from dblocks.doctor import cost, report, room, weights_of
from dblocks.planning import make_plan
from tests.workflow.helpers import dblocks

GATED = ["imagenet256", "openwebtext"]  # the one must be brought, the other is large


def line_of(text: str, subject: str) -> str:
    """The one line about a subject."""
    (line,) = [line for line in text.splitlines() if line[8:].startswith(subject)]
    return line


def test_at_smoke_nothing_is_missing(tmp_path):
    text, complete = report(make_plan({"results_dir": str(tmp_path)}))
    assert complete
    assert line_of(text, "data digits ").startswith("ok") and "embedded" in line_of(text, "data digits ")
    assert "table_1" in line_of(text, "data digits ")


def test_what_a_person_must_bring_is_missing_for_its_tables(tmp_path):
    text, complete = report(make_plan({"scale": "paper", "results_dir": str(tmp_path), "data_dir": str(tmp_path)}))
    assert not complete
    line = line_of(text, "data imagenet256")
    assert line.startswith("missing") and "table_8" in line
    assert line_of(text, "data cifar100").startswith("ok") and "downloadable" in line_of(text, "data cifar100")


def test_weights_that_a_person_must_be_granted_are_missing_until_they_are_there_or_left_out(tmp_path):
    config = {"scale": "paper", "results_dir": str(tmp_path / "results"), "data_dir": str(tmp_path), "skip": GATED}
    text, complete = report(make_plan(config))
    assert not complete
    line = line_of(text, "llama2 ")
    assert line.startswith("missing") and "Llama 2 Community License" in line and "table_5" in line
    assert line_of(text, "llama2-tokenizer").startswith("missing")
    assert "downloadable, 6.4 GB; for headline, table_4" in line_of(text, "gpt2-xl")
    (tmp_path / "llama2-tokenizer").mkdir()
    (tmp_path / "llama2-tokenizer" / "tokenizer.json").touch()
    text, complete = report(make_plan({**config, "skip": [*GATED, "llama2"]}))
    assert complete
    assert line_of(text, "llama2-tokenizer").startswith("ok") and "here; for" in line_of(text, "llama2-tokenizer")
    assert not any(line[8:].startswith("llama2 ") for line in text.splitlines())


def test_room_is_for_weights_too(tmp_path):
    config = {"scale": "paper", "results_dir": str(tmp_path / "results"), "data_dir": str(tmp_path), "skip": GATED}
    plan = make_plan(config)
    bytes_of = {name: WEIGHTS[name].bytes for name in ("gpt2-large", "gpt2-xl", "llama2", "llama2-tokenizer")}
    assert room(plan, (), bytes_of) == (sum(bytes_of.values()), 0)
    assert weights_of(plan, "table_4") == set(bytes_of)
    assert weights_of(plan, "table_1") == set()
    (tmp_path / "gpt2-large").mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / "gpt2-large" / name).touch()
    assert room(plan, (), bytes_of) == (sum(bytes_of.values()) - bytes_of["gpt2-large"], 0)


def test_the_cost_is_jobs_and_the_time_they_may_take(tmp_path):
    plan = make_plan({"scale": "paper", "results_dir": str(tmp_path), "seeds": 2, "skip": ["imagenet256"]})
    specs = [spec for row in plan.tables["table_1"].rows for spec in plan.runs[plan.run_of[row.run]]]
    taken = {"vit/bridge_normalized"}  # has the weights of vit/diffusion_blocks
    rows = [row.run for row in plan.tables["table_1"].rows if row.run not in taken]
    hours = sum(spec.resources.runtime_minutes for run in rows for spec in plan.runs[plan.run_of[run]]) / 60
    assert cost(plan, "table_1")["runs"] == f"{len(specs)}, {len(specs)} to do"
    assert cost(plan, "table_1")["GPU-hours"] == f"≤ {hours:.0f}"
    # trained once, it costs no training more, though the run with its weights is still to be evaluated
    trainer = plan.run_of["vit/diffusion_blocks"]
    for spec in plan.runs[trainer]:
        record = plan.folder(trainer, spec.seed) / "record.json"
        record.parent.mkdir(parents=True)
        record.touch()
    left = hours - sum(spec.resources.runtime_minutes for spec in plan.runs[trainer]) / 60
    assert cost(plan, "table_1")["runs"] == f"{len(specs)}, {len(specs) - 2} to do"
    assert cost(plan, "table_1")["GPU-hours"] == f"≤ {left:.0f}"


def test_a_pair_is_read_as_snakemake_reads_it(tmp_path):
    process = dblocks(tmp_path, "doctor", "--config", "wandb=off", "seeds=2", f"results_dir={tmp_path}")
    assert process.returncode == 0, process.stderr
    assert "seeds 2 a run" in process.stdout


def test_no_key_is_ever_shown(tmp_path):
    secrets = {"WANDB_API_KEY": "0123456789abcdef" * 3, "HF_TOKEN": "hf_secretsecret"}
    process = dblocks(tmp_path, "doctor", "--config", f"results_dir={tmp_path}", **secrets)
    assert process.returncode == 0, process.stderr
    assert "a key is there" in process.stdout
    assert not any(secret in process.stdout + process.stderr for secret in secrets.values())
