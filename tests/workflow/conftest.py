"""Fixtures of the tests that run the whole pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.workflow.helpers import finished_pipeline


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A copy of the repository whose tables are all built from two-step runs; read only."""
    return finished_pipeline(tmp_path_factory)


@pytest.fixture
def pipeline(finished, tmp_path) -> Path:
    """A copy of `finished` to break."""
    return Path(shutil.copytree(finished, tmp_path / "repository", symlinks=True))
