"""NoProp's methods: blocks trained alone, losses written out, prediction as the papers' algorithms have it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from dblocks import seeds
from dblocks.networks.noprop_cnn import KeptFeatures
from dblocks.noprop import cosine_alpha_bar, posterior
from dblocks.training import Trainer

NETWORK = {"name": "noprop_cnn", "embedding": "learned", "embedding_dim": 6, "channels": [3, 4, 5], "width": 12}
METHODS = ("backprop", "noprop_dt", "noprop_ct", "noprop_fm", "diffusion_blocks")
FEW_STEPS = {"noprop_ct": {"steps": 20}, "noprop_fm": {"steps": 20}, "diffusion_blocks": {"sampling": {"steps": 20}}}


@pytest.fixture
def made(tiny_spec, built):
    """made(method, {field: value}, network={…}): a method on digits whose network is NoProp's CNN, made small."""

    def make(method: str, fields: dict | None = None, network: dict | None = None, **over):
        own = {"method": {**FEW_STEPS.get(method, {}), **(fields or {})}, "network": {**NETWORK, **(network or {})}}
        return built(tiny_spec(method, {**own, **over}))

    return make


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved_by(method, step: int) -> set[str]:
    """Names of the parameters that a step's loss has a gradient for."""
    method.network.train()
    method.network.zero_grad(set_to_none=True)
    method.training_step(step).loss.backward()
    return {name for name, p in method.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("embedding", ["one_hot", "learned", "prototype"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_and_predicts_with_every_embedding(made, name, embedding):
    method = made(name, network={"embedding": embedding})
    method.network.train()
    assert method.training_step(0).loss.isfinite()
    method.network.eval()
    images = method.task.batch(0).inputs
    for predictor in method.predictors().values():
        with torch.no_grad():
            assert predictor.scores(images, noise()).shape == (16, 10)


@pytest.mark.parametrize("name", METHODS)
def test_training_and_prediction_are_functions_of_seed_and_step(made, name):
    one, again, other = (made(name, seed=seed) for seed in (0, 0, 1))
    images = one.task.batch(0).inputs
    losses, scores = [], []
    for method in (one, again, other):
        method.network.train()
        torch.manual_seed(0)  # of dropout
        losses.append(method.training_step(1).loss.item())
        method.network.eval()
        scores.append(method.predictors()[""].scores(images, noise()).detach())
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], one.predictors()[""].scores(images, noise(1)).detach())


@pytest.mark.parametrize("name", METHODS)
def test_a_few_steps_lower_the_loss(made, name, tmp_path):
    every_copy = {"num_blocks": 3, "block_order": "rounds"} if name == "noprop_dt" else {}
    method = made(name, every_copy, training={"learning_rate": 5e-3}, network={"dropout": 0.0})
    trainer = Trainer(method.spec, method, 60, tmp_path, torch.device("cpu"))

    def mean_loss() -> float:
        method.network.eval()
        with torch.no_grad():
            return sum(method.training_step(step).loss.item() for step in range(0, 1000, 25)) / 40

    before = mean_loss()
    for step in range(60):
        trainer.train_step(step)
    assert mean_loss() < before


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_crashed_ends_with_the_same_bits_batch_norms_statistics_included(made, name, tmp_path):
    over = {"logging": {"log_every": 1, "checkpoint_steps": 5}, "training": {"ema_half_life": 100}}

    def trainer(folder: str, crash_at: int | None = None) -> Trainer:
        method = made(name, **over)
        draw = method.draw

        def crashing(step: int):
            if step == crash_at:
                raise KeyboardInterrupt
            return draw(step)

        method.draw = crashing
        (tmp_path / folder).mkdir(exist_ok=True)
        return Trainer(method.spec, method, 12, tmp_path / folder, torch.device("cpu"))

    whole = trainer("whole")
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        trainer("cut", crash_at=8).run()
    last = trainer("cut")
    last.run()
    weights, again = whole.final_weights(), last.final_weights()
    assert weights.keys() == again.keys() and all(torch.equal(weights[key], again[key]) for key in weights)
    assert any("running_mean" in key for key in weights)


# --- NoProp-DT


@pytest.mark.parametrize("order", ["sweep", "iid", "rounds"])
def test_a_step_of_dt_moves_one_copy_the_classifier_and_the_embedding(made, order):
    method = made("noprop_dt", {"num_blocks": 4, "block_order": order})
    shared = {name for name, _ in method.network.named_parameters() if not name.startswith("blocks.")}
    seen = set()
    for step in range(0, 5 * method.sweep, max(1, method.sweep // 3)):
        block = method.training_step(step).block
        own = {name for name, _ in method.network.named_parameters() if name.startswith(f"blocks.{block}.")}
        assert moved_by(method, step) == own | shared
        seen.add(block)
    assert seen == {0, 1, 2, 3}


def test_training_one_copy_leaves_the_others_and_their_statistics_alone(made, tmp_path):
    method = made("noprop_dt", {"num_blocks": 3})
    before = {name: value.clone() for name, value in method.network.state_dict().items()}
    trainer = Trainer(method.spec, method, 2, tmp_path, torch.device("cpu"))
    for step in range(2):
        trainer.train_step(step)
    changed = {name for name, value in method.network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[1] for name in changed if name.startswith("blocks.")} == {"0"}
    assert any("running_mean" in name for name in changed)


def test_the_sweep_gives_each_copy_the_whole_data_in_turn(made):
    method = made("noprop_dt", {"num_blocks": 3})
    epoch = 1437 // 16
    assert [method.block_of(step) for step in (0, epoch - 1, epoch, 2 * epoch, 3 * epoch - 1, 3 * epoch)] == [
        0, 0, 1, 2, 2, 0,
    ]  # fmt: skip


def test_a_cut_sweep_still_reaches_every_copy(made):
    method = made("noprop_dt", {"num_blocks": 3}, training={"max_steps": 2})
    assert [method.block_of(step) for step in range(6)] == [0, 0, 1, 1, 2, 2]


def test_the_loss_of_dt_is_algorithm_1_written_out(made):
    method = made("noprop_dt", {"num_blocks": 4, "block_order": "rounds"}, network={"dropout": 0.0})
    method.network.eval()
    step, batch = 2, method.task.batch(2)
    result = method.training_step(step)
    t = result.block + 1
    bars = cosine_alpha_bar(4, 1e-3, 0.999)
    u = method.network.embedding.table[batch.targets]
    draws = seeds.generator("cpu", 0, "noise", step)
    eps, last_eps = (torch.randn(u.shape, generator=draws) for _ in range(2))
    z = math.sqrt(bars[t - 1]) * u + math.sqrt(1 - bars[t - 1]) * eps
    copy = method.network.blocks[t - 1]
    clean = copy(copy.image(batch.inputs), z).softmax(1) @ method.network.embedding.table
    z_last = math.sqrt(bars[4]) * u + math.sqrt(1 - bars[4]) * last_eps
    kl = 0.5 * (bars[0] * (u**2).sum(1) + 6 * (-bars[0] - math.log(1 - bars[0])))
    ratio = [bar / (1 - bar) for bar in bars]
    error = 4 / 2 * 0.1 * (ratio[t] - ratio[t - 1]) * ((clean - u) ** 2).sum(1)
    entropy = F.cross_entropy(method.network.classifier(z_last), batch.targets, reduction="none")
    assert torch.allclose(result.loss, (entropy + kl + error).mean(), rtol=1e-4)


def test_dt_predicts_by_its_posterior_through_all_copies(made):
    method = made("noprop_dt", {"num_blocks": 3})
    method.network.eval()
    images, draws, bars = method.task.batch(0).inputs, noise(3), cosine_alpha_bar(3, 1e-3, 0.999)
    z = torch.randn(16, 6, generator=draws)
    for t in (1, 2, 3):
        step, copy = posterior(bars[t - 1], bars[t]), method.network.blocks[t - 1]
        clean = copy(copy.image(images), z).softmax(1) @ method.network.embedding.table
        z = step.a * clean + step.b * z + math.sqrt(step.c) * torch.randn(16, 6, generator=draws)
    expected = method.network.classifier(z)
    assert torch.allclose(method.predictors()[""].scores(images, noise(3)), expected, atol=1e-5)
    assert method.evaluations_per_block() == [1, 1, 1]


# --- NoProp-CT


def test_ct_learns_its_schedule_with_everything_else(made):
    method = made("noprop_ct")
    assert moved_by(method, 0) == {name for name, _ in method.network.named_parameters()}
    assert any(name.startswith("schedule.") for name in moved_by(method, 1))
    assert len(method.network.blocks) == 1


def test_ct_weighs_the_error_by_the_slope_of_the_snr(made):
    losses = [
        made("noprop_ct", {"eta": eta}, network={"dropout": 0.0}).training_step(0).loss for eta in (1.0, 2.0, 3.0)
    ]
    assert (losses[2] - losses[1]).item() == pytest.approx((losses[1] - losses[0]).item(), rel=1e-3)
    assert losses[1] > losses[0]


def test_the_loss_of_ct_is_equation_11_written_out(made):
    fields = {"eta": 0.7, "time_scale": 3.0, "gamma_start": -1.0, "gamma_end": 2.0}
    method = made("noprop_ct", fields, network={"dropout": 0.0})
    method.network.eval()
    batch, draws, table = method.task.batch(2), seeds.generator("cpu", 0, "noise", 2), method.network.embedding.table
    u, t = table[batch.targets], torch.rand(16, generator=draws)
    eps, last_eps = (torch.randn(u.shape, generator=draws) for _ in range(2))
    gamma, slope = method.network.schedule(t)
    bar = (1 / (1 + gamma.exp()))[:, None]
    copy = method.network.blocks[0]
    clean = copy(copy.image(batch.inputs), bar.sqrt() * u + (1 - bar).sqrt() * eps, 3 * t).softmax(1) @ table
    first, last = 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-1))
    z_last = math.sqrt(last) * u + math.sqrt(1 - last) * last_eps
    entropy = F.cross_entropy(method.network.classifier(z_last), batch.targets, reduction="none")
    kl = 0.5 * (first * (u**2).sum(1) + 6 * (-first - math.log(1 - first)))
    error = 0.7 / 2 * -slope * (-gamma).exp() * ((clean - u) ** 2).sum(1)
    assert torch.allclose(method.training_step(2).loss, (entropy + kl + error).mean(), rtol=1e-4)


def test_ct_predicts_by_its_posterior_at_equal_steps_of_time(made):
    method = made("noprop_ct", {"steps": 4, "time_scale": 3.0})
    method.network.eval()
    images, draws, copy = method.task.batch(0).inputs, noise(3), method.network.blocks[0]
    bars = method.network.schedule.alpha_bar(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])).tolist()
    z = torch.randn(16, 6, generator=draws)
    for i in range(4):
        step = posterior(bars[i], bars[i + 1])
        clean = copy(copy.image(images), z, torch.full((16,), 3 * i / 4)).softmax(1) @ method.network.embedding.table
        z = step.a * clean + step.b * z + math.sqrt(step.c) * torch.randn(16, 6, generator=draws)
    expected = method.network.classifier(z)
    assert torch.allclose(method.predictors()[""].scores(images, noise(3)), expected, atol=1e-4)


def test_ct_with_perfect_predictions_ends_at_the_embedding(made):
    method = made("noprop_ct", {"steps": 50})
    method.network.eval()
    labels = method.task.batch(0).targets
    method.network.clean = lambda block, images, z, t: method.network.embedding(labels)
    caught = []
    method.network.classify = lambda z: caught.append(z) or z
    method.predictors()[""].scores(method.task.batch(0).inputs, noise())
    last = method.network.schedule.alpha_bar(torch.tensor([1.0])).item()
    rest = caught[0] - math.sqrt(last) * method.network.embedding(labels)
    assert rest.pow(2).mean().sqrt().item() == pytest.approx(math.sqrt(1 - last), rel=0.3)


@pytest.mark.parametrize("low", [-25.0, -12.0])
def test_ct_predicts_numbers_also_where_its_schedule_ends_without_noise(made, low):
    method = made("noprop_ct", {"gamma_start": low, "gamma_end": 25.0})
    method.network.eval()
    assert method.predictors()[""].scores(method.task.batch(0).inputs, noise()).isfinite().all()


# --- NoProp-FM


@pytest.mark.parametrize("embedding", ["one_hot", "learned"])
def test_fm_has_a_cross_entropy_only_where_embeddings_are_learned(made, embedding):
    moved = moved_by(made("noprop_fm", network={"embedding": embedding}), 0)
    assert ("classifier.weight" in moved) == ("embedding.table" in moved) == (embedding == "learned")


def test_fm_may_anchor_its_embeddings_by_distance(made):
    moved = moved_by(made("noprop_fm", {"anchor": "distance"}), 0)
    assert "classifier.weight" not in moved and "embedding.table" in moved


def test_the_loss_of_fm_is_the_squared_error_of_the_velocity(made):
    method = made("noprop_fm", network={"embedding": "one_hot", "dropout": 0.0})
    method.network.eval()
    batch = method.task.batch(4)
    draws, u = seeds.generator("cpu", 0, "noise", 4), torch.eye(10)[batch.targets]
    t = torch.rand(16, generator=draws)
    start = torch.randn(u.shape, generator=draws)
    z, copy = t[:, None] * u + (1 - t[:, None]) * start, method.network.blocks[0]
    velocity = copy(copy.image(batch.inputs), z, t)  # one-hot: logits times the identity
    assert torch.allclose(method.training_step(4).loss, ((velocity - (u - start)) ** 2).sum(1).mean(), rtol=1e-4)


@pytest.mark.parametrize("anchor", ["linear", "distance"])
def test_the_loss_of_fm_is_written_out_with_noise_around_the_line_and_what_anchors_the_embeddings(made, anchor):
    fields = {"sigma": 0.3, "time_scale": 3.0, "anchor": anchor}
    method = made("noprop_fm", fields, network={"dropout": 0.0})
    method.network.eval()
    batch, draws, table = method.task.batch(4), seeds.generator("cpu", 0, "noise", 4), method.network.embedding.table
    u, t = table[batch.targets], torch.rand(16, generator=draws)[:, None]
    start, jitter = (torch.randn(u.shape, generator=draws) for _ in range(2))
    z, copy = t * u + (1 - t) * start + 0.3 * jitter, method.network.blocks[0]
    velocity = copy(copy.image(batch.inputs), z, 3 * t[:, 0]) @ table
    end = z + (1 - t) * velocity
    distances = (end[:, None] - table).square().sum(-1)
    scores = method.network.classifier(end) if anchor == "linear" else -distances
    expected = ((velocity - (u - start)) ** 2).sum(1).mean() + F.cross_entropy(scores, batch.targets)
    assert torch.allclose(method.training_step(4).loss, expected, rtol=1e-4)


def test_fm_predicts_by_euler_at_equal_steps_of_time(made):
    method = made("noprop_fm", {"steps": 4, "time_scale": 3.0})
    method.network.eval()
    images, copy, table = method.task.batch(0).inputs, method.network.blocks[0], method.network.embedding.table
    z = torch.randn(16, 6, generator=noise(3))
    for i in range(4):
        z = z + copy(copy.image(images), z, torch.full((16,), 3 * i / 4)) @ table / 4
    expected = -(z[:, None] - table).square().sum(-1)
    assert torch.allclose(method.predictors()[""].scores(images, noise(3)), expected, atol=1e-4)


def test_fm_of_a_velocity_that_is_the_time_itself_arrives_at_the_sum_of_its_times(made):
    """Steps start at 0, 1/5, …, 4/5 and last 1/5 each, so every coordinate gains 2/5."""
    method = made("noprop_fm", {"steps": 5})
    start = torch.randn(16, 6, generator=noise(5))
    method._velocity = lambda images, z, t: t[:, None].expand_as(z)
    expected = -method.network.embedding.distances(start + 2 / 5)
    assert torch.allclose(method._sample(method.task.batch(0).inputs, noise(5)), expected, atol=1e-5)


def test_fm_follows_the_velocity_to_the_nearest_embedding(made):
    method = made("noprop_fm", {"steps": 10})
    labels, start = method.task.batch(0).targets, torch.randn(16, 6, generator=noise(5))
    method._velocity = lambda images, z, t: method.network.embedding(labels) - start  # the straight line
    scores = method._sample(method.task.batch(0).inputs, noise(5))
    assert (scores.argmax(1) == labels).all()
    assert scores.max(1).values.abs().max() < 1e-4, "it arrives at the embedding itself"


# --- backpropagation through the path


def test_backprop_moves_every_copy_and_every_gate(made):
    method = made("backprop", {"copies": 3})
    moved = moved_by(method, 0)
    assert moved == {name for name, _ in method.network.named_parameters()}
    assert (method.network.gates.grad != 0).all()


def test_backprop_is_equations_17_to_19_written_out(made):
    method = made("backprop", {"copies": 3, "initial_gate": 0.3})
    method.network.eval()
    with torch.no_grad():
        method.network.gates.copy_(torch.tensor([0.2, -0.4, 1.5]))
    images, z = method.task.batch(0).inputs, torch.randn(16, 6, generator=noise(2))
    kept = KeptFeatures(images)
    for gate, block in zip((0.2, -0.4, 1.5), range(3), strict=True):
        alpha = math.tanh(gate)
        z = (1 - alpha) * z + alpha * method.network.clean(block, kept, z)
    expected = method.network.classifier(z)
    assert torch.allclose(method.predictors()[""].scores(images, noise(2)), expected, atol=1e-5)
    fresh = made("backprop", {"initial_gate": 0.3}).network.gates.tanh()
    assert torch.allclose(fresh, torch.full((10,), 0.3))
