"""A run whose blocks are trained in parallel: one job a block, without communication, and the joining of their weights.

Below the run's folder, `blocks/<block>/` (from 1, the noisiest) has a run folder's files: `log.jsonl`, `step-*.pt`,
`weights-<sha16>.pt` of that block alone, `failed.json`; and `block.json`, which is written last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dblocks.budget import baseline_steps
from dblocks.data.files import one_line, write_atomically
from dblocks.data.prepared import PreparedData
from dblocks.errors import UserError
from dblocks.identity import identity, training_fingerprint
from dblocks.owner import owned
from dblocks.record import BLOCK, RESULT
from dblocks.run import (
    disk_full_in_one_line,
    final_weights_in,
    read_spec,
    remembered_failure,
    remove_checkpoints,
)
from dblocks.runlog import read_log
from dblocks.seal import check_place
from dblocks.spec import RunSpec
from dblocks.stopping import interrupt_on_signals

if TYPE_CHECKING:
    from torch import Tensor, nn


def execute_block(spec_path: Path, block: int, data_folder: Path, progress: bool = False) -> Path:
    """Bring one block, counted from 1, to its block.json, from wherever it stands. Returns the path of that.

    Raises: UserError (bad input, or a failure that would repeat), Interrupted (asked to stop, state saved).
    """
    spec = read_spec(spec_path)
    check_place(spec_path, identity(spec), spec.seed)
    if not spec.in_parallel:
        raise UserError(f"{spec_path}: method.schedule is not 'parallel': `dblocks run` trains all blocks in one job")
    if not 1 <= block <= spec.num_blocks:
        raise UserError(f"block {block}: {spec_path} has blocks 1 to {spec.num_blocks}")
    folder = spec_path.parent / "blocks" / str(block)
    folder.mkdir(parents=True, exist_ok=True)
    with disk_full_in_one_line(folder), owned(folder):
        weights = final_weights_in(folder)
        # a finished run has all of it: a block that was removed to save room is not trained again
        if not weights and not (spec_path.parent / RESULT).exists():
            with remembered_failure(folder), interrupt_on_signals():
                weights = train_block(spec, block - 1, PreparedData(data_folder), folder, progress)
        content = {"block": block, "weights": weights.name if weights else None}
        write_atomically(folder / BLOCK, json.dumps(content, indent=1) + "\n")
        remove_checkpoints(folder)
    return folder / BLOCK


def train_block(spec: RunSpec, block: int, data: PreparedData, folder: Path, progress: bool) -> Path:
    """Train block `block`, counted from 0; only its parameters and their optimiser state are held."""
    from dblocks.build import build
    from dblocks.checkpoint import save_verified
    from dblocks.machine import set_up
    from dblocks.training import Trainer

    data.must_be(training_fingerprint(spec))
    device = set_up(spec.compute)
    method, _ = build(spec, data, device, block=block)
    trainer = Trainer(spec, method, baseline_steps(spec), folder, device, block)
    trainer.run(progress)
    return save_verified(folder, "weights", {"network": trainer.final_weights()})


def join_blocks(folder: Path, network: nn.Module) -> Path:
    """Put the blocks' weights together into a run's folder, and their logs; returns the weights' path.

    Args:
        network: the whole one, whose tensors must all be there.
    Raises: UserError if a block is not trained yet, is not of this network, or what they share differs.
    """
    from dblocks.checkpoint import save_verified

    count = network.partition.num_blocks
    parts = [block_weights(folder / "blocks" / str(block)) for block in range(1, count + 1)]
    joined = merge_weights(parts, folder)
    if missing := network.state_dict().keys() ^ joined.keys():
        raise UserError(f"{folder / 'blocks'}: {min(missing)} is not both in the network and in one of the blocks")
    write_log(folder, [read_log(folder / "blocks" / str(block) / "log.jsonl") for block in range(1, count + 1)])
    return save_verified(folder, "weights", {"network": joined})


def block_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of one finished block."""
    from dblocks.checkpoint import load_verified

    try:
        name = json.loads((folder / BLOCK).read_bytes())["weights"]
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{folder / BLOCK}: weights: {name!r} is no file beside it")
        return load_verified(folder / name)["network"]
    except FileNotFoundError as error:
        number = folder.name
        raise UserError(f"{error.filename}: block {number} is not trained; `dblocks block SPEC {number}`") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{folder}: cannot be read ({one_line(error)}); remove it to train it again") from error


def merge_weights(parts: list[dict[str, Tensor]], folder: Path) -> dict[str, Tensor]:
    """All tensors of all blocks by name. Raises: UserError if one that several have differs between them."""
    import torch

    joined: dict[str, Tensor] = {}
    for part in parts:
        for name, tensor in part.items():
            if not torch.equal(joined.setdefault(name, tensor), tensor):
                raise UserError(f"{folder / 'blocks'}: blocks differ in {name}, which they share and must not train")
    return joined


def write_log(folder: Path, logs: list[list[dict[str, Any]]]) -> None:
    """One log of the run from the blocks': at each step the losses that were noted, and seconds of all together."""
    count, seconds, lines = len(logs), [0.0] * len(logs), {}
    for step, block, line in sorted((line["step"], block, line) for block, log in enumerate(logs) for line in log):
        seconds[block] = line["seconds"]
        whole = lines.setdefault(step, {"step": count * step, "loss": {}, "learning_rate": line["learning_rate"]})
        whole["loss"] |= line["loss"]
        whole["seconds"] = round(sum(seconds), 3)
    write_atomically(folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in lines.values()))
