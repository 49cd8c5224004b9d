"""Plans of language models: tokens made once, a teacher beside its pupils, published models named or refused."""

import hashlib

import pytest

from dblocks.budget import budget_fraction
from dblocks.config import load_experiments, resolve
from dblocks.errors import UserError
from dblocks.identity import identity
from dblocks.planning import make_plan
from dblocks.record import read_record
from tests.workflow.helpers import dblocks

PAPER = {"scale": "paper", "skip": ["imagenet256"]}


def test_tokens_are_made_once_for_all_runs_that_share_them():
    plan = make_plan({})
    folders = sorted(plan.tokenized())
    assert [folder.rpartition("-")[0] for folder in folders] == [
        "austen_chapters-bpe512",
        "austen_sentences-bpe512",
        "austen_teacher-bpe512",
    ]
    sharing = [plan.run_of[f"ar_lm1b/{v}"] for v in ("end_to_end", "diffusion_blocks", "blocks_2", "blocks_6")]
    assert {plan.manifest_of(run) for run in sharing} == {plan.manifest(folders[1])}
    assert plan.tokenizer_source(folders[1]) == plan.manifest("austen_sentences")
    assert not set(folders) & set(plan.encoded())
    assert not set(folders) & set(plan.datasets())


def test_another_tokenizer_is_another_folder_and_another_run():
    over = {"override_runs": {"ar_lm1b": {"task": {"tokenizer": "bpe600"}}}}
    plain, other = make_plan({}), make_plan(over)
    assert set(other.tokenized()) - set(plain.tokenized())
    assert plain.run_of["ar_lm1b/end_to_end"] != other.run_of["ar_lm1b/end_to_end"]
    assert plain.run_of["ar_owt/end_to_end"] == other.run_of["ar_owt/end_to_end"]


def test_one_small_teacher_judges_all_at_smoke_and_learns_from_a_text_of_its_own():
    plan = make_plan({"override_runs": {"ar_lm1b": {"data": {"name": "austen_chapters"}}}})
    teachers = {
        plan.needed[run][role] for run in plan.run_of.values() for role in plan.needed[run] if "teacher" in role
    }
    (teacher,) = teachers
    assert plan.runs[teacher][0].data.name == "austen_teacher"
    run = plan.run_of["ar_lm1b/diffusion_blocks"]
    assert set(plan.needs_of(run)) == {"features", "teacher:teacher/end_to_end"}


def test_a_changed_teacher_is_another_run_of_its_pupils():
    spec = resolve("ar_lm1b/end_to_end", "smoke")
    assert set(spec.task.needed_identities) == {"features", "teacher:teacher/end_to_end"}
    other = spec.with_identities(dict.fromkeys(spec.task.needed_identities, "0" * 64))
    assert identity(other) != identity(spec)


def test_at_the_papers_scale_published_models_and_tokenizer_are_read():
    plan = make_plan(PAPER)
    run = plan.run_of["ar_lm1b/end_to_end"]
    assert plan.needs_of(run) == {
        "features": plan.weights("gpt2-large"),
        "teacher:llama2": plan.weights("llama2"),
        "teacher:gpt2-xl": plan.weights("gpt2-xl"),
    }
    (key,) = (key for key in plan.tokenized() if key.startswith("lm1b-"))
    assert plan.tokenizer_source(key) == plan.weights("llama2-tokenizer")
    skipping = make_plan({**PAPER, "skip": ["imagenet256", "llama2"]})
    assert skipping.run_of["ar_lm1b/end_to_end"] == run
    assert "teacher:llama2" not in skipping.needs_of(run)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"tokenizer": "t5-tokenizer"}, r"task\.tokenizer: no published 't5-tokenizer'; there are .*bpe<size>"),
        ({"tokenizer": "bpe99"}, r"'bpe99': size must be 257"),
        ({"tokenizer": "words"}, r"task\..*tokenizer"),
        ({"teachers": ["gpt5"]}, r"task\.teachers: no published 'gpt5'; there are gpt2-large"),
        ({"features": "gpt3"}, r"task\.features: no published 'gpt3'; there are gpt2-large"),
        ({"prompt_tokens": 40, "continuation_tokens": 9}, r"40 \+ continuation_tokens 9 are more than length 48"),
        ({"prompts": 0}, r"features and teachers judge what is generated"),
        ({"mauve_scales": []}, r"mauve_scales \[\]: at least one"),
        ({"top_p": 0}, r"top_p"),
    ],
)
def test_a_wrong_task_is_one_clear_line(task, message):
    with pytest.raises(UserError, match=message) as caught:
        resolve("ar_lm1b/end_to_end", "smoke", 0, {"task": task})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("run", "over", "message"),
    [
        ("ar_lm1b/end_to_end", {"data": {"name": "text8"}}, "'text8' has no documents or sentences"),
        ("ar_lm1b/end_to_end", {"network": {"heads": 5}}, "width 48 is not a multiple of twice the heads 5"),
        ("ar_lm1b/diffusion_blocks", {"method": {"num_blocks": 5}}, "layers 12 cannot be cut evenly into 5"),
        ("ar_lm1b/diffusion_blocks", {"method": {"sigma_per": None}}, "sigma_per: task autoregressive_text needs it"),
        ("ar_lm1b/diffusion_blocks", {"method": {"label_token": "official"}}, "label_token: .* has no label"),
        ("ar_lm1b/diffusion_blocks", {"method": {"embedders": "own"}}, "set target_table to 'frozen'"),
        ("vit/diffusion_blocks", {"method": {"sigma_per": "token"}}, "sigma_per: task classification has none"),
    ],
)
def test_a_wrong_run_is_one_clear_line(run, over, message):
    with pytest.raises(UserError, match=message):
        resolve(run, "smoke", 0, over)


def test_table_11_cuts_the_same_network_without_overlap():
    experiment = load_experiments()["ar_lm1b"]
    for variant in ("blocks_2", "blocks_3", "blocks_4", "blocks_6"):
        assert variant in experiment.variants
        for scale in ("smoke", "paper"):
            spec = resolve(f"ar_lm1b/{variant}", scale)
            assert (spec.method.overlap, spec.method.num_blocks) == (0.0, int(variant[-1]))
            assert spec.network == resolve("ar_lm1b/end_to_end", scale).network


def test_the_record_of_a_run_on_a_text_of_ones_own_has_its_title_and_sha256(tmp_path):
    text = tmp_path / "foxes.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 9_000)
    data = {"name": "characters", "path": str(text), "title": "foxes", "max_evaluation_samples": 2}
    spec = resolve("mdm/end_to_end", "smoke", overrides={"data": data, "training": {"max_steps": 2}})
    named = f"foxes-{hashlib.sha256(text.read_bytes()).hexdigest()}"
    made = dblocks(tmp_path, "prepare", "characters", "--path", text, "--title", "foxes", "--folder", "prepared")
    assert made.returncode == 0, made.stderr
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    process = dblocks(tmp_path, "run", "spec.json", "--data", "prepared/manifest.json", "--wandb", "off", "--quiet")
    assert process.returncode == 0, process.stderr
    record = read_record(tmp_path / "record.json")
    assert (record.data_fingerprint, record.metrics[0].dataset) == (named, "foxes")
    # edited while a run trains on what was prepared of it, the text is still what that run is of
    before = identity(spec), budget_fraction(spec)
    assert before == (record.identity, record.budget)
    text.write_text("Another text altogether.")
    assert (identity(spec), budget_fraction(spec)) == before
    text.unlink()
    assert (identity(spec), budget_fraction(spec)) == before
