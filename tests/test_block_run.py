"""Blocks as parallel jobs: each is what its block would be in one job, and joining changes nothing."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dblocks import seeds
from dblocks.block_run import block_weights, execute_block, join_blocks
from dblocks.blocks import keep_block, owner_of
from dblocks.budget import baseline_steps
from dblocks.build import build
from dblocks.checkpoint import checkpoints, load_verified, save_verified
from dblocks.config import resolve
from dblocks.errors import UserError
from dblocks.planning import make_plan
from dblocks.record import read_record
from dblocks.run import execute, read_spec
from dblocks.runlog import read_log
from dblocks.spec import DiffusionBlocksSpec
from dblocks.training import Trainer, learning_rate_factor
from tests.workflow.helpers import dblocks, environment, one_line

CPU = torch.device("cpu")
ALONE = {"num_blocks": 3, "embedders": "own", "target_table": "frozen", "block_order": "turns"}
PARALLEL = {**ALONE, "schedule": "parallel"}
# everything that draws numbers or has a state
LIVELY = {
    "network": {"dropout": 0.1},
    "training": {"max_steps": 8, "ema_half_life": 100, "warmup_epochs": 0.2, "weight_decay": 0.1},
    "logging": {"log_every": 2, "checkpoint_steps": 3},
}


@pytest.fixture
def spec_file(tiny_spec, tmp_path):
    """spec_file(method fields, other sections): path of a spec.json in a folder of its own."""

    def make(method: dict, name: str = "run", **sections: dict) -> Path:
        over = {section: {**LIVELY.get(section, {}), **sections.get(section, {})} for section in {*LIVELY, *sections}}
        spec = tiny_spec("diffusion_blocks", {**over, "method": method})
        path = tmp_path / name / "spec.json"
        path.parent.mkdir()
        path.write_text(spec.model_dump_json())
        return path

    return make


def train_all(path: Path, digits_folder: Path) -> Path:
    for block in (1, 2, 3):
        execute_block(path, block, digits_folder)
    return execute(path, digits_folder)


def joined_weights(record: Path) -> dict[str, torch.Tensor]:
    return load_verified(record.parent / read_record(record).weights)["network"]


def test_parallel_blocks_are_what_a_plain_loop_over_their_updates_gives(spec_file, digits_folder, digits):
    path = spec_file(PARALLEL, training={"ema_half_life": None})
    weights = joined_weights(train_all(path, digits_folder))
    record = read_record(path.parent / "record.json")
    spec, updates = record.spec, baseline_steps(record.spec)
    assert updates == 8
    for block in range(3):
        method, _ = build(spec, digits, CPU)  # the whole network; the loop below is written without Trainer
        own = [p for name, p in method.network.named_parameters() if owner_of(method.network, name) == block]
        settings = {"betas": spec.training.betas, "weight_decay": spec.training.weight_decay, "fused": True}
        optimizer = torch.optim.AdamW(own, lr=spec.training.learning_rate, **settings)
        for update in range(updates):
            factor = learning_rate_factor(spec.training, update, updates)
            optimizer.param_groups[0]["lr"] = spec.training.learning_rate * factor
            torch.manual_seed(seeds.derive(spec.seed, "dropout", 3 * update + block))
            method.network.train()
            result = method.training_step(3 * update + block)
            assert result.block == block
            optimizer.zero_grad(set_to_none=True)
            result.loss.backward()
            torch.nn.utils.clip_grad_norm_(own, spec.training.grad_clip)
            optimizer.step()
        for name, tensor in method.network.state_dict().items():
            if owner_of(method.network, name) == block:
                assert torch.equal(weights[name], tensor), name


def test_parallel_jobs_end_with_the_bits_of_one_job_whose_blocks_take_turns(spec_file, digits_folder):
    constant = {"schedule": "constant", "warmup_epochs": 0}  # a rate over all steps is not one over a block's updates
    together = execute(spec_file(ALONE, "together", training=constant), digits_folder)
    apart = train_all(spec_file(PARALLEL, "apart", training=constant), digits_folder)
    one, other = joined_weights(together), joined_weights(apart)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    metrics = [[(m.name, m.value) for m in read_record(path).metrics] for path in (together, apart)]
    assert metrics[0] == metrics[1]
    assert read_record(together).steps == read_record(apart).steps == 24


def test_the_joined_log_has_every_blocks_losses(spec_file, digits_folder):
    record = train_all(spec_file(PARALLEL), digits_folder)
    whole = read_log(record.parent / "log.jsonl")
    parts = [read_log(record.parent / "blocks" / str(block) / "log.jsonl") for block in (1, 2, 3)]
    losses = {(line["step"], block): value for line in whole for block, value in line["loss"].items()}
    wanted = {
        (3 * line["step"], block): value for part in parts for line in part for block, value in line["loss"].items()
    }
    assert losses == wanted
    assert {block for _, block in losses} == {"1", "2", "3"}
    assert whole[-1]["step"] == 24
    assert read_record(record).train_seconds == pytest.approx(sum(part[-1]["seconds"] for part in parts), abs=0.01)


def test_a_blocks_job_holds_its_own_parameters_alone(spec_file, digits_folder, digits):
    path = spec_file(PARALLEL)
    execute_block(path, 2, digits_folder)
    spec = read_spec(path)
    whole, _ = build(spec, digits, CPU)
    kept = block_weights(path.parent / "blocks" / "2")
    owners = {owner_of(whole.network, name) for name in kept}
    assert owners == {1, None}
    assert all(
        torch.equal(kept[n], p) for n, p in whole.network.named_parameters() if owner_of(whole.network, n) is None
    )
    alone, _ = build(spec, digits, CPU, block=1)
    trainer = Trainer(spec, alone, 8, path.parent, CPU, block=1)
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in alone.network.parameters() if p.requires_grad}
    assert sum(p.numel() for p in alone.network.parameters()) < 0.5 * sum(p.numel() for p in whole.network.parameters())


def is_isolated(network: torch.nn.Module) -> bool:
    """Whether no block trains what another reads: everything that is trained has one owner."""
    return all(owner_of(network, name) is not None for name, p in network.named_parameters() if p.requires_grad)


def test_only_own_embedders_isolate(tiny_spec, built):
    assert is_isolated(built(tiny_spec("diffusion_blocks", {"method": ALONE})).network)
    frozen_table = {"target_table": "frozen"}
    assert not is_isolated(built(tiny_spec("diffusion_blocks", {"method": frozen_table})).network)
    network = built(tiny_spec("diffusion_blocks", {"method": ALONE})).network
    keep_block(network, 2)
    assert {owner_of(network, name) for name, _ in network.named_parameters()} == {2, None}


@pytest.mark.parametrize("run", ["vit/isolated_parallel", "dit_cifar10/isolated_parallel"])
@pytest.mark.parametrize("field", ["embedders", "block_order"])
def test_blocks_that_share_something_are_refused(run, field):
    with pytest.raises(UserError, match="schedule 'parallel' trains blocks that share nothing") as error:
        resolve(run, "smoke", 0, {"method": {field: DiffusionBlocksSpec.model_fields[field].default}})
    assert "\n" not in str(error.value)


def test_joining_waits_for_every_block(spec_file, digits_folder):
    path = spec_file(PARALLEL)
    execute_block(path, 1, digits_folder)
    execute_block(path, 3, digits_folder)
    with pytest.raises(UserError, match="block 2 is not trained"):
        execute(path, digits_folder)


def test_joining_refuses_blocks_that_differ_in_what_they_share(spec_file, digits_folder, digits):
    path = spec_file(PARALLEL)
    for block in (1, 2, 3):
        execute_block(path, block, digits_folder)
    folder = path.parent / "blocks" / "2"
    changed = block_weights(folder)
    changed["table.weight"] = changed["table.weight"] + 1
    new = save_verified(folder, "weights", {"network": changed})
    (folder / "block.json").write_text(json.dumps({"block": 2, "weights": new.name}))
    method, _ = build(read_spec(path), digits, CPU)
    with pytest.raises(UserError, match=r"differ in table\.weight"):
        join_blocks(path.parent, method.network)


def test_a_block_that_there_is_not_is_refused_in_one_line(spec_file, digits_folder):
    path = spec_file(PARALLEL)
    manifest = digits_folder / "manifest.json"
    assert "blocks 1 to 3" in one_line(dblocks(path.parent, "block", path, 4, "--data", manifest))
    sampled = spec_file(ALONE, "sampled")
    assert "not 'parallel'" in one_line(dblocks(path.parent, "block", sampled, 1, "--data", manifest))


def test_a_killed_block_goes_on_and_ends_with_the_same_bits(spec_file, digits_folder):
    long = {"training": {"max_steps": 60}, "logging": {"checkpoint_steps": 1}}
    whole = execute_block(spec_file(PARALLEL, "whole", **long), 2, digits_folder)
    path = spec_file(PARALLEL, "cut", **long)
    folder = path.parent / "blocks" / "2"
    arguments = ["block", path, "2", "--data", digits_folder / "manifest.json", "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "dblocks", *map(str, arguments)], env=environment())
    while not checkpoints(folder) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoints(folder) and not (folder / "block.json").exists()
    cut = execute_block(path, 2, digits_folder)
    one, other = block_weights(whole.parent), block_weights(cut.parent)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not checkpoints(folder)
    before = cut.read_bytes(), {p.name: p.stat().st_mtime_ns for p in folder.glob("weights-*.pt")}
    execute_block(path, 2, digits_folder)
    assert (cut.read_bytes(), {p.name: p.stat().st_mtime_ns for p in folder.glob("weights-*.pt")}) == before


def test_a_plan_has_a_job_a_block_for_parallel_runs_alone():
    plan = make_plan({"skip": ["imagenet256"]})
    counts = {run: len(plan.blocks_of(name, 0)) for run, name in plan.run_of.items()}
    assert {run for run, count in counts.items() if count} == {"vit/isolated_parallel", "dit_cifar10/isolated_parallel"}
    assert counts["vit/isolated_parallel"] == 3


def test_a_block_removed_from_a_finished_run_is_not_trained_again(spec_file, digits_folder):
    path = spec_file(PARALLEL)
    record = train_all(path, digits_folder)
    shutil.rmtree(path.parent / "blocks")
    execute_block(path, 1, digits_folder)
    assert {path.name for path in (path.parent / "blocks" / "1").iterdir()} == {"block.json"}
    assert execute(path, digits_folder) == record
