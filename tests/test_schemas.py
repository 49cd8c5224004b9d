"""The committed JSON schemas are the generated ones, and every shipped file fits its own."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from dblocks.command_line import CommandLine
from dblocks.config import CONFIG_DIR, load_experiments, load_scales, resolve
from dblocks.schemas import SCHEMA_DIR, schema_texts, write_schemas

SCHEMA_OF = {"runs": "experiment", "tables": "table", "scales.yaml": "scales", "claims.yaml": "claims"}
SCHEMA_OF |= {"measurements.yaml": "measurements"}
FILES = sorted(CONFIG_DIR.rglob("*.yaml"))


def schema(name: str) -> dict:
    return json.loads(schema_texts()[f"{name}.schema.json"])


def errors(name: str, content: object) -> list[str]:
    """What the schema `name` finds wrong with `content`."""
    return [error.message for error in jsonschema.Draft202012Validator(schema(name)).iter_errors(content)]


def test_committed_schemas_are_the_generated_ones():
    committed = {path.name: path.read_text() for path in SCHEMA_DIR.glob("*.json")}
    assert committed == schema_texts(), "run `python -m dblocks schema`"


@pytest.mark.parametrize("name", schema_texts())
def test_a_schema_is_itself_valid(name):
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_texts()[name]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIG_DIR)))
def test_every_shipped_file_fits_its_schema(path):
    first = path.relative_to(CONFIG_DIR).parts[0]
    assert errors(SCHEMA_OF[first], yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize("scale", load_scales())
def test_every_resolved_spec_fits_its_schema(scale):
    for name, experiment in load_experiments().items():
        for variant in experiment.variants:
            spec = resolve(f"{name}/{variant}", scale)
            assert errors("run_spec", spec.model_dump(mode="json")) == []


def test_a_schema_refuses_an_unknown_key_and_a_wrong_type():
    table = yaml.safe_load((CONFIG_DIR / "tables" / "table_1.yaml").read_text())
    assert "colour" in " ".join(errors("table", {**table, "colour": "red"}))
    assert errors("table", {**table, "rows": 3})
    assert errors("command_line", {"scale": "smoke", "seeds": 0})
    assert errors("command_line", CommandLine().model_dump()) == []


def test_schemas_are_written_as_they_are_generated(tmp_path):
    write_schemas(tmp_path / "schemas")
    assert {path.name: path.read_text() for path in (tmp_path / "schemas").iterdir()} == schema_texts()
