"""Training on a CUDA device: the same mathematics as on a CPU, as graphs or not, without a halt of the host.

Where there is no GPU these are skipped, and nothing here is shown.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dblocks import graphs
from dblocks.build import build
from dblocks.config import resolve
from dblocks.data.prepared import PreparedData
from dblocks.machine import set_up
from dblocks.methods.method import Drawn
from dblocks.record import read_record
from dblocks.run import execute
from dblocks.spec import ComputeSpec, RunSpec
from dblocks.training import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

RUNS = (
    "vit/end_to_end",
    "vit/diffusion_blocks",
    "vit/contrastive_forward_forward",
    "vit/forward_forward",
    "noprop/backprop",
    "noprop/dt",
    "noprop/ct",
    "noprop/fm",
    "dit_cifar10/diffusion_blocks",
    "mdm/diffusion_blocks",
    "ar_lm1b/end_to_end",
    "ar_lm1b/diffusion_blocks",
    "huginn/diffusion_blocks",
    "huginn/recurrent_depth",
)
STEPS = 24


@pytest.fixture(autouse=True)
def compiled_anew() -> None:
    """Layers of all networks share their code, of which PyTorch keeps eight compilations and runs the next as it is."""
    torch._dynamo.reset()
    set_up(ComputeSpec())  # as every run begins


@pytest.fixture(scope="module", autouse=True)
def fixed_workspace() -> None:
    """What cuBLAS reads once a process, at its first product."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(scope="module")
def data_of(digits, austen, tokens_folder):
    """data_of(run): the prepared data of one of RUNS."""
    kinds = {"mdm": austen, "ar_lm1b": PreparedData(tokens_folder), "huginn": PreparedData(tokens_folder)}
    return lambda run: kinds.get(run.partition("/")[0], digits)


def spec_of(run: str, **sections: dict[str, Any]) -> RunSpec:
    """A run of smoke's size on a GPU, in full precision unless said otherwise."""
    compute = {"device": "cuda", "precision": "fp32", "compile": "on", **sections.pop("compute", {})}
    return resolve(run, "smoke", 0, {"compute": compute, **sections})


def trainer(spec: RunSpec, data: PreparedData, folder: Path, total: int = 1000) -> Trainer:
    device = torch.device(spec.compute.device)
    method, _ = build(spec, data, device)
    return Trainer(spec, method, total, folder, device)


def course(made: Trainer, steps: int = STEPS) -> list[float]:
    """Losses of the first steps."""
    for step in range(steps):
        made.train_step(step)
    return [entry.loss.item() for _, entry in made.buffer.entries]


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two trainings ended alike: convolutions add up in another order each time, and Adam makes much of it."""
    return bool((a - b).float().norm() <= 1e-2 * a.float().norm() + 1e-4)


@pytest.mark.parametrize("run", RUNS)
def test_loss_and_gradients_are_those_of_a_cpu(run, data_of, tmp_path):
    found = []
    drawn = None
    for device in ("cpu", "cuda"):
        spec = spec_of(
            run,
            compute={"device": device, "compile": "off"},
            network={"dropout": 0.0} if "ar" not in run and "hug" not in run else {},
        )
        method, _ = build(spec, data_of(run), torch.device(device))
        if drawn is None:
            drawn = method.draw(3)
        torch.manual_seed(0)
        with torch.no_grad():  # fresh adaLN-zero layers do nothing at all
            noise = torch.Generator().manual_seed(1)
            for parameter in method.network.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise).to(device))
        here = Drawn(tuple(t.to(device) for t in drawn.tensors), drawn.block, None, drawn.part, drawn.depth)
        loss = method.loss(here)
        loss.backward()
        gradients = [p.grad.flatten().double().cpu() for p in method.network.parameters() if p.grad is not None]
        found.append((loss.item(), torch.cat(gradients)))
    (loss, gradient), (gpu_loss, gpu_gradient) = found
    assert gpu_loss == pytest.approx(loss, rel=1e-3)
    assert (gpu_gradient - gradient).norm() <= 1e-2 * gradient.norm()


@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-3), ("bf16", 2e-2)])
@pytest.mark.parametrize("run", ["vit/end_to_end", "vit/contrastive_forward_forward", "ar_lm1b/end_to_end"])
def test_training_goes_as_on_a_cpu(run, precision, within, data_of, tmp_path):
    """Of runs that draw nothing on the device, dropout aside: batches, augmentation, updates and all."""
    over = {"network": {"dropout": 0.0}} if run.startswith("vit") else {}
    on_cpu, on_gpu = {"precision": precision, "device": "cpu", "compile": "off"}, {"precision": precision}
    here = course(trainer(spec_of(run, compute=on_cpu, **over), data_of(run), tmp_path))
    there = course(trainer(spec_of(run, compute=on_gpu, **over), data_of(run), tmp_path))
    assert there == pytest.approx(here, rel=within)


@pytest.mark.parametrize("run", RUNS)
def test_graphs_do_the_steps_that_compiled_networks_do_without(run, data_of, tmp_path, monkeypatch):
    # biases before batch norm have no gradient but rounding, which Adam makes as large as any: sums in one order
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", run.startswith("noprop"))
    data = data_of(run)
    made = trainer(spec_of(run), data, tmp_path)
    with_graphs = course(made)
    assert bool(made.graphs.recorded) == (run != "huginn/recurrent_depth")
    monkeypatch.setattr(graphs, "EAGER_STEPS", STEPS)
    other = trainer(spec_of(run), data, tmp_path)
    assert course(other) == pytest.approx(with_graphs, rel=5e-3)
    for name, weight in made.network.state_dict().items():
        assert near(weight, other.network.state_dict()[name]), name


@pytest.mark.parametrize("run", ["vit/diffusion_blocks", "ar_lm1b/diffusion_blocks"])
@pytest.mark.parametrize("compiled", ["on", "blocks"])
def test_parts_of_a_batch_are_one_graph_and_the_step_of_the_whole(run, compiled, data_of, tmp_path):
    over = {} if "ar" in run else {"network": {"dropout": 0.0}}
    whole = course(trainer(spec_of(run, **over), data_of(run), tmp_path))
    parts = trainer(spec_of(run, compute={"micro_batch": 4, "compile": compiled}, **over), data_of(run), tmp_path)
    assert course(parts) == pytest.approx(whole, rel=5e-3)
    assert parts.graphs.recorded


@pytest.mark.parametrize("compiled", ["on", "blocks"])
def test_dropout_and_its_seeds_are_the_same_in_graphs(compiled, digits, tmp_path, monkeypatch):
    compute = {"compute": {"compile": compiled}}
    over = {**compute, "network": {"dropout": 0.3}, "training": {"ema_half_life": 2000}}
    made = trainer(spec_of("vit/diffusion_blocks", **over), digits, tmp_path)
    first = course(made)
    monkeypatch.setattr(graphs, "EAGER_STEPS", STEPS)
    other = trainer(spec_of("vit/diffusion_blocks", **over), digits, tmp_path)
    assert course(other) == pytest.approx(first, rel=1e-3)
    for name, average in made.ema.shadow.items():
        assert near(average, other.ema.shadow[name]), name


@pytest.mark.parametrize("kind", ["on", "blocks"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_and_recorded_is_what_is_done_eagerly(digits, tmp_path, precision, kind):
    compute = {"precision": precision, "compile": kind}
    fast = course(trainer(spec_of("vit/diffusion_blocks", compute=compute), digits, tmp_path))
    plain = course(trainer(spec_of("vit/diffusion_blocks", compute={**compute, "compile": "off"}), digits, tmp_path))
    assert fast == pytest.approx(plain, rel=2e-3 if precision == "fp32" else 5e-2)


@pytest.mark.parametrize("run", ["vit/end_to_end", "vit/diffusion_blocks", "mdm/diffusion_blocks"])
def test_the_host_never_waits_for_a_step(run, data_of, tmp_path):
    images = run.startswith("vit")
    further = {"augment": {"rand_augment": {"num_ops": 2, "magnitude": 9}, "flip": 0.5}} if images else {}
    made = trainer(spec_of(run, **further), data_of(run), tmp_path)
    course(made, 20)
    order = made.method.task.batches.order if images else made.method.task.order
    order._of = (-1, torch.empty(0))  # so that an epoch's order is made within, and batches are augmented
    if images:
        made.method.task.batches._made.clear()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(20, 60):
            made.train_step(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_only_the_active_block_moves(digits, tmp_path):
    made = trainer(spec_of("vit/diffusion_blocks", method={"block_order": "turns"}), digits, tmp_path)
    course(made)
    for step in range(STEPS, STEPS + 6):
        before = {name: weight.clone() for name, weight in made.network.state_dict().items()}
        made.train_step(step)
        active = made.network.partition.layers(step % 3)
        for name, weight in made.network.state_dict().items():
            if name.startswith("layers."):
                moved = not torch.equal(weight, before[name])
                assert moved == (int(name.split(".")[1]) in active), name


@pytest.mark.parametrize("compiled", ["on", "blocks"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(digits, tmp_path, deterministic, compiled):
    over = {"compute": {"deterministic": deterministic, "compile": compiled}, "network": {"dropout": 0.1}}
    spec = spec_of("vit/diffusion_blocks", **over, logging={"log_every": 1, "checkpoint_steps": 20})
    ends = []
    torch.use_deterministic_algorithms(deterministic)
    try:
        for folder, stops in (("whole", False), ("cut", True)):
            (tmp_path / folder).mkdir()
            made = trainer(spec, digits, tmp_path / folder, total=60)
            if stops:
                draw = made.method.draw

                def crash(step: int, draw=draw) -> Drawn:
                    if step == 33:
                        raise KeyboardInterrupt
                    return draw(step)

                made.method.draw = crash
                with pytest.raises(KeyboardInterrupt):
                    made.run()
                made = trainer(spec, digits, tmp_path / folder, total=60)
            made.run()
            ends.append(made.final_weights())
    finally:
        torch.use_deterministic_algorithms(False)
    whole, cut = ends
    for name, weight in whole.items():
        if deterministic:
            assert torch.equal(weight, cut[name]), name
        else:
            assert near(weight, cut[name]), name


def test_a_run_learns(digits_folder, tmp_path):
    """End to end: bf16, compiled as by default, recorded, evaluated."""
    spec = resolve("vit/diffusion_blocks", "smoke", 0, {"compute": {"device": "cuda", "compile": "auto"}})
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    record = read_record(execute(tmp_path / "spec.json", digits_folder))
    assert {m.name: m.value for m in record.metrics}["sigma_max_accuracy"] > 85
    assert record.machine.device == torch.cuda.get_device_name()


@pytest.mark.parametrize("steps", [(0, 1, 2, 3), (7, 12, 17, 3)])
def test_windows_read_ahead_are_those_of_a_cpu(tokens_folder, tmp_path, steps):
    tasks = []
    for device in ("cpu", "cuda"):
        spec = spec_of("ar_lm1b/end_to_end", compute={"device": device})
        tasks.append(build(spec, PreparedData(tokens_folder), torch.device(device))[1])
    for step in steps:
        assert torch.equal(tasks[0].windows(step), tasks[1].windows(step).cpu())
