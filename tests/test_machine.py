"""What a run sets up of its process."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

TEN_TENSORS = """
import resource, sys
import torch
from dblocks.machine import set_up
from dblocks.spec import ComputeSpec

if sys.argv[1] == "set up":
    set_up(ComputeSpec(device="cpu"))
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_given_out(how: str) -> int:
    """Pages that the system gives out for the tenth of ten tensors, each freed before the next."""
    command = [sys.executable, "-c", TEN_TENSORS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="a setting of glibc's")
def test_a_run_uses_freed_memory_again():
    assert pages_given_out("set up") * 4 < pages_given_out("as Python starts")
