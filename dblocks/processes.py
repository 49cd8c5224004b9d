"""Several processes that train one run together, a GPU each (torchrun): shares of the batch, and the mean of gradients.

Every process draws the whole batch, with its noise and its block, from (seed, step), and keeps its share of the
samples, so that N processes take the steps of one. With one process nothing here does anything.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from dblocks.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dblocks.spec import RunSpec


def started() -> int:
    """How many processes torchrun started; 1 without it.

    Raises: UserError if WORLD_SIZE is no number.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdecimal() or int(count) < 1:
        raise UserError(f"WORLD_SIZE: '{count}' is no number of processes; unset it, torchrun sets it itself")
    return int(count)


def start_together(count: int, arguments: Sequence[str]) -> None:
    """Where `count` processes are wanted and this is a lone one: become torchrun, which starts them as
    `python -m dblocks <arguments>`."""
    if count > 1 and "WORLD_SIZE" not in os.environ:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", "dblocks"]
        os.execv(sys.executable, [sys.executable, *launcher, *arguments])


OF_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@contextlib.contextmanager
def joined(spec: RunSpec) -> Iterator[None]:
    """Be one of the processes that train `spec` while the block runs.

    Raises: UserError if there are not as many as it wants.
    """
    count = started()
    if spec.compute.gpus == 1 and count == 1:
        yield
        return
    if count != spec.compute.gpus:
        raise UserError(
            f"compute.gpus: {spec.compute.gpus} are wanted, torchrun started {count} processes (WORLD_SIZE)"
        )
    if missing := [name for name in OF_TORCHRUN if not os.environ.get(name)]:
        raise UserError(f"{missing[0]}: not set, WORLD_SIZE is; unset that, or start the processes by torchrun")
    import torch
    from torch import distributed

    from dblocks.machine import pick_device

    device = pick_device(spec.compute)
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def is_together() -> bool:
    """Whether several processes train together."""
    if "WORLD_SIZE" not in os.environ:
        return False
    from torch import distributed

    return distributed.is_initialized() and distributed.get_world_size() > 1


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ["RANK"]) if is_together() else 0


def is_first() -> bool:
    """Whether this is the process that writes files and evaluates."""
    return rank() == 0


def same_for_all(value: bool) -> bool:
    """The first process's value, in every process."""
    if not is_together():
        return value
    from torch import distributed

    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


@contextlib.contextmanager
def first_goes_first() -> Iterator[None]:
    """The first process runs the block, then the others do."""
    if not is_together():
        yield
        return
    from torch import distributed

    if not is_first():
        distributed.barrier()
    yield
    if is_first():
        distributed.barrier()


def own_share(*tensors: Tensor) -> tuple[Tensor, ...]:
    """This process's samples of a batch's tensors, each [N, …]: an equal part, in order."""
    if not is_together():
        return tensors
    from torch import distributed

    return tuple(tensor.chunk(distributed.get_world_size())[rank()] for tensor in tensors)


def average(parameters: Iterable[torch.nn.Parameter], loss: Tensor) -> Tensor:
    """The mean over processes: of gradients, in place and in one buffer, and of the loss, which is returned.

    Parameters without a gradient, those outside the active block, take no part.
    """
    if not is_together():
        return loss
    import torch
    from torch import distributed

    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([loss.detach().float().reshape(1), *(gradient.reshape(-1) for gradient in gradients)])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    parts = flat[1:].split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return flat[0]
