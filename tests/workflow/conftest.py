"""Fixtures of the tests that run the whole pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.workflow.helpers import TINY, copy_repository, snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A copy of the repository whose first tables are built from two-step runs; read only."""
    folder = copy_repository(tmp_path_factory.mktemp("finished") / "repository")
    process = snakemake(folder, "all", "--config", *TINY, cores=2, timeout=900)
    assert process.returncode == 0, process.stderr[-3000:]
    return folder


@pytest.fixture
def pipeline(finished, tmp_path) -> Path:
    """A copy of `finished` to break."""
    return Path(shutil.copytree(finished, tmp_path / "repository", symlinks=True))
