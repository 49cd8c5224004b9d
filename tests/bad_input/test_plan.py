"""Every bad file of config/ and every bad `--config` is refused by the plan: one line, and nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from dblocks.command_line import CommandLine
from dblocks.config import CONFIG_DIR, Experiment, load_experiments, resolve
from dblocks.errors import UserError
from dblocks.plan_files import write_plan
from dblocks.planning import make_plan, parse_command_line
from dblocks.reading import read_yaml
from tests.bad_input.cases import COMMAND_LINES, CONFIGURATION
from tests.workflow.helpers import files_below


def refused(config: dict, config_dir: Path = CONFIG_DIR) -> str:
    """What the plan says as it stops."""
    with pytest.raises(UserError) as error:
        write_plan(make_plan(config, config_dir))
    assert "\n" not in str(error.value) and len(str(error.value)) < 700
    return str(error.value)


@pytest.mark.parametrize("name", CONFIGURATION)
def test_a_file_of_the_configuration(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    edit, config = CONFIGURATION[name], Path(shutil.copytree(CONFIG_DIR, tmp_path / "config"))
    edit.apply(config)
    before = files_below(tmp_path)
    line = refused({"results_dir": "results"}, config)
    assert all(word in line for word in (".yaml", *edit.said)), line
    assert files_below(tmp_path) == before and not (tmp_path / "executed").exists()


@pytest.mark.parametrize("scale", ["short", "paper"])
def test_what_is_wrong_at_another_scale_stops_a_plan_that_does_not_run_it(tmp_path, scale):
    config = Path(shutil.copytree(CONFIG_DIR, tmp_path / "config"))
    path = config / "runs" / "noprop.yaml"
    content = yaml.safe_load(path.read_text())
    content["variants"]["spare"] = {"training": {"epochs": 1}}  # of no table
    sections = content.setdefault("scales", {}).setdefault(scale, {}).setdefault("variants", {})
    sections["spare"] = {"training": {"batch_size": 0}}
    path.write_text(yaml.safe_dump(content))
    line = refused({"results_dir": str(tmp_path / "results")}, config)
    assert "noprop.yaml" in line and f"spare at scale {scale}" in line and "batch_size" in line


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_a_command_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file")
    config, said = COMMAND_LINES[name]
    line = refused({"results_dir": "results", **config})
    assert all(word in line for word in said), line
    assert files_below(tmp_path) == {"file"} and not (tmp_path / "executed").exists()


# --- whatever is given: it is taken, or refused in one line

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def leaves(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The places of all values in nested mappings, the mappings' own included."""
    own = [path] if path else []
    inner = tree.items() if isinstance(tree, dict) else ()
    return own + [place for key, value in inner for place in leaves(value, (*path, key))]


def at(path: tuple[str, ...], value: Any) -> dict:
    """A mapping that has `value` at `path`."""
    return {path[0]: at(path[1:], value) if path[1:] else value}


RUNS = ["vit/diffusion_blocks", "dit_imagenet/diffusion_blocks", "ar_lm1b/diffusion_blocks", "noprop/dt"]
PLACES = [(run, place) for run in RUNS for place in leaves(resolve(run, "paper").model_dump(mode="json"))]


@given(st.sampled_from(PLACES), ANY)
def test_any_value_in_any_field_is_taken_or_refused_in_one_line(place, value):
    run, path = place
    try:
        resolve(run, "paper", overrides=at(path, value))
    except UserError as error:
        assert "\n" not in str(error)


@given(st.dictionaries(st.sampled_from(list(CommandLine.model_fields)), ANY, max_size=3))
@example({"override": {"a\nb": 1}})
def test_any_command_line_is_taken_or_refused_in_one_line(config):
    try:
        parse_command_line(config)
    except UserError as error:
        assert "\n" not in str(error)


@given(st.data())
def test_any_damage_to_a_file_is_taken_or_refused_in_one_line(tmp_path_factory, data):
    whole = (CONFIG_DIR / "runs" / "vit.yaml").read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 60)))
    path = tmp_path_factory.mktemp("damaged") / "vit.yaml"
    new = data.draw(st.binary(max_size=12) | st.text(max_size=12).map(str.encode))
    path.write_bytes(whole[:start] + new + whole[end:])
    try:
        read_yaml(path, Experiment)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)


def test_the_shipped_configuration_is_not_refused():
    assert load_experiments() and make_plan({}).tables
