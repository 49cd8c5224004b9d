"""Several processes that train together take the steps of one. Two CPU processes stand for two GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dblocks.checkpoint import checkpoints, load_verified
from dblocks.config import resolve
from dblocks.errors import UserError
from dblocks.identity import identity
from dblocks.record import read_record
from dblocks.run import execute
from dblocks.runlog import read_log
from tests.workflow.helpers import dblocks, environment

# of the distance trained: sums of halves round otherwise, and where a gradient is nothing but rounding, as a key's
# bias has it, AdamW makes full steps of it
TOLERANCE = 0.01
SHORT = {
    "training": {"max_steps": 4, "ema_half_life": 100},
    "logging": {"log_every": 1, "checkpoint_steps": 2},
    "network": {"dropout": 0.0},
}


def write(spec, folder: Path) -> Path:
    folder.mkdir()
    (folder / "spec.json").write_text(spec.model_dump_json())
    return folder / "spec.json"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_verified(next(folder.glob("weights-*.pt")))["network"]


def train(spec, folder: Path, data: Path) -> dict[str, torch.Tensor]:
    """By the command line, which starts as many processes as the spec wants."""
    process = dblocks(folder.parent, "run", write(spec, folder), "--data", data / "manifest.json", "--quiet")
    assert process.returncode == 0, process.stderr[-2000:]
    return weights(folder)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return sum((one[name].double() - other[name].double()).square().sum().item() for name in one) ** 0.5


@pytest.fixture
def specs(tiny_spec, text_spec):
    """specs(task, method, gpus): a short run whose steps draw everything but dropout."""

    def make(task: str, method: str, gpus: int):
        maker = {"classification": tiny_spec, "masked_text": text_spec}[task]
        return maker(method, {**SHORT, "compute": {"gpus": gpus}})

    return make


CASES = [
    ("classification", "diffusion_blocks"),
    ("masked_text", "diffusion_blocks"),
    pytest.param("classification", "end_to_end", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("task", "method"), CASES)
def test_two_processes_train_what_one_trains(task, method, specs, digits, austen, built, tmp_path):
    data = {"classification": digits, "masked_text": austen}[task].folder
    two = train(specs(task, method, 2), tmp_path / "two", data)
    execute(write(specs(task, method, 1), tmp_path / "one"), data)
    one = weights(tmp_path / "one")
    untrained = specs(task, method, 1).changed({"training": {"max_steps": 1, "learning_rate": 1e-12}})
    execute(write(untrained, tmp_path / "untrained"), data)
    assert distance(one, two) < TOLERANCE * distance(one, weights(tmp_path / "untrained"))
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    for first, second in zip(*logs, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-3)
    values = [{m.name: m.value for m in read_record(tmp_path / n / "record.json").metrics} for n in ("one", "two")]
    assert values[0].keys() == values[1].keys()


def test_two_processes_that_were_killed_go_on_to_the_same_bits(specs, digits, tmp_path):
    spec = specs("classification", "diffusion_blocks", 2).changed({"training": {"max_steps": 40}})
    whole = train(spec, tmp_path / "whole", digits.folder)
    path = write(spec, tmp_path / "cut")
    arguments = ["run", path, "--data", digits.folder / "manifest.json", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dblocks", *map(str, arguments)], env=environment(), start_new_session=True
    )
    while not checkpoints(path.parent) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoints(path.parent) and not list(path.parent.glob("weights-*.pt"))
    again = dblocks(tmp_path, *arguments)
    assert again.returncode == 0, again.stderr[-2000:]
    cut = weights(path.parent)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert [line["step"] for line in read_log(path.parent / "log.jsonl")] == list(range(1, 121))


def test_as_many_processes_as_are_wanted_or_none(specs, digits, tmp_path, monkeypatch):
    path = write(specs("classification", "end_to_end", 2), tmp_path / "run")
    with pytest.raises(UserError, match=r"compute\.gpus: 2 are wanted, torchrun started 1"):
        execute(path, digits.folder)


@pytest.mark.parametrize(
    ("run", "over", "message"),
    [
        ("vit/diffusion_blocks", {"compute": {"gpus": 3}}, "gpus 3 does not divide training.batch_size 64"),
        ("vit/contrastive_forward_forward", {"compute": {"gpus": 2}}, "cannot be trained on shares"),
        ("autoencoder/latents", {"compute": {"gpus": 2}}, "cannot be trained on shares"),
        (
            "noprop/diffusion_blocks",
            {"compute": {"gpus": 2}},
            "noprop_cnn, classification by diffusion_blocks cannot be trained on shares",
        ),
        ("vit/isolated_parallel", {"compute": {"gpus": 2}}, "each block's job has one"),
        ("vit/diffusion_blocks", {"compute": {"gpus": 2}, "method": {"weighting": "official"}}, "no mean over samples"),
    ],
)
def test_what_cannot_be_shared_is_refused(run, over, message):
    with pytest.raises(UserError, match=message):
        resolve(run, "smoke", 0, over)


def test_the_number_of_processes_names_a_run_and_one_is_as_before():
    one, two = (resolve("vit/end_to_end", "smoke", 0, {"compute": {"gpus": gpus}}) for gpus in (1, 2))
    assert identity(one) == identity(resolve("vit/end_to_end", "smoke")) != identity(two)
    assert resolve("vit/end_to_end", "paper", 0, {"compute": {"gpus": 4}}).gpu_count == 4
