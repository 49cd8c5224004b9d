"""Huginn's two methods on a little text: what a step trains, how often layers run, and the depth curve's predictors."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from dblocks import seeds
from dblocks.build import build
from dblocks.data.prepared import PreparedData
from dblocks.needs import Needs
from dblocks.networks.huginn_denoiser import Context
from dblocks.training import Trainer
from tests.tasks.test_autoregressive_text import DB, spec_of

CPU = torch.device("cpu")
NETWORK = {
    "network": {
        "name": "huginn",
        "prelude": 1,
        "recurrent": 2,
        "coda": 1,
        "width": 16,
        "heads": 2,
        "hidden": 24,
        "iterations": 5,
        "depth_curve": (1, 3),
    },
    "task": {"batch_size": 10},
}
RECURRENT = {"method": {"name": "recurrent_depth", "backpropagated": 3}}
DENOISING = {
    "method": {
        "name": "diffusion_blocks",
        "num_blocks": 1,
        "overlap": 0.0,
        "sigma_per": "sequence",
        "sampling": {"steps": 5, "bridge": "hard"},
    }
}
METHODS = pytest.mark.parametrize("method", [RECURRENT, DENOISING], ids=["recurrent_depth", "diffusion_blocks"])


@pytest.fixture
def made(tokens_folder, awaken, tmp_path):
    """made(method, fields): method and task on a little text, weights drawn anew so that every path counts."""

    def make(*over: dict):
        (tmp_path / "weights-0.pt").touch()
        method, task = build(spec_of(NETWORK, *over), PreparedData(tokens_folder), CPU, Needs(folder=tmp_path))
        awaken(method.network, deviation=0.3).eval()
        return method, task

    return make


@pytest.fixture
def runs(monkeypatch):
    """How often each stack of layers is run from here on, counted at the network's own steps."""
    from dblocks.networks.huginn import Huginn

    count: Counter = Counter()
    for name in ("read", "iterate", "finish"):
        original = getattr(Huginn, name)

        def counting(self, *arguments, original=original, name=name, **more):
            count[name] += 1
            return original(self, *arguments, **more)

        monkeypatch.setattr(Huginn, name, counting)
    return count


def generator():
    return torch.Generator().manual_seed(3)


@METHODS
@pytest.mark.parametrize("prefix", ["", "iterations_1_", "iterations_3_"])
def test_text_is_the_same_with_and_without_kept_keys_and_values(made, method, prefix):
    texts = []
    for cache in (True, False):
        trained, task = made(method, {"task": {"cache": cache}})
        prompts, _ = task.prompts()
        with torch.no_grad():
            texts.append(trained.predictors()[prefix].go_on(prompts, 6, generator()))
    assert torch.equal(*texts)
    assert len(texts[0].unique()) > 3  # tokens differ, so that equality says something


def test_greedy_text_is_the_likeliest_token_each_time(made):
    trained, task = made(RECURRENT)
    prompts, _ = task.prompts()
    with torch.no_grad():
        text = trained.predictors()["greedy_"].go_on(prompts, 6, generator())
        states = trained.network.start((len(prompts), prompts.shape[1] + 6), generator())
        logits = trained.network(torch.cat([prompts, text], dim=1)[:, :-1], states[:, :-1], 5)
    assert torch.equal(logits[:, prompts.shape[1] - 1 :].argmax(dim=-1), text)


@METHODS
def test_inference_runs_as_many_iterations_as_it_says_and_reads_the_prompt_once(made, runs, method):
    trained, task = made(method)
    prompts, _ = task.prompts()
    for prefix, iterations in (("", 5), ("iterations_1_", 1), ("iterations_3_", 3)):
        runs.clear()
        with torch.no_grad():
            trained.predictors()[prefix].go_on(prompts, 4, generator())
        finishes = 4 if method is RECURRENT else 4 * iterations  # a denoiser's every step reads out
        assert runs == {"read": 4, "iterate": 4 * iterations, "finish": finishes}


@torch.no_grad()
@pytest.mark.parametrize("prefix, iterations", [("", 5), ("greedy_", 5), ("iterations_1_", 1), ("iterations_3_", 3)])
def test_the_baseline_writes_and_judges_with_the_iterations_its_predictor_is_named_for(made, runs, prefix, iterations):
    for cache in (True, False):
        trained, task = made(RECURRENT, {"task": {"cache": cache}})
        predictor = trained.predictors()[prefix]
        runs.clear()
        predictor.go_on(task.prompts()[0], 4, generator())
        assert runs["iterate"] == 4 * iterations
    runs.clear()
    predictor.nll(task.evaluation_windows(), generator())
    assert runs == {"read": 1, "iterate": iterations, "finish": 1}


@torch.no_grad()
def test_the_baseline_samples_from_the_nucleus_of_the_spec(made):
    """The smallest one is the likeliest token, the largest one all of them."""
    texts = {}
    for top_p in (1e-12, 1.0):
        trained, task = made(RECURRENT, {"task": {"top_p": top_p}})
        prompts, _ = task.prompts()
        texts[top_p] = trained.predictors()[""].go_on(prompts, 6, generator())
    assert torch.equal(texts[1e-12], trained.predictors()["greedy_"].go_on(prompts, 6, generator()))
    assert not torch.equal(texts[1e-12], texts[1.0])


@pytest.mark.parametrize("backpropagated", [1, 3])
def test_the_baselines_step_is_its_depth_from_its_state_with_gradients_through_the_last_iterations(
    made, backpropagated
):
    from dblocks.methods.recurrent_depth import depth_of_step

    trained, task = made(RECURRENT, {"method": {"backpropagated": backpropagated, "log_deviation": 0.2}})
    step = next(step for step in range(20) if depth_of_step(trained.spec.method, 5, 0, step) > 4)
    batch, network, found = task.batch(step), trained.network, []
    state = network.start(batch.inputs.shape, seeds.generator("cpu", 0, "state", step))
    logits = network(batch.inputs, state, depth_of_step(trained.spec.method, 5, 0, step), backpropagated)
    for loss in (F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten()), trained.training_step(step).loss):
        network.zero_grad(set_to_none=True)
        loss.backward()
        found.append((loss.detach(), network.adapter.weight.grad.clone()))
    for written, own in zip(*found, strict=True):
        torch.testing.assert_close(own, written)


def test_a_training_step_takes_the_depth_of_its_step(made, runs):
    from dblocks.methods.recurrent_depth import depth_of_step

    trained, _ = made(RECURRENT)
    for step in range(5):
        runs.clear()
        trained.training_step(step)
        assert runs["iterate"] == depth_of_step(trained.spec.method, 5, trained.spec.seed, step)


def test_a_denoisers_training_step_is_one_pass_at_one_level_a_sequence(made, runs):
    trained, task = made(DENOISING)
    step = trained.training_step(0)
    assert runs == {"read": 1, "iterate": 1, "finish": 1}
    sigma = step.sigma.view(task.batch(0).targets.shape)
    assert (sigma == sigma[:, :1]).all() and len(sigma[:, 0].unique()) == len(sigma)
    trained, task = made(DENOISING, {"method": {"sigma_per": "token"}})
    assert len(trained.training_step(0).sigma.unique()) == task.batch(0).targets.numel()


@METHODS
def test_every_weight_is_trained(made, method):
    trained, _ = made(method)
    trained.training_step(1).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in trained.network.parameters())


@METHODS
def test_activation_checkpointing_keeps_the_numbers(made, method):
    plain, kept = made(method)[0], made(method, {"compute": {"checkpoint_activations": True}})[0]
    losses = [trained.training_step(2).loss for trained in (plain, kept)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    pairs = zip(plain.network.parameters(), kept.network.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)
    assert all("forward" in layer.__dict__ for layer in kept.network.layers)


@pytest.mark.parametrize(
    "fields", [(NETWORK, RECURRENT), (NETWORK, DENOISING), (DB,)], ids=["recurrent_depth", "huginn", "llama"]
)
def test_the_losses_of_two_halves_of_a_batch_are_those_of_the_whole(fields, tokens_folder, awaken, monkeypatch):
    """What two processes train on together (dblocks/processes.py) is what one trains on."""
    from dblocks.methods import recurrent_denoising, recurrent_depth, token_denoising

    trained, _ = build(spec_of(*fields, {"training": {"batch_size": 4}}), PreparedData(tokens_folder), CPU)
    awaken(trained.network, deviation=0.3)
    whole, halves = trained.training_step(1).loss, []
    for k in range(2):
        for module in (recurrent_denoising, recurrent_depth, token_denoising):
            monkeypatch.setattr(module, "own_share", lambda *parts, k=k: tuple(part.chunk(2)[k] for part in parts))
        halves.append(trained.training_step(1).loss)
    assert halves[0] != halves[1]
    torch.testing.assert_close(sum(halves) / 2, whole)


@METHODS
def test_a_step_is_a_function_of_seed_and_step(made, method):
    losses = []
    for seed in (7, 8):
        torch.manual_seed(seed)  # the global generator decides nothing
        losses.append(made(method)[0].training_step(4).loss)
    assert torch.equal(*losses)


def test_likelihoods_of_the_baseline_are_its_networks(made):
    trained, task = made(RECURRENT)
    windows = task.evaluation_windows()
    with torch.no_grad():
        found = trained.predictors()["iterations_3_"].nll(windows, generator())
        state = trained.network.start(windows[:, :-1].shape, generator())
        logits = trained.network(windows[:, :-1], state, 3)
    expected = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none").view(found.shape)
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_a_denoiser_is_judged_by_one_pass_over_pure_noise(made):
    trained, task = made(DENOISING)
    windows, sigma = task.evaluation_windows(), trained.spec.method.noise.sigma_max
    tokens, targets = windows[:, :-1], windows[:, 1:].flatten()
    noise = trained._noise(len(targets), generator())
    context = Context(trained.network, tokens)
    logits = trained.network.denoise(0, sigma * noise, torch.full((len(targets),), sigma), context)
    expected = F.cross_entropy(logits, targets, reduction="none").view(tokens.shape)
    torch.testing.assert_close(trained.predictors()[""].nll(windows, generator()), expected)


def test_a_denoiser_is_judged_at_sigma_max_whatever_its_iterations(made):
    trained, task = made(DENOISING)
    predictors = trained.predictors()
    with torch.no_grad():
        found = [p.nll(task.evaluation_windows(), generator()) for p in predictors.values()]
    assert {p.nll_name for p in predictors.values()} == {"sigma_max_ce"} and len(predictors) == 3
    assert all(torch.equal(found[0], other) for other in found[1:])


@METHODS
def test_a_few_steps_of_training_lower_the_loss(tokens_folder, tmp_path, method):
    spec = spec_of(NETWORK, method, {"training": {"learning_rate": 1e-2, "batch_size": 20}})
    trained, _ = build(spec, PreparedData(tokens_folder), CPU)
    trainer = Trainer(spec, trained, 60, tmp_path, CPU)
    losses = []
    for step in range(60):
        trainer.train_step(step)
        losses += list(trainer.buffer.drain().values())
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])


@pytest.mark.parametrize(
    "over, said",
    [
        ({"method": {"name": "end_to_end"}}, "'end_to_end' does not train network huginn"),
        ({"method": {"num_blocks": 2}}, "no partition"),
        ({"method": {"overlap": 0.1}}, "no partition"),
        ({"method": {"embedders": "own", "target_table": "frozen"}}, "method.embedders: has no meaning"),
        ({"method": {"sampling": {"steps": 4}}}, "should be network.iterations, 5"),
        ({"network": {"depth_curve": (5,)}}, "without iterations 5"),
    ],
)
def test_what_does_not_fit_is_said(over, said):
    with pytest.raises(ValidationError, match=said):
        spec_of(NETWORK, DENOISING, over)


def test_recurrent_depth_is_for_huginn_alone():
    with pytest.raises(ValidationError, match="'recurrent_depth' does not train network llama"):
        spec_of(RECURRENT)


def test_in_bf16_weights_that_were_iterated_without_a_gradient_have_one_after(made):
    """Some versions of PyTorch keep what autocast made of a weight under `no_grad`, and use it where one is wanted."""
    from dblocks.machine import autocast

    trained, _ = made(RECURRENT)
    drawn = next(drawn for drawn in map(trained.draw, range(20)) if drawn.depth > 3)
    with autocast(trained.spec.compute.model_copy(update={"precision": "bf16"}), CPU):
        trained.loss(drawn).backward()
    assert not [name for name, p in trained.network.named_parameters() if p.grad is None]
