"""Operations of a training step: against a closed form, averaged over depth, with attention, adapter and head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dblocks.command_line import CommandLine
from dblocks.config import merge, resolve
from dblocks.measure.compute import accountings, measure, per_step
from dblocks.measure.operations import (
    Operations,
    baseline_step,
    denoiser_step,
    depth_masses,
    expected_depth,
    mean_baseline_step,
)
from dblocks.measure.request import make_request
from dblocks.methods.recurrent_depth import depth_of_step
from dblocks.networks.huginn import Huginn
from dblocks.networks.huginn_denoiser import HuginnDenoiser
from dblocks.partition import partition_of
from dblocks.spec import DiffusionBlocksSpec, HuginnSpec, RecurrentDepthSpec, RunSpec

SPEC = HuginnSpec(prelude=1, recurrent=2, coda=1, width=64, heads=4, hidden=96, iterations=6)
METHOD = DiffusionBlocksSpec(num_blocks=1, overlap=0.0, sigma_per="sequence")
VOCABULARY, BATCH, LENGTH = 500, 3, 40


def on_meta(kind, *arguments) -> Huginn:
    with torch.device("meta"):
        return kind(*arguments)


def assert_close(found: Operations, expected: Operations, within: float = 0.01) -> None:
    assert found.layers == pytest.approx(expected.layers, rel=within)
    assert found.whole == pytest.approx(expected.whole, rel=within)


def closed_form(
    network: nn.Module, batch: int, length: int, with_gradient: float, without: float, conditions: int = 0
) -> Operations:
    """What `mean_baseline_step` (iterations with and without a gradient) and `denoiser_step` (one with) should count.

    A weight matrix takes 2 operations a token forward and twice that backward; attention's two products 4·T²·D a
    sequence and layer, and twice that backward. Modulations are applied to `conditions` conditions of each sequence.
    """
    tokens, width = batch * length, network.spec.width

    def stack(layers: nn.ModuleList) -> float:
        """Forward operations of some layers."""
        matrices = sum(w.numel() for layer in layers for part in (layer.attention, layer.mlp) for w in weights(part))
        modulations = sum(w.numel() for layer in layers if layer.modulation for w in weights(layer.modulation))
        attention = 4 * batch * length**2 * width * len(layers)
        return 2 * tokens * matrices + 2 * batch * conditions * modulations + attention

    def weights(module: nn.Module) -> list[nn.Parameter]:
        return [part.weight for part in module.modules() if isinstance(part, nn.Linear)]

    adapter, head = 2 * tokens * network.adapter.weight.numel(), 2 * tokens * network.embedding.weight.numel()
    iterations = 3 * with_gradient + without
    layers = 3 * (stack(network.prelude) + stack(network.coda)) + iterations * stack(network.core)
    return Operations(layers, layers + iterations * adapter + 3 * head)


@pytest.mark.parametrize("depth", [1, 3, 8, 9, 20])
def test_a_step_at_some_depth_is_its_closed_form(depth):
    found = baseline_step(SPEC, VOCABULARY, BATCH, LENGTH, depth, 8)
    network = on_meta(Huginn, SPEC, VOCABULARY)
    assert_close(found, closed_form(network, BATCH, LENGTH, min(depth, 8), max(depth - 8, 0)))


@pytest.mark.parametrize("per", ["sequence", "token"])
def test_a_denoisers_step_is_its_closed_form(per):
    # wide enough for the noise embedding, which the closed form leaves out, to be little
    spec, method = SPEC.model_copy(update={"width": 256, "hidden": 512}), METHOD.model_copy(update={"sigma_per": per})
    found = denoiser_step(spec, method, 4000, BATCH, 128)
    network = on_meta(HuginnDenoiser, spec, method, partition_of(method, spec.layers), 4000)
    conditions = 1 if per == "sequence" else 128
    expected = closed_form(network, BATCH, 128, 1, 0, conditions)
    embedding = 3 * 2 * BATCH * conditions * (256 * 256 + 256 * 256)  # sinusoid to width, width to width
    assert found.layers == pytest.approx(expected.layers, rel=0.01)
    assert found.whole == pytest.approx(expected.whole + embedding, rel=0.01)


@pytest.fixture(scope="module")
def papers():
    """Every accounting at the paper's shapes."""
    return accountings(*(resolve(f"huginn/{name}", "paper") for name in ("recurrent_depth", "diffusion_blocks")))


def test_the_papers_shapes_are_their_closed_forms(papers):
    baseline, blocks = (resolve(f"huginn/{name}", "paper") for name in ("recurrent_depth", "diffusion_blocks"))
    depth = expected_depth(32, 0.5, 8)
    one = closed_form(on_meta(Huginn, baseline.network, 32000), 256, 255, *depth)
    network = on_meta(HuginnDenoiser, blocks.network, blocks.method, partition_of(blocks.method, 8), 32000)
    other = closed_form(network, 256, 255, 1, 0, 1)
    for name, expected in (("layers", (one.layers, other.layers)), ("whole", (one.whole, other.whole))):
        assert papers[f"step_{name}"][:2] == pytest.approx([value / 1e12 for value in expected], rel=0.01)


def test_attention_is_counted():
    """What grows with the square of the length: twice the length is more than twice the operations, by attention's."""
    short, long = (baseline_step(SPEC, VOCABULARY, BATCH, length, 1, 8) for length in (LENGTH, 2 * LENGTH))
    layers = SPEC.layers
    expected = 3 * 4 * BATCH * SPEC.width * layers * (4 * LENGTH**2 - 2 * LENGTH**2)
    assert long.layers - 2 * short.layers == pytest.approx(expected, rel=0.01)


def test_head_and_adapter_are_counted():
    small, large = (baseline_step(SPEC, size, BATCH, LENGTH, 1, 8) for size in (VOCABULARY, 2 * VOCABULARY))
    assert large.layers == small.layers
    assert large.whole - small.whole == 3 * 2 * BATCH * LENGTH * VOCABULARY * SPEC.width
    one, two = (baseline_step(SPEC, VOCABULARY, BATCH, LENGTH, depth, 8) for depth in (1, 2))
    adapter = 3 * 2 * BATCH * LENGTH * 2 * SPEC.width**2
    assert (two.whole - one.whole) - (two.layers - one.layers) == adapter


def test_iterations_without_a_gradient_cost_a_third():
    depths = {depth: baseline_step(SPEC, VOCABULARY, BATCH, LENGTH, depth, 8).whole for depth in (7, 8, 9, 12)}
    assert depths[9] - depths[8] == pytest.approx((depths[8] - depths[7]) / 3)
    assert depths[12] - depths[8] == pytest.approx(4 * (depths[9] - depths[8]))


def test_the_mean_is_that_over_the_depths_training_draws():
    spec, method = SPEC.model_copy(update={"iterations": 3}), RecurrentDepthSpec(backpropagated=3)
    found = mean_baseline_step(spec, method, VOCABULARY, BATCH, LENGTH)
    drawn = [depth_of_step(method, 3, 0, step) for step in range(4000)]
    counts = {depth: baseline_step(spec, VOCABULARY, BATCH, LENGTH, depth, 3) for depth in set(drawn)}
    assert found.whole == pytest.approx(np.mean([counts[depth].whole for depth in drawn]), rel=0.02)
    assert found.layers == pytest.approx(np.mean([counts[depth].layers for depth in drawn]), rel=0.02)


def test_expected_depth_is_33_of_which_25_without_a_gradient():
    with_gradient, without = expected_depth(32, 0.5, 8)
    assert with_gradient + without == 33
    assert without == pytest.approx(25.0, abs=0.05)  # methods: by simulation, 25.0
    masses = depth_masses(32, 0.5, 8)
    drawn = np.array([depth_of_step(RecurrentDepthSpec(), 32, 1, step) for step in range(8000)])
    assert masses.sum() == pytest.approx((drawn <= 8).mean(), abs=0.005)


def test_one_backpropagated_iteration_is_no_special_case():
    method = RecurrentDepthSpec(backpropagated=1, log_deviation=0.0)
    found = mean_baseline_step(SPEC, method, VOCABULARY, BATCH, LENGTH)
    assert_close(found, closed_form(on_meta(Huginn, SPEC, VOCABULARY), BATCH, LENGTH, 1, SPEC.iterations))


def test_every_accounting_is_there_and_says_what_it_counts(papers):
    ratios = {name: one / other for name, (one, other, _) in papers.items()}
    assert ratios["paper"] == pytest.approx(32 * 5 / 15, rel=1e-3)
    for name in ("layers", "whole", "doubled"):
        assert ratios[f"run_{name}"] == pytest.approx(ratios[f"step_{name}"] / 3, rel=1e-3)
    # what was worked out by hand beforehand: 2.9 by layers only, 2.1 with head and adapter, 1.24 with both halves
    assert ratios["run_layers"] == pytest.approx(2.9, abs=0.05)
    assert ratios["run_whole"] == pytest.approx(2.1, abs=0.05)
    assert ratios["run_doubled"] == pytest.approx(1.24, abs=0.05)


SMALL = {"network": {"width": 32, "hidden": 48, "heads": 2}, "training": {"batch_size": 5}}
FEW = {"recurrent_depth": {"network": {"iterations": 3}, "method": {"backpropagated": 2}}}


def small(variant: str, **over: dict) -> RunSpec:
    """A run on windows of 48 tokens, 5 at a time."""
    return resolve(f"huginn/{variant}", "smoke", 0, merge(merge(SMALL, FEW.get(variant, {})), over))


@pytest.mark.parametrize(
    ("variant", "doubled"), [("recurrent_depth", False), ("diffusion_blocks", False), ("diffusion_blocks", True)]
)
def test_a_windows_last_token_is_predicted_and_predicts_nothing(variant, doubled):
    """So the head reads one position less than a window has, and of a clean copy none."""
    few, many = (per_step(small(variant, task={"tokenizer": f"bpe{size}"}), doubled) for size in (600, 1000))
    assert many.layers == pytest.approx(few.layers, rel=1e-12)
    assert many.whole - few.whole == pytest.approx(3 * 2 * 5 * (48 - 1) * (1000 - 600) * 32, rel=1e-9)


def test_the_layers_of_a_denoiser_see_as_many_positions_as_it_predicts_and_twice_as_many_doubled():
    spec = small("diffusion_blocks")
    network = on_meta(HuginnDenoiser, spec.network, spec.method, partition_of(spec.method, spec.network.layers), 512)
    for doubled, length in ((False, 47), (True, 2 * 47)):
        expected = closed_form(network, 5, length, 1, 0, 1)
        assert per_step(spec, doubled).layers == pytest.approx(expected.layers, rel=1e-3)


def test_a_ratio_is_of_stochastic_depth_over_the_denoiser_and_the_shape_is_told():
    specs = {"spec": small("diffusion_blocks"), "baseline": small("recurrent_depth")}
    request = make_request("compute_huginn", CommandLine()).model_copy(update=specs)
    shape, metrics = measure(request, torch.device("cpu"))
    assert "width 32, vocabulary 512, 47 tokens, batch 5" in shape
    found = {metric.name: metric.value for metric in metrics}
    names = {name.rpartition("_")[0] for name in found}
    assert names == {"paper", *(f"{of}_{name}" for of in ("step", "run") for name in ("layers", "whole", "doubled"))}
    for name in names:
        assert found[f"{name}_ratio"] == found[f"{name}_baseline"] / found[f"{name}_blocks"]
    assert found["paper_baseline"] == pytest.approx(3 * specs["baseline"].training.epochs, rel=1e-2)
    assert found["paper_blocks"] == pytest.approx(specs["spec"].training.epochs, rel=1e-2)
