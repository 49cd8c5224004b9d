"""What a checkpoint says and must say: whose it is, and all that training goes on from.

A file's name proves that it is as it was written; not that it was written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dblocks.checkpoint import step_in
from dblocks.errors import UserError
from dblocks.identity import weights_identity
from dblocks.moving_average import MovingAverage
from dblocks.spec import RunSpec


def origin_of(spec: RunSpec, block: int | None) -> dict[str, Any]:
    """Which training a checkpoint is of: all that decides its bits."""
    return {"weights": weights_identity(spec), "seed": spec.seed, "block": block}


def check_origin(state: Mapping[str, Any], path: Path, origin: Mapping[str, Any], total: int) -> None:
    """Raises: UserError if a checkpoint is not of the training `origin`, or has gone further than its `total` steps."""
    run = state.get("run")
    if not isinstance(run, dict):
        raise UserError(f"{path}: run: missing, as an older version left it; remove all step-*.pt there to train anew")
    for field, wanted in origin.items():
        found = run.get(field)
        if type(found) is not type(wanted) or found != wanted:
            raise UserError(f"{path}: run: {field}: {found!r:.70}, here {wanted!r}: it is another run's; remove it")
    if type(state.get("step")) is int and state["step"] > total:
        raise UserError(f"{path}: step: {state['step']}, and the run has {total}; remove it")


def check_content(
    state: Mapping[str, Any], path: Path, optimizer: torch.optim.Optimizer, average: MovingAverage | None
) -> None:
    """Raises: ValueError naming what of a checkpoint is missing or is not what training left there."""
    own = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shadow = average.shadow if average else {}
    fits = {
        "step": type(state.get("step")) is int and state["step"] == step_in(path),
        "seconds": type(state.get("seconds")) in (int, float) and 0 <= state["seconds"] < 1e300,
        "network": isinstance(state.get("network"), dict),
        "optimizer": _is_of(state.get("optimizer"), [group["params"] for group in own], parameters),
        "ema": _are_alike(state.get("ema"), shadow),
        "ema_updates": _are_counts(state.get("ema_updates"), shadow),
    }
    if wrong := [field for field, right in fits.items() if not right]:
        raise ValueError(f"{path}: {wrong[0]}: missing, or not what this run writes there")


def _is_of(state: Any, groups: list[list[int]], parameters: list[Tensor]) -> bool:
    """Whether an optimiser's state is one of these parameters, grouped so, by Adam."""
    try:
        moments, found = state["state"], [group["params"] for group in state["param_groups"]]
        numbers = sorted(moments)
    except (KeyError, TypeError):
        return False
    if found != groups or not set(numbers) <= {number for group in groups for number in group}:
        return False
    scalar = torch.zeros(())
    wanted = ({"step": scalar, "exp_avg": parameters[n], "exp_avg_sq": parameters[n]} for n in numbers)
    return all(_are_alike(moments[n], tensors) for n, tensors in zip(numbers, wanted, strict=True))


def _are_alike(found: Any, own: Mapping[str, Tensor]) -> bool:
    """Whether these are tensors of the same names, shapes and types of numbers."""
    return (
        isinstance(found, dict)
        and found.keys() == own.keys()
        and all(isinstance(found[name], Tensor) for name in own)
        and all((found[name].shape, found[name].dtype) == (own[name].shape, own[name].dtype) for name in own)
    )


def _are_counts(found: Any, own: Mapping[str, Tensor]) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() == own.keys()
        and all(type(count) is int and count >= 0 for count in found.values())
    )
