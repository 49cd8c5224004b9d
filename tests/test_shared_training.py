"""Runs that differ in how they predict alone: one trains, the others have its weights and nothing else of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dblocks.config import resolve
from dblocks.errors import UserError
from dblocks.identity import identity, weights_identity
from dblocks.needs import TRAINED
from dblocks.planning import make_plan, shared_trainings
from dblocks.record import RECORD, Record, read_record
from dblocks.run import execute
from dblocks.runlog import read_log
from dblocks.spec import DiffusionBlocksSpec, SamplingSpec

SAMPLING = {
    "steps": 7,
    "at_least_num_blocks": False,
    "grid": "rho7",
    "tie_rule": "official",
    "start_noise": "official",
    "bridge": "hard",
    "bridge_table": "raw",
    "top_k": 2,
}
OTHERS = {
    "num_blocks": 1,
    "layers_per_block": (1, 1, 1),
    "partition": "uniform",
    "overlap": 0.2,
    "noise": {"p_mean": -1.0},
    "weighting": "paper",
    "block_order": "turns",
    "target_table": "frozen",
    "adaln": "official",
    "target_deviation": 0.02,
    "c_noise_scale": 2.0,
    "label_token": "official",
    "head_preconditioning": "none",
}


@pytest.fixture
def made(tiny_spec, tmp_path, digits_folder):
    """made(name, method fields, needs, seed): the record of a run in a folder of its own, with its record's path."""

    def make(name: str, method: dict, needs: dict[str, Path] | None = None, seed: int = 0) -> tuple[Path, Record]:
        spec = tiny_spec("diffusion_blocks", {"method": method, "training": {"max_steps": 6}, "seed": seed})
        path = tmp_path / name / "spec.json"
        path.parent.mkdir()
        path.write_text(spec.model_dump_json())
        record = execute(path, digits_folder, needs=needs)
        return record, read_record(record)

    return make


def test_all_fields_of_the_method_are_tried():
    assert SAMPLING.keys() == SamplingSpec.model_fields.keys()
    told_elsewhere = {"name", "sampling", "schedule", "embedders", "sigma_per"}  # the last of text; two want more set
    assert OTHERS.keys() == DiffusionBlocksSpec.model_fields.keys() - told_elsewhere


@pytest.mark.parametrize("field", SAMPLING)
def test_how_a_run_predicts_names_another_run_of_the_same_weights(tiny_spec, field):
    one, other = (tiny_spec("diffusion_blocks", {"method": m}) for m in ({}, {"sampling": {field: SAMPLING[field]}}))
    assert identity(one) != identity(other)
    assert weights_identity(one) == weights_identity(other)


@pytest.mark.parametrize("field", OTHERS)
def test_any_other_setting_of_the_method_names_other_weights(tiny_spec, field):
    one, other = (tiny_spec("diffusion_blocks", {"method": m}) for m in ({}, {field: OTHERS[field]}))
    assert weights_identity(one) != weights_identity(other)


@given(st.sampled_from(["learning_rate", "epochs", "weight_decay"]), st.floats(0.5, 3))
def test_any_other_training_names_other_weights(tiny_spec, field, value):
    one, other = tiny_spec(), tiny_spec("diffusion_blocks", {"training": {field: value}})
    assert weights_identity(one) != weights_identity(other)


@pytest.mark.parametrize("field", SAMPLING)
def test_training_reads_nothing_of_how_a_run_predicts(made, field):
    _, one = made("one", {})
    _, other = made("other", {"sampling": {field: SAMPLING[field]}})
    assert one.weights == other.weights  # named by their checksums


def test_with_anothers_weights_a_run_is_what_it_is_by_itself(made):
    trainer, first = made("first", {})
    _, alone = made("alone", {"sampling": SAMPLING})
    path, taken = made("taken", {"sampling": SAMPLING}, {TRAINED: trainer})
    told = {"trained_as", "train_seconds", "evaluate_seconds", "peak_memory_bytes", "finished"}
    assert taken.model_dump(exclude=told) == alone.model_dump(exclude=told)
    assert taken.metrics != first.metrics
    assert taken.trained_as == f"vit-diffusion_blocks-{first.identity[:8]}/seed0"
    assert first.trained_as is None and alone.trained_as is None
    assert taken.train_seconds == first.train_seconds and taken.peak_memory_bytes is None
    assert read_log(path.parent / "log.jsonl") == read_log(trainer.parent / "log.jsonl")


def test_a_run_cut_off_between_log_and_weights_takes_them_again(made, tmp_path, digits_folder):
    trainer, first = made("first", {})
    path, taken = made("taken", {"sampling": SAMPLING}, {TRAINED: trainer})
    for name in (RECORD, "result.json", taken.weights):
        (path.parent / name).unlink()
    again = read_record(execute(path.parent / "spec.json", digits_folder, needs={TRAINED: trainer}))
    assert again.weights == first.weights and again.metrics == taken.metrics


@pytest.mark.parametrize("method, seed", [({"weighting": "paper"}, 0), ({"sampling": SAMPLING}, 1)])
def test_weights_of_another_training_are_refused(made, tmp_path, method, seed):
    trainer, _ = made("first", {})
    with pytest.raises(UserError, match="was not trained as"):
        made("taken", method, {TRAINED: trainer}, seed)
    assert not list((tmp_path / "taken").glob("weights-*")) and not (tmp_path / "taken" / "log.jsonl").exists()


@pytest.mark.parametrize("damage", ["weights", "no weights", "no log"])
def test_weights_that_are_not_what_the_record_says_are_refused(made, tmp_path, damage):
    trainer, first = made("first", {})
    file = trainer.parent / ("log.jsonl" if damage == "no log" else first.weights)
    if damage == "weights":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    with pytest.raises(UserError, match=file.name) as error:
        made("taken", {"sampling": SAMPLING}, {TRAINED: trainer})
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "taken").glob("weights-*")) and not (tmp_path / "taken" / "log.jsonl").exists()


# --- which runs these are


def test_the_first_of_a_plan_trains_and_each_seed_takes_its_own(tmp_path):
    plan = make_plan({"results_dir": str(tmp_path), "seeds": 2})
    rows = {run: name for run, name in plan.run_of.items() if name in plan.trained_as}
    shared = [run for run in rows if not run.startswith("vit_choices/")]
    assert set(shared) == {
        "vit/bridge_normalized",
        "dit_cifar10/end_to_end_rho7",
        "dit_cifar10/diffusion_blocks_rho7",
        "noprop/diffusion_blocks_hard",
    }
    trainer = plan.run_of["vit/diffusion_blocks"]
    for seed in (0, 1):
        needs = plan.needs_of(plan.run_of["vit/bridge_normalized"], seed)
        assert needs == {TRAINED: plan.folder(trainer, seed) / RECORD}
        assert TRAINED not in plan.needs_of(trainer, seed)


def test_who_takes_weights_gives_none_and_all_that_predict_alone_differently_take_them():
    plan = make_plan({"scale": "paper", "skip": ["imagenet256"]})
    assert not set(plan.trained_as) & set(plan.trained_as.values())
    for run, trainer in plan.trained_as.items():
        one, other = plan.runs[run][0], plan.runs[trainer][0]
        assert one.method != other.method
        assert one.method.model_copy(update={"sampling": other.method.sampling}) == other.method
    trained = [run for run in plan.runs if run not in plan.trained_as]
    assert len({weights_identity(plan.runs[run][0]) for run in trained}) == len(trained)


def test_seeds_that_nobody_else_has_are_trained():
    plan = make_plan({"seeds": 1})
    run = plan.run_of["vit/bridge_normalized"]
    assert plan.trainer_of(run, 0) and plan.trainer_of(run, 1) is None


def test_blocks_in_parallel_are_trained_by_their_own_jobs():
    parallel = resolve("vit/isolated_parallel", "smoke")
    other = parallel.changed({"method": {"sampling": SamplingSpec(steps=9).model_dump()}})
    assert weights_identity(parallel) == weights_identity(other)
    assert shared_trainings({"one": [parallel], "other": [other]}) == {}
