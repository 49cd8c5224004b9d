"""YAML as its version 1.2 has it: what PyYAML's own reading makes of a word or a number is not what was written."""

from __future__ import annotations

import pytest
import yaml

from dblocks.command_line import CommandLine
from dblocks.config import CONFIG_DIR, Experiment, resolve
from dblocks.errors import UserError
from dblocks.reading import parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("0100", "1:30", "0x1f", "yes", "No", "on", "off", "2026-01-01", "1:30.5")),
        *((word, float(word)) for word in ("1.5", "-1.0e-3", "1.5e3", ".5")),
        *(("true", True), ("False", False), ("10_000", 10000), ("-3", -3), ("~", None), ("null", None), ("", None)),
    ],
)
def test_a_scalar_is_read_as_it_is_written(text, value):
    assert parse_yaml(text) == value and type(parse_yaml(text)) is type(value)


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.rglob("*.yaml")), ids=lambda path: path.name)
def test_the_shipped_files_read_the_same_in_any_yaml(path):
    assert parse_yaml(path.read_bytes()) == yaml.safe_load(path.read_bytes())


@pytest.mark.parametrize("value", ["!!bool 4", "!!timestamp x", "!!int ''", "!!float ''", "!!map [[a, b]]"])
def test_what_does_not_fit_its_tag_is_not_yaml(value):
    with pytest.raises(ValueError, match=r"not YAML: .*line 1"):
        parse_yaml(f"a: {value}")


@pytest.mark.parametrize("text", ["{a: [1", b"{a: [1"])
def test_a_place_in_a_text_has_no_name_that_nobody_gave(text):
    with pytest.raises(ValueError, match="line 1") as error:
        parse_yaml(text)
    assert "string" not in str(error.value)


def test_a_misspelled_name_is_told_before_the_one_that_is_missing_for_it(tmp_path):
    (tmp_path / "toy.yaml").write_text("experiment: toy\ndescription: ''\nbase: {}\nvariant: {}\n")
    with pytest.raises(UserError, match=r"toy.yaml: variant: no such field \(and 1 more\)"):
        read_yaml(tmp_path / "toy.yaml", Experiment)


def bomb(levels: int) -> str:
    """A text of `levels` lines that stands for 10 to the power of that."""
    lines = ["- &a0 [" + ", ".join("1" * 10) + "]"]
    lines += [f"- &a{k} [" + ", ".join([f"*a{k - 1}"] * 10) + "]" for k in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [bomb(5), bomb(60), "&a [*a]", "&a {b: {c: *a}}"])
def test_aliases_that_stand_for_too_much_are_refused(text):
    with pytest.raises(ValueError, match="not YAML: aliases stand for too much"):
        parse_yaml(text)


def test_an_alias_is_what_it_stands_for():
    assert parse_yaml("{a: &a [1, 2], b: *a, c: {<<: {d: 1}}}") == {"a": [1, 2], "b": [1, 2], "c": {"d": 1}}
    assert parse_yaml(bomb(3))


@pytest.mark.parametrize(
    ("place", "over"),
    [
        ("training.epochs", {"training": {"epochs": True}}),
        ("training.betas", {"training": {"betas": [True, 0.5]}}),
        ("layers", {"network": {"layers": True}}),
    ],
)
def test_true_is_no_number(place, over):
    with pytest.raises(UserError, match=f"{place}.*number.*true|{place}.*integer.*true"):
        resolve("vit/diffusion_blocks", "smoke", overrides=over)


def test_numbers_are_taken_however_they_are_written():
    over = parse_yaml(
        "{training: {epochs: 3, learning_rate: 1e-3, betas: [0.9, 0.99]}, compute: {deterministic: true}}"
    )
    spec = resolve("vit/diffusion_blocks", "smoke", overrides=over)
    assert (spec.training.epochs, spec.training.learning_rate, spec.compute.deterministic) == (3.0, 1e-3, True)


def test_off_is_a_mode_of_wandb_in_any_yaml():
    assert CommandLine(wandb=False).wandb == CommandLine.model_validate(parse_yaml("wandb: off")).wandb == "off"
