"""Fixtures of the tests that need a SLURM: one real cluster for the session, no job left by any test."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # whatever pytest's import mode

import cluster


@pytest.fixture(scope="session")
def slurm_cluster():
    """The `cluster` module with the cluster up; skips where this machine cannot have one."""
    try:
        context = cluster.running()
        context.__enter__()
    except cluster.Unavailable as reason:
        pytest.skip(str(reason))
    yield cluster
    context.__exit__(None, None, None)


@pytest.fixture
def slurm(slurm_cluster):
    """The same for one test, whose jobs are cancelled when it ends."""
    yield slurm_cluster
    slurm_cluster.cancel_all()
