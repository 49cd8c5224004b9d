"""record.json: validated when written and when read, each refusal one line that names file and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dblocks.errors import UserError
from dblocks.record import Metric, Record, read_record, write_record
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


def test_a_record_without_metrics_is_refused(path):
    change(path, lambda content: content.update(metrics=[]))
    assert "metrics" in refusal(path)


def test_half_a_file_is_refused(path):
    path.write_text(path.read_text()[:200])
    assert "not JSON" in refusal(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "no such record" in refusal(tmp_path / "record.json")
