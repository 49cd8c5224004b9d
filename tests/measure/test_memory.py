"""Memory by accounting against what a real step of the same small network holds."""

from __future__ import annotations

import gc

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.profiler import ProfilerActivity, profile

from dblocks.blocks import keep_block
from dblocks.build import build
from dblocks.command_line import CommandLine
from dblocks.config import resolve
from dblocks.measure.made_up import made_up_data
from dblocks.measure.memory import ISOLATED, account_part, accounting_spec, build_without_numbers, measure
from dblocks.measure.request import Measurements, load_measurements, make_request
from dblocks.networks.transformer import TransformerLayer
from dblocks.spec import RunSpec
from dblocks.training import Trainer

CPU = torch.device("cpu")
MEMORY = [name for name, entry in load_measurements().items() if entry.kind == "memory"]
CUT = [name for name in MEMORY if name != "memory_huginn"]  # Huginn as a denoiser is not cut into blocks
# one of each architecture, end to end and in blocks; no dropout, whose mask a CPU keeps in four bytes
RUNS = ["vit/end_to_end", "vit/diffusion_blocks", "dit_cifar10/end_to_end", "dit_cifar10/diffusion_blocks"]
RUNS += ["dit_imagenet/diffusion_blocks", "mdm/end_to_end", "mdm/diffusion_blocks"]


def small(run: str, **compute: object) -> RunSpec:
    """A run at the scale of tests, as it is accounted."""
    return accounting_spec(resolve(run, "smoke"), resolve(run, "smoke").samples_at_once).changed({"compute": compute})


def live_after_forward(method, step: int) -> int:
    """Bytes that the CPU's allocator has given out during a real forward pass and not got back."""
    method.network.train()
    method.task.batch(step)  # what is made once, such as an epoch's order, is there
    gc.collect()
    gc.disable()  # what earlier tests left would be given back in between
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            result = method.training_step(step)
    finally:
        gc.enable()
    assert result.loss.requires_grad
    return sum(event.nbytes() for event in found.profiler.kineto_results.events() if event.name() == "[memory]")


@pytest.mark.parametrize("run", RUNS)
def test_activations_are_what_a_real_step_holds(run, tmp_path):
    spec = small(run)
    accounted = account_part(spec, build_without_numbers(spec, made_up_data(spec, tmp_path / "accounted")))
    method, _ = build(spec, made_up_data(spec, tmp_path / "real"), CPU)
    assert accounted.account.activations == pytest.approx(live_after_forward(method, 0), rel=0.05)


@pytest.mark.parametrize(
    "run", ["ar_lm1b/end_to_end", "ar_lm1b/diffusion_blocks", "huginn/recurrent_depth", "huginn/diffusion_blocks"]
)
def test_activations_of_language_models_too_with_the_norm_that_a_cpu_has(run, tmp_path):
    spec = small(run)
    fake = build_without_numbers(spec, made_up_data(spec, tmp_path / "accounted"))
    accounted = account_part(spec, fake, fused_norm=False)
    method, _ = build(spec, made_up_data(spec, tmp_path / "real"), CPU)
    assert accounted.account.activations == pytest.approx(live_after_forward(method, 0), rel=0.05)


@pytest.mark.parametrize("run", RUNS)
def test_checkpointed_activations_are_what_a_real_step_holds(run, tmp_path):
    spec = small(run)
    accounted = account_part(spec, build_without_numbers(spec, made_up_data(spec, tmp_path / "accounted")))
    method, _ = build(small(run, checkpoint_activations=True), made_up_data(spec, tmp_path / "real"), CPU)
    generators = torch.get_rng_state().numel() * len(accounted.saved.by_layer)  # kept to draw the same dropout again
    held = live_after_forward(method, 0) - generators
    assert accounted.saved.kept == pytest.approx(held, rel=0.05)
    assert held < 0.8 * accounted.account.activations


BOTH = [(run, False) for run in RUNS] + [(run, True) for run in RUNS if run.endswith("/diffusion_blocks")]


@pytest.mark.parametrize(("run", "alone"), BOTH)
def test_parameters_gradients_and_optimiser_state_are_those_of_training(run, alone, tmp_path):
    spec = small(run)
    spec = spec.changed(ISOLATED) if alone else spec
    method, _ = build(spec, made_up_data(spec, tmp_path / "real"), CPU)
    fake = build_without_numbers(spec, made_up_data(spec, tmp_path / "accounted"))
    if alone:
        for network in (method.network, fake.network):
            keep_block(network, 0)  # the one that the first step trains
    accounted = account_part(spec, fake).account
    trainer = Trainer(spec, method, 10, tmp_path, CPU)
    trainer.train_step(0)
    gradients = size(p.grad for p in method.network.parameters())
    for step in range(1, 1 if alone else spec.num_blocks):  # until every block has its state
        trainer.train_step(step)
    state = [each[key] for each in trainer.optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert accounted.parameters == size(method.network.parameters())
    assert accounted.gradients == gradients
    assert accounted.optimizer == size(state)
    assert accounted.average == (size(trainer.ema.shadow.values()) if trainer.ema else 0)


def size(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def test_a_networks_tensors_have_no_content(tmp_path):
    spec = accounting_spec(resolve("dit_imagenet/end_to_end", "paper"), 2)
    method = build_without_numbers(spec, made_up_data(spec, tmp_path / "data"))
    assert size(method.network.parameters()) > 1.8e9
    assert all(isinstance(parameter, FakeTensor) for parameter in method.network.parameters())


def taken(name: str) -> dict[str, float]:
    return {metric.name: metric.value for metric in measure(make_request(name, CommandLine()), CPU)[1]}


def test_one_pass_saves_less_than_eight_iterations():
    found = taken("memory_huginn")
    # layers that save for backward: 2 + 8 · 4 + 2 iterated ones against 2 + 4 + 2
    assert found["alone_reduction"] < found["reduction_without_adaln"] < 36 / 8
    assert found["alone_total"] == found["resident_total"]


@pytest.mark.parametrize("name", CUT)
def test_the_gap_to_b_is_taken_apart_without_rest(name):
    found = taken(name)
    assert found["reduction_at_equal_length"] == pytest.approx(found["blocks"], rel=1e-3)
    assert found["alone_reduction"] == pytest.approx(found["whole_total"] / found["alone_total"])
    order = ["resident_reduction", "alone_reduction", "reduction_of_layers", "reduction_without_adaln"]
    assert [found[key] for key in order] == sorted(found[key] for key in order)
    for way in ("whole", "whole_checkpointed", "resident", "alone", "alone_checkpointed"):
        parts = ("parameters", "gradients", "optimizer", "average", "activations")
        assert found[f"{way}_total"] == pytest.approx(sum(found[f"{way}_{part}"] for part in parts))


def test_one_block_of_dit_l_alone_reaches_nine_tenths_of_b():
    assert taken("memory_dit_imagenet")["share_of_blocks"] >= 0.9


def test_activations_of_a_plain_layer_are_those_of_the_closed_form(tmp_path):
    """Without dropout, a pre-norm layer saves of N·T tokens of width D, in units of N·T·D: its input, two normed
    inputs, q k v, attention's output, the first sum, and two of the MLP's width (before and after GELU); and a few
    numbers a token."""
    spec = small("vit/end_to_end")
    network, batch = spec.network, spec.training.batch_size
    saved = account_part(spec, build_without_numbers(spec, made_up_data(spec, tmp_path / "data"))).saved
    tokens = (8 // network.patch_size) ** 2 + 1
    wide = (8 + 2 * network.mlp_ratio) * batch * tokens * network.width
    a_token = (2 * 2 + network.heads) * batch * tokens  # mean and deviation of two norms, a log-sum-exp a head
    assert saved.in_layers == 4 * network.layers * (wide + a_token)
    assert saved.tokens == tokens


def test_the_configuration_refuses_a_kind_there_is_not():
    entry = {"kind": "beauty", "run": "vit/diffusion_blocks", "baseline": "vit/end_to_end"}
    with pytest.raises(ValueError, match="kind"):
        Measurements.model_validate({"measurements": {"x": entry}})


@pytest.mark.parametrize("run", ["vit/diffusion_blocks", "dit_cifar10/diffusion_blocks", "mdm/diffusion_blocks"])
def test_training_with_checkpointing_is_the_same_to_the_bit(run, tmp_path):
    weights = []
    for flag in (False, True):
        spec = small(run, checkpoint_activations=flag)
        if "dropout" in type(spec.network).model_fields:
            spec = spec.changed({"network": {"dropout": 0.1}})
        folder = tmp_path / str(flag)
        method, _ = build(spec, made_up_data(spec, folder), CPU)
        assert ("forward" in vars(next(m for m in method.network.modules() if isinstance(m, TransformerLayer)))) == flag
        trainer = Trainer(spec, method, 4, folder, CPU)
        for step in range(4):
            trainer.train_step(step)
        weights.append(trainer.final_weights())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# variants of more blocks hold less
HEAVY = [
    f"{experiment}/{variant}" for experiment in ("dit_imagenet", "ar_lm1b") for variant in ("end_to_end", "blocks_2")
]
HEAVY += [f"{experiment}/end_to_end" for experiment in ("vit_tiny", "dit_cifar10", "mdm", "ar_owt")]
HEAVY += ["ar_lm1b/diffusion_blocks", "ar_owt/diffusion_blocks", "huginn/recurrent_depth", "huginn/diffusion_blocks"]


@pytest.mark.parametrize("run", HEAVY)
def test_at_the_papers_scale_a_step_leaves_a_quarter_of_80_gb_to_what_is_not_counted(run, tmp_path):
    """In bf16, as runs on CUDA are: workspace, gradients of activations and a fragmented allocator need the rest."""
    spec = resolve(run, "paper")
    spec = accounting_spec(spec, spec.samples_at_once)
    method = build_without_numbers(spec, made_up_data(spec, tmp_path / "data"))
    with torch.autocast("cpu", torch.bfloat16):
        accounts = [account_part(spec, method, step).account.total for step in range(spec.num_blocks)]
    assert max(accounts) < 0.75 * 80e9
