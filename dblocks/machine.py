"""The machine a run is on: its device, precision, memory, and what of it stands in the record."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import torch

from dblocks.errors import UserError
from dblocks.record import Machine
from dblocks.spec import ComputeSpec, RecurrentDepthSpec, RunSpec


def pick_device(compute: ComputeSpec) -> torch.device:
    """The device a spec asks for.

    Raises: UserError if that is CUDA and there is none.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "compute.device: this run wants CUDA and the job finds none; give `--config device=cpu` to run without"
        )
    if compute.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(compute.device)


CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
WITHOUT_CUDNN = " without cuDNN's attention"
FIXED_WORKSPACES = (":4096:8", ":16:8")  # with which cuBLAS gives the same bits again; the second is smaller and slower


def set_up(compute: ComputeSpec) -> torch.device:
    """Make this process compute as a spec says: its threads, determinism, device; returns the last.

    Raises: UserError if it wants CUDA and there is none, or the environment rules determinism out.
    """
    # cuBLAS reads it when it is first used, so it must be there before; without, torch stops at the first product
    if compute.deterministic and os.environ.setdefault(CUBLAS, FIXED_WORKSPACES[0]) not in FIXED_WORKSPACES:
        raise UserError(
            f"{CUBLAS}: '{os.environ[CUBLAS]}' lets CUDA give other bits each time, and compute.deterministic is "
            f"wanted; unset it, or set {' or '.join(FIXED_WORKSPACES)}"
        )
    keep_freed_memory()
    torch.set_num_threads(compute.threads)
    torch.use_deterministic_algorithms(compute.deterministic)
    torch.backends.cudnn.allow_tf32 = False  # else what is float32 on CUDA is rounded to 10 bits in every convolution
    # of 64 tokens, or 64 more than a multiple of 128, its backward pass can make NaN of rows whose logits are all below
    # -88 on an H100 or H200 (NVIDIA/cudnn-frontend pull request 628, pytorch/pytorch issue 196678)
    torch.backends.cuda.enable_cudnn_sdp(False)
    # which attention a graph has is decided as it is compiled, and kept graphs are found without regard to that
    tag = getattr(getattr(torch.compiler, "config", None), "cache_key_tag", None)
    if tag is not None and WITHOUT_CUDNN not in tag:  # None: PyTorch 2.6
        torch.compiler.config.cache_key_tag = tag + WITHOUT_CUDNN
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads any, and each filling is a kernel
    return pick_device(compute)


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep the memory that tensors of over 32 MiB free, for the next ones: by default it returns it to the
    system, which then gives out and clears every page anew in each step. (At the paper's shape a third of a ViT's step
    on a CPU. What is kept in pieces too small to be used again adds to the process's memory.)"""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):  # macOS and musl have no such settings
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def autocast(compute: ComputeSpec, device: torch.device) -> torch.autocast:
    """bf16 autocast where the spec, or by default the device, wants it.

    Casts of weights are not kept: some versions of PyTorch (seen with 2.9) use one made under `no_grad` again where a
    gradient is wanted, and so drop it (recurrent depth iterates without one first).
    """
    bf16 = compute.precision == "bf16" or (compute.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16, cache_enabled=False)


def wants_compile(compute: ComputeSpec, device: torch.device) -> bool:
    """Whether networks are compiled: as the spec says, or by default on CUDA only."""
    return compute.compile in ("on", "blocks") or (compute.compile == "auto" and device.type == "cuda")


def compiles_blocks(spec: RunSpec, device: torch.device) -> bool:
    """Whether all of a step's loss is one compiled graph a block: as the spec says, or by default on CUDA for a ViT,
    whose kernels are so small that it is their number that takes time."""
    if isinstance(spec.method, RecurrentDepthSpec):  # compiled whole, it would be compiled again for each depth
        return False
    if spec.compute.compile != "auto":
        return spec.compute.compile == "blocks"
    small = spec.network.name == "vit" and spec.method.name in ("end_to_end", "diffusion_blocks")
    return small and device.type == "cuda" and not spec.compute.checkpoint_activations


def wants_graphs(compute: ComputeSpec, device: torch.device) -> bool:
    """Whether training steps are replayed as CUDA graphs: wherever CUDA's networks are compiled, on one GPU, and no
    layer is run again, which reads the state of dropout's draws on the host."""
    return (
        device.type == "cuda"
        and wants_compile(compute, device)
        and compute.gpus == 1
        and not compute.checkpoint_activations
    )


def peak_memory(device: torch.device) -> int:
    """Bytes: the allocator's peak on CUDA, else the process's resident peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def describe(compute: ComputeSpec, device: torch.device) -> Machine:
    """What the record says of this machine."""
    return Machine(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({processor_name()})",
        threads=compute.threads,
        python=platform.python_version(),
        torch=torch.__version__,
        commit=commit(),
    )


def processor_name() -> str:
    """The processor's model name, or its architecture where that is not told."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def commit() -> str | None:
    """Commit of the code that runs, with -dirty where tracked files were changed; outside git (a container, a copy)
    what DBLOCKS_COMMIT says, or None."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("DBLOCKS_COMMIT")
    return head.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")
