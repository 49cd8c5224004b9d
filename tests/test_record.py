"""record.json: validated when written and when read, each refusal one line that names file and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dblocks.budget import budget_fraction
from dblocks.config import resolve
from dblocks.errors import TrainingFailed, UserError
from dblocks.identity import run_name
from dblocks.record import Metric, Record, read_record, write_record
from dblocks.run import execute
from tests.workflow.helpers import make_record

REQUIRED = [name for name, field in Record.model_fields.items() if field.is_required()]


@pytest.fixture
def path(tmp_path) -> Path:
    """A record on disk."""
    write_record(tmp_path / "record.json", make_record(accuracy=93.0, sigma_max_ce=1.25))
    return tmp_path / "record.json"


def refusal(path: Path) -> str:
    """The one line that reading `path` ends with."""
    with pytest.raises(UserError) as error:
        read_record(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def change(path: Path, edit) -> None:
    """Change the JSON at `path` in place."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@given(
    st.dictionaries(
        st.sampled_from(["accuracy", "sigma_max_ce"]), st.floats(allow_nan=False, allow_infinity=False), min_size=1
    )
)
def test_a_record_reads_back_as_it_was_written(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("record") / "record.json"
    record = make_record(**values)
    write_record(path, record)
    assert read_record(path) == record


def test_writing_leaves_nothing_else_behind(path):
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_a_metric_that_was_not_measured_is_none(path):
    record = read_record(path)
    assert record.metric("accuracy").value == 93.0
    assert record.metric("fid") is None


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_field_is_refused_by_name(path, name):
    change(path, lambda content: content.pop(name))
    assert f"{name}: " in refusal(path)


@pytest.mark.parametrize("name", [name for name, field in Metric.model_fields.items() if field.is_required()])
def test_a_missing_field_of_a_metric_is_refused_by_name(path, name):
    change(path, lambda content: content["metrics"][1].pop(name))
    assert f"metrics.1.{name}: " in refusal(path)


def test_an_unknown_key_is_refused_by_name(path):
    change(path, lambda content: content.update(fidd=1))
    assert "fidd" in refusal(path)


def test_an_unknown_key_deep_in_the_spec_is_refused_by_name(path):
    change(path, lambda content: content["spec"]["training"].update(epoch=1))
    assert "spec.training.epoch" in refusal(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("field", ["train_seconds", "evaluate_seconds", "budget"])
def test_a_number_that_is_not_finite_is_refused_by_name(path, field, value):
    change(path, lambda content: content.update({field: value}))
    assert field in refusal(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "a lot"])
def test_a_value_that_is_no_number_is_refused_by_name(path, value):
    change(path, lambda content: content["metrics"][0].update(value=value))
    assert "metrics.0.value" in refusal(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_record_that_is_not_finite_cannot_be_made(value):
    with pytest.raises(ValidationError, match="value"):
        make_record(accuracy=value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["value", "standard_error", "values"])
def test_a_network_that_gives_no_numbers_has_failed_for_good(field, value):
    fields = {"value": 1.0, "unit": "", "samples": 3} | {field: (1.0, value) if field == "values" else value}
    with pytest.raises(TrainingFailed, match=r"fid on digits is (nan|inf): the trained network gives no numbers"):
        Metric.measured(resolve("vit/end_to_end", "smoke").data, "fid", **fields)


def test_what_is_measured_was_read_on_the_runs_data_and_split_unless_another_is_named():
    data = resolve(
        "vit/end_to_end", "smoke", 0, {"data": {"train_split": "fit", "evaluation_split": "validation"}}
    ).data
    one = Metric.measured(data, "accuracy", 90.0, unit="%", samples=3)
    other = Metric.measured(data, "accuracy", 90.0, unit="%", samples=3, split="made up")
    assert (one.dataset, one.split, other.split) == ("digits", "validation", "made up")


def test_a_record_without_metrics_is_refused(path):
    change(path, lambda content: content.update(metrics=[]))
    assert "metrics" in refusal(path)


def test_half_a_file_is_refused(path):
    path.write_text(path.read_text()[:200])
    assert "not JSON" in refusal(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "record.json")


def test_a_record_that_was_changed_but_is_still_whole_is_refused(path):
    text = path.read_text()
    assert text.count("93.0") == 1
    path.write_text(text.replace("93.0", "98.0"))
    assert "checksum" in refusal(path) and "changed or damaged" in refusal(path)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_is_named_or_means_nothing(path, data):
    whole, record = path.read_bytes(), read_record(path)
    place, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
    try:
        assert read_record(path) == record  # white space alone
    except UserError as error:
        assert str(path) in str(error)
    finally:
        path.write_bytes(whole)


def test_records_from_before_there_was_a_checksum_are_read(path):
    content = json.loads(path.read_text())
    assert content.pop("checksum")
    path.write_text(json.dumps(content))
    assert read_record(path).metric("accuracy").value == 93.0


def test_a_record_in_the_folder_of_another_run_or_seed_is_refused(tmp_path):
    record = make_record(accuracy=93.0)
    own = tmp_path / "runs" / f"vit-end_to_end-{record.identity[:8]}"
    write_record(own / "seed0" / "record.json", record)
    assert read_record(own / "seed0" / "record.json") == record
    for folder in (own / "seed1", own.with_name("vit-diffusion_blocks-01234567") / "seed0"):
        write_record(folder / "record.json", record)
        assert "which is not this folder's" in refusal(folder / "record.json")


def test_a_spec_that_is_not_its_folders_is_not_run(tmp_path, digits_folder):
    spec = resolve("vit/end_to_end", "smoke", 0, {"training": {"max_steps": 1}})
    folder = tmp_path / "runs" / run_name(spec) / "seed0"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(spec.changed({"training": {"learning_rate": 0.5}}).model_dump_json())
    with pytest.raises(UserError, match=r"spec\.json: is of run \w+, seed 0, which is not this folder's"):
        execute(folder / "spec.json", digits_folder)
    assert [path.name for path in folder.iterdir()] == ["spec.json"]


def test_a_record_that_is_nested_without_end_is_refused(path):
    path.write_text("[" * 200_000)
    assert "nested too deeply" in refusal(path)


# --- budget

EPOCH = 50_000 // 128  # steps of an epoch of CIFAR-100
PROBE = resolve("vit/contrastive_forward_forward", "paper").method.probe_epochs


@pytest.mark.parametrize(
    ("run", "overrides", "fraction"),
    [
        ("vit/end_to_end", {"training": {"max_steps": 7}}, 7 / (500 * EPOCH)),
        ("vit/end_to_end", {"training": {"max_steps": 7, "batch_size": 64}}, 7 * 64 / (500 * EPOCH * 128)),
        ("vit/end_to_end", {"training": {"epochs": 1000}}, 2),
        ("vit/diffusion_blocks", {"training": {"max_steps": 7}}, 7 / (500 * EPOCH)),  # 3 · 7 of 3 · 500 epochs
        ("vit/diffusion_blocks", {"method": {"num_blocks": 1}}, 1 / 3),
        ("vit/contrastive_forward_forward", {"training": {"epochs": 250}}, (250 + PROBE) / (500 + PROBE)),
        ("mdm/diffusion_blocks", {"training": {"max_steps": 7}}, 7 / (100 * 1373)),
        ("ar_lm1b/end_to_end", {"training": {"max_steps": 7}}, 7 / (10 * 15_258)),
    ],
)
def test_a_budget_is_the_share_of_the_papers_samples_whether_a_run_is_cut_short_or_goes_on(run, overrides, fraction):
    assert budget_fraction(resolve(run, "paper", 0, overrides)) == pytest.approx(fraction, rel=1e-9)


def test_the_record_of_a_run_cut_short_tells_the_steps_and_samples_that_it_saw(tmp_path, digits_folder):
    small = {"training": {"max_steps": 2}, "network": {"layers": 3, "width": 16, "heads": 2}}
    spec = resolve("vit/diffusion_blocks", "smoke", 0, small | {"compute": {"device": "cpu"}})
    assert spec.training.batch_size == 64
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    record = read_record(execute(tmp_path / "spec.json", digits_folder))
    assert record.steps == 3 * 2
    assert record.budget == pytest.approx(3 * 2 * 64 / (3 * 500 * EPOCH * 128), rel=1e-9)
