"""The CUDA allocator's peak over real training steps, beside what memory.py accounts for."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

from dblocks.build import build
from dblocks.measure.made_up import made_up_data
from dblocks.spec import RunSpec
from dblocks.training import Trainer

ROUNDS = 2  # in the first, gradients of the step before and the optimiser's state are not there yet


def allocated(spec: RunSpec, device: torch.device, folder: Path, block: int | None = None) -> int | None:
    """Peak bytes of training steps on `device`, transient ones included; None where they do not fit.

    Args:
        block: train this block alone; None: the network as it is.
    """
    gc.collect()  # checkpointed layers are freed no earlier, and would count as there before
    torch.cuda.empty_cache()
    square = torch.ones(8, 8, device=device, requires_grad=True)
    (square @ square).sum().backward()  # cuBLAS's workspaces, which stay, are there before
    del square
    before = torch.cuda.memory_allocated(device)
    spec = spec.changed({"compute": {"device": "cuda"}})
    try:
        method, task = build(spec, made_up_data(spec, folder), device, block=block)
        if hasattr(task, "batches"):
            task.batches.together = 1  # batches of later steps, made ahead, are none of a step's memory
        trainer = Trainer(spec, method, 10**6, folder, device)
        torch.cuda.reset_peak_memory_stats(device)
        # blocks take turns (accounting_spec)
        for step in range(block or 0, ROUNDS * spec.num_blocks, 1 if block is None else spec.num_blocks):
            trainer.train_step(step)
        return torch.cuda.max_memory_allocated(device) - before
    except torch.OutOfMemoryError:
        return None
