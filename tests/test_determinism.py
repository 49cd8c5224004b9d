"""Same spec, same bits, in separate processes that prepare, train and measure; another seed, other numbers."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dblocks.build import build
from dblocks.config import resolve
from dblocks.data.prepare import prepare
from dblocks.data.prepared import PreparedData
from dblocks.data.tokens import TOKENIZER
from dblocks.machine import set_up
from dblocks.processes import joined
from dblocks.spec import ComputeSpec
from tests.data import test_tiny_imagenet
from tests.test_golden import OVERRIDES, RUNS, Workshop
from tests.workflow.helpers import environment

FEW = ["vit/diffusion_blocks", "mdm/diffusion_blocks", "dit_cifar10/diffusion_blocks", "noprop/dt"]  # of every task

MADE = """
import json, sys
from pathlib import Path
from dblocks.record import read_record
from dblocks.runlog import read_log
from tests.test_golden import Workshop
workshop, found = Workshop(Path(sys.argv[1])), {}
for run in sys.argv[2:]:
    path = workshop.record(run)
    record = read_record(path)
    found[run] = {
        "data": record.data_checksum,
        "weights": record.weights,
        "metrics": [(metric.name, metric.value, metric.values) for metric in record.metrics
                    if not metric.name.startswith("seconds")],
        "losses": [line["loss"] for line in read_log(path.parent / "log.jsonl")],
    }
print(json.dumps(found))
"""


def python(code: str, *arguments: object, launcher: tuple[str, ...] = (), **extra: str) -> str:
    """What a process of its own prints; Python's hashes are other ones in each."""
    command = [sys.executable, *launcher, *(["-c", code] if code else []), *map(str, arguments)]
    process = subprocess.run(command, env=environment(**extra), capture_output=True, text=True, timeout=500)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


@pytest.mark.parametrize("runs", [FEW, pytest.param(RUNS, marks=pytest.mark.slow)], ids=["few", "all"])
def test_two_processes_end_in_the_same_bits(tmp_path, runs):
    one, two = (
        json.loads(python(MADE, tmp_path / str(number), *runs, PYTHONHASHSEED=str(number)).splitlines()[-1])
        for number in (1, 2)
    )
    assert list(one) == list(runs)
    for run in runs:
        assert one[run] == two[run], run


def test_another_seed_gives_other_numbers(tmp_path, digits_folder, tiny_spec):
    from dblocks.record import read_record
    from dblocks.run import execute

    found = {}
    for name, seed in (("zero", 0), ("one", 1), ("zero again", 0)):
        spec = tiny_spec("diffusion_blocks", {"training": {"max_steps": 3}}).model_copy(update={"seed": seed})
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.json").write_text(spec.model_dump_json())
        found[name] = read_record(execute(tmp_path / name / "spec.json", digits_folder))
    assert found["zero"].weights == found["zero again"].weights != found["one"].weights
    values = {name: [metric.value for metric in record.metrics] for name, record in found.items()}
    assert values["zero"] == values["zero again"] != values["one"]


@pytest.mark.parametrize("run", ["vit/diffusion_blocks", "vit/end_to_end", "mdm/diffusion_blocks"])
def test_another_seed_draws_another_order_of_other_weights(run, tmp_path):
    method = {}
    for seed in (0, 1):
        spec = resolve(run, "smoke", seed, OVERRIDES)
        data = PreparedData(Workshop(tmp_path).data(spec.data.name))
        method[seed], _ = build(spec, data, torch.device("cpu"))
    drawn = {seed: method[seed].draw(0).tensors for seed in method}
    assert not torch.equal(drawn[0][0], drawn[1][0])
    weights = [dict(method[seed].network.named_parameters()) for seed in method]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# --- the order of data does not depend on how many are at work

DRAWN = "tests.test_determinism"
STEPS = 8


def draw(run: str, data: Path, target: Path, gpus: int) -> None:
    """Saves what this process draws in the first steps of a run that `gpus` processes train together."""
    spec = resolve(run, "smoke", 0, OVERRIDES | {"compute": {"gpus": gpus, "device": "cpu"}})
    with joined(spec):
        method, _ = build(spec, PreparedData(data), torch.device("cpu"))
        drawn = [method.draw(step) for step in range(STEPS)]
        found = [{"tensors": step.tensors, "block": step.block} for step in drawn]
        torch.save(found, target / f"{gpus}-{os.environ.get('RANK', '0')}.pt")


@pytest.mark.parametrize("run", ["vit/diffusion_blocks", "vit/end_to_end", "mdm/diffusion_blocks"])
def test_two_processes_draw_what_one_draws(tmp_path, run):
    data = Workshop(tmp_path).data(resolve(run, "smoke").data.name)
    for gpus in (1, 2):
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}") if gpus > 1 else ()
        python("", "-m", DRAWN, run, data, tmp_path, gpus, launcher=launcher)
    one, *parts = (torch.load(tmp_path / name, weights_only=True) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert len(one) == STEPS
    for whole, *shares in zip(one, *parts, strict=True):
        assert all(share["block"] == whole["block"] for share in shares)
        for tensor, *halves in zip(whole["tensors"], *(share["tensors"] for share in shares), strict=True):
            assert torch.equal(tensor, torch.cat(halves)) and len(halves[0]) == len(halves[1])


def test_a_batch_is_a_function_of_its_step_whatever_was_asked_before(tmp_path):
    spec = resolve("vit/diffusion_blocks", "smoke", 0, OVERRIDES)
    data = PreparedData(Workshop(tmp_path).data(spec.data.name))
    drawn = []
    for steps in (range(40), [*range(39, -1, -1)], [*range(0, 40, 3)]):
        method, _ = build(spec, data, torch.device("cpu"))
        drawn.append({step: method.draw(step).tensors for step in steps})
    for one, other in itertools.combinations(drawn, 2):
        for step in one.keys() & other.keys():
            assert all(torch.equal(*pair) for pair in zip(one[step], other[step], strict=True))


def test_images_are_decoded_into_the_same_order_by_any_number_of_workers(tmp_path, monkeypatch):
    test_tiny_imagenet.write("zip", tmp_path)
    sums = set()
    for workers in (1, 2, 13):
        monkeypatch.setattr(os, "cpu_count", lambda workers=workers: workers)
        sums.add(PreparedData(prepare(test_tiny_imagenet.INFO, tmp_path, tmp_path / "out").parent).checksum())
    assert len(sums) == 1


TOKENIZED = """
import sys
from pathlib import Path
from dblocks.data.prepare import prepare
from dblocks.data.prepared import PreparedData
from dblocks.data.tokens import TOKENIZER, tokenize
from dblocks.data.vocabulary import train_vocabulary
folder = Path(sys.argv[1])
text = PreparedData(prepare("austen_sentences", None, folder / "text").parent)
train_vocabulary(text, 300, folder / "tokens" / TOKENIZER)
print(PreparedData(tokenize(text, "bpe300", "tokens", folder / "tokens").parent).checksum())
"""


def test_tokens_are_the_same_by_any_number_of_workers(tmp_path):
    made = {}
    for workers in ("1", "3"):
        folder = tmp_path / workers
        checksum = python(TOKENIZED, folder, RAYON_NUM_THREADS=workers, TOKENIZERS_PARALLELISM="true").strip()
        made[workers] = (checksum, (folder / "tokens" / TOKENIZER).read_bytes())
    assert made["1"] == made["3"]


# --- compute.deterministic

SETS = """
import os, sys, torch
from dblocks.machine import set_up
from dblocks.spec import ComputeSpec
set_up(ComputeSpec(deterministic=sys.argv[1] == "True", device="cpu", threads=1))
told = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
print(told, torch.are_deterministic_algorithms_enabled(), torch.cuda.is_initialized())
"""


@pytest.mark.parametrize(
    ("wanted", "given", "expected"),
    [
        (True, None, ":4096:8 True False"),
        (True, ":16:8", ":16:8 True False"),
        (False, None, "None False False"),
        (False, ":0:0", ":0:0 False False"),
    ],
)
def test_cublas_is_told_before_cuda_starts(wanted, given, expected):
    extra = {} if given is None else {"CUBLAS_WORKSPACE_CONFIG": given}
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert python(SETS, wanted, **extra).strip() == expected


def test_determinism_of_one_run_is_not_that_of_the_next():
    """In one process, as tests and notebooks have it."""
    try:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        set_up(ComputeSpec(deterministic=True, device="cpu"))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        set_up(ComputeSpec(device="cpu"))
        del os.environ["CUBLAS_WORKSPACE_CONFIG"]
    assert not torch.are_deterministic_algorithms_enabled()


if __name__ == "__main__":
    draw(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
