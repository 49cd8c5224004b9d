"""A run's final weights: trained here, joined from its blocks, or another run's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dblocks import processes
from dblocks.block_run import join_blocks
from dblocks.budget import total_steps
from dblocks.checkpoint import load_verified, load_weights, save_verified
from dblocks.errors import UserError
from dblocks.identity import wandb_id
from dblocks.run import final_weights_in
from dblocks.runlog import read_log
from dblocks.shared_training import take_weights
from dblocks.spec import RunSpec
from dblocks.training import Trainer

if TYPE_CHECKING:
    import torch

    from dblocks.methods.method import Method


def final_weights(
    spec: RunSpec,
    method: Method,
    folder: Path,
    device: torch.device,
    wandb_mode: str,
    progress: bool,
    trainer: Path | None = None,
) -> tuple[Path, float]:
    """Load the final weights into the method's network, training them first unless they are there, or joining them
    where the blocks were trained in parallel.

    Args:
        trainer: the record of the run that has trained them, if that was another.
    Returns: their file, and the seconds of training, of each attempt up to its last checkpoint.
    Raises: UserError if weights or log are damaged, or the other run's are none of this run's; Interrupted and
        TrainingFailed as `Trainer.run`.
    """
    found = final_weights_in(folder)
    if not found and trainer:
        found = take_weights(spec, trainer, folder)
    processes.same_for_all(found is None)
    if not found and spec.in_parallel:
        found = join_blocks(folder, method.network)
    elif not found:
        training = Trainer(spec, method, total_steps(spec), folder, device)
        with live_log(spec, folder, wandb_mode) as on_log:
            training.run(progress, on_log)
        # the weights alone: the same training is the same file, however long it took
        found = save_verified(folder, "weights", {"network": training.final_weights()})
        training.let_go()
    try:
        state = load_verified(found)
        load_weights(method.network, state, found)
    except ValueError as error:
        raise UserError(f"{error}; remove it to train again from the last checkpoint") from error
    log, steps = read_log(folder / "log.jsonl"), total_steps(spec)
    if not log or log[-1]["step"] != steps:
        raise UserError(
            f"{folder / 'log.jsonl'}: missing, or does not end at step {steps}, and {found.name} is there; bring it "
            f"back, or remove {folder} to train again"
        )
    return found, log[-1]["seconds"]


@contextlib.contextmanager
def live_log(spec: RunSpec, folder: Path, wandb_mode: str) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """What the trainer hands its log lines to besides the log: W&B when online, else nothing."""
    if wandb_mode != "online":
        yield None
        return
    from dblocks.report.wandb_export import stream

    with stream(spec, wandb_id(spec), folder) as on_log:
        yield on_log
