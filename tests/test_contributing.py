"""CONTRIBUTING.md's recipes, done word for word in a copy of the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.helpers import REPOSITORY, copy_repository, environment

BLOCK = re.compile(r"^```(diff|sh|python)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def recipes() -> dict[str, list[tuple[str, str, str]]]:
    """Blocks (kind, file name, text) of each section that has commands to follow."""
    sections = (REPOSITORY / "CONTRIBUTING.md").read_text().split("\n## ")[1:]
    found = {section.partition("\n")[0]: BLOCK.findall(section) for section in sections}
    return {title: blocks for title, blocks in found.items() if any(kind == "sh" for kind, _, _ in blocks)}


def follow(kind: str, name: str, text: str, folder: Path) -> str:
    """Do what a block says; returns what was printed."""
    if kind == "python":
        (folder / name).write_text(text)
        return ""
    command = ["git", "apply", "--unidiff-zero", "-"] if kind == "diff" else ["bash", "-euo", "pipefail", "-s"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # the copy, not this repository, is what Python finds
    own = environment(PATH=path, PYTHONPATH=str(folder), DBLOCKS_WANDB="off")
    if (
        kind == "diff"
        and subprocess.run([*command[:-1], "--reverse", "--check", "-"], cwd=folder, input=text.encode()).returncode
        == 0
    ):
        return ""  # somebody has followed it already
    process = subprocess.run(command, cwd=folder, env=own, input=text, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, (process.stdout + process.stderr)[-2000:]
    return process.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """One copy for all recipes: a later one may build on an earlier one."""
    folder = copy_repository(tmp_path_factory.mktemp("contributing") / "clone")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def test_there_are_four_recipes():
    assert len(recipes()) == 4


def test_the_changes_of_all_recipes_apply(clone):
    folder = clone.parent / "applied"
    subprocess.run(["cp", "-r", clone, folder], check=True)
    for blocks in recipes().values():
        for block in blocks:
            if block[0] == "diff":
                follow(*block, folder)
    follow("sh", "", "ruff check --no-cache . && ruff format --no-cache --check .", folder)


@pytest.mark.slow
@pytest.mark.parametrize("title", recipes())
def test_a_recipe_does_what_it_says(clone, title):
    said = [follow(*block, clone) for block in recipes()[title]]
    if title != list(recipes())[-1]:
        assert re.search(r"\| \d+\.\d+ \(n = 1\)", said[-1]), said[-1]
    else:
        accuracy = float(re.search(r"accuracy ([\d.]+) %", said[-1])[1])
        assert accuracy > 50  # chance is 10
