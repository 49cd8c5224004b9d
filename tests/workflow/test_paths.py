"""Folders and files of any name a file system takes: no shell and no pattern of Snakemake's reads more into them."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from pathlib import Path

import pytest

from dblocks.cli import parser
from dblocks.command_line import CommandLine
from dblocks.planning import make_plan
from tests.workflow.helpers import copy_repository, snakemake

ODD = "it's [my] res&ults ($HOME)"


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    return copy_repository(tmp_path_factory.mktemp("paths") / "clone")


def paths(options: Namespace) -> list[str]:
    """All paths that a command was given."""
    values = [
        value for option in vars(options).values() for value in (option if isinstance(option, list) else [option])
    ]
    return [str(value[1] if isinstance(value, tuple) else value) for value in values if "/" in str(value)]


def test_every_command_is_given_paths_whole(clone):
    process = snakemake(clone, "-n", "-p", "all", "--config", f"results_dir={ODD}")
    assert process.returncode == 0, process.stderr[-2000:]
    commands = re.findall(r"^.*\bpython -m dblocks (.*?) (?:2>&1 \| tee|>>?) (.*)$", process.stdout, re.MULTILINE)
    verbs = set()
    for arguments, log in commands:
        options = parser().parse_args(shlex.split(arguments))
        verbs.add(options.function.__name__)
        assert all(path.startswith(f"{ODD}/") for path in paths(options)), arguments
        assert shlex.split(log)[0].startswith(f"{ODD}/"), log
    assert verbs >= {"prepare", "encode", "tokenizer", "tokenize", "run", "measure", "table", "figure", "report"}


@pytest.mark.parametrize(("given", "taken"), [("res/", "res"), ("./res", "res"), ("a//b", "a/b"), ("//res", "/res")])
def test_a_directory_is_one_however_it_is_written(given, taken):
    assert CommandLine(results_dir=given).results_dir == taken


@pytest.mark.parametrize("given", ["res/", "./a//b", "."])
def test_a_plan_takes_any_way_to_write_a_directory(clone, given):
    process = snakemake(clone, "-n", "table_1", "--config", f"results_dir={given}")
    assert process.returncode == 0, process.stderr[-2000:]


def test_a_text_of_any_name_is_prepared(clone, monkeypatch):
    name = "-x{y} it's (1)|+$HOME*.txt"
    (clone / name).write_text("It was a dark and stormy night. " * 20_000)
    monkeypatch.chdir(clone)
    data = {"name": "characters", "path": name}
    plan = make_plan({"results_dir": ODD, "override_runs": {"mdm": {"data": data}}})
    (key,) = (key for key, data in plan.datasets().items() if data.path)
    assert re.fullmatch(r"-x-y--it-s--1----HOME--[0-9a-f]{8}", key)
    overrides = f"override_runs={{mdm: {{data: {{name: characters, path: {name!r}}}}}}}"
    process = snakemake(clone, plan.manifest(key), "--config", f"results_dir={ODD}", overrides)
    assert process.returncode == 0, process.stderr[-2000:]
    assert (clone / plan.manifest(key)).is_file()
