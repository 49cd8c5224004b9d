"""Every bad call of `python -m dblocks` ends in one line and status 2, and writes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from dblocks.cli import main
from tests.bad_input.commands import CALLS, ENVIRONMENT, Call
from tests.bad_input.data_files import DATA
from tests.workflow.helpers import files_below


@pytest.fixture
def said(tmp_path, monkeypatch, capfd, digits_folder):
    """said(call): the one line that a command ends in, in a folder with prepared digits in `data`."""

    def make(call: Call) -> str:
        shutil.copytree(digits_folder, tmp_path / "data")
        call.arrange(tmp_path)
        for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "DBLOCKS_WANDB", "CUBLAS_WORKSPACE_CONFIG"):
            monkeypatch.delenv(name, raising=False)
        for name, value in call.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        before = contents(tmp_path)
        code = main(call.arguments)
        error = capfd.readouterr().err
        assert code == 2 and error.startswith("dblocks: ") and error.count("\n") == 1, error
        assert len(error) < 700
        assert contents(tmp_path) == before
        return error

    return make


def contents(folder: Path) -> dict[str, bytes]:
    """All files with what is in them."""
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


@pytest.mark.parametrize("name", CALLS)
def test_a_call(said, name):
    line = said(CALLS[name])
    assert all(word in line for word in CALLS[name].said), line


@pytest.mark.parametrize("name", DATA)
def test_a_data_file(said, name):
    line = said(DATA[name])
    assert all(word in line for word in DATA[name].said), line


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_setting_around_a_call(said, name):
    if name == "no GPU" and torch.cuda.is_available():
        pytest.skip("there is one")
    line = said(ENVIRONMENT[name])
    assert all(word in line for word in ENVIRONMENT[name].said), line
