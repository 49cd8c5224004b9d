"""Contrastive Forward-Forward: its loss against a double loop, layers alone, the probe apart."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from dblocks.budget import total_steps
from dblocks.methods.contrastive_forward_forward import supervised_contrastive_loss
from dblocks.training import Trainer

NAME = "contrastive_forward_forward"


def slow_loss(features: list[list[float]], labels: list[int], temperature: float, margin: float) -> float:
    """The definition, pair by pair."""

    def score(i: int, j: int) -> float:
        lengths = [math.sqrt(math.fsum(x * x for x in features[k])) for k in (i, j)]
        cosine = math.fsum(a * b for a, b in zip(features[i], features[j], strict=True)) / (lengths[0] * lengths[1])
        return (min(cosine + margin, 1.0) if labels[i] == labels[j] else cosine) / temperature

    total, count = 0.0, len(labels)
    for i in range(count):
        everyone = math.log(math.fsum(math.exp(score(i, j)) for j in range(count) if j != i))
        positives = [j for j in range(count) if j != i and labels[j] == labels[i]]
        total -= math.fsum(score(i, j) - everyone for j in positives) / len(positives)
    return total / count


@given(
    st.integers(0, 1000), st.integers(2, 8), st.sampled_from([0.0, 0.1, 0.4, 2.5]), st.sampled_from([0.07, 0.15, 1.0])
)
def test_loss_is_its_definition_pair_by_pair(seed, pairs, margin, temperature):
    draws = torch.Generator().manual_seed(seed)
    features = torch.randn(2 * pairs, 5, generator=draws)
    labels = torch.randint(3, (pairs,), generator=draws).repeat(2)
    expected = slow_loss(features.tolist(), labels.tolist(), temperature, margin)
    found = supervised_contrastive_loss(features, labels, temperature, margin)
    assert found.shape == () and found.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_loss_is_not_rounded_where_the_network_is():
    features, labels = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8).repeat(2)
    exact = supervised_contrastive_loss(features, labels, 0.1, 0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (features @ features.T).dtype == torch.bfloat16
        assert torch.equal(supervised_contrastive_loss(features, labels, 0.1, 0.0), exact)


def pair_at(angle: float) -> torch.Tensor:
    """Two features at an angle, the second movable."""
    return torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]], requires_grad=True)


@pytest.mark.parametrize(("cosine", "pulled"), [(0.95, False), (0.75, False), (0.65, True), (0.0, True), (-0.9, True)])
def test_positives_within_the_margin_of_one_are_left_alone(cosine, pulled):
    """Two of one class and one of another that is fixed on the axis between the planes: only the positive pulls."""
    pair = pair_at(math.acos(cosine))
    features = torch.cat([F.pad(pair, (0, 1)), torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])])
    supervised_contrastive_loss(features, torch.tensor([0, 0, 1, 1]), 0.15, margin=0.3).backward()
    # walking along the circle changes the positive cosine alone
    along = torch.stack([-pair[:, 1], pair[:, 0]], dim=1).detach()
    slope = (pair.grad * along).sum(1)
    assert (slope.abs().max() > 1e-3) == pulled
    if pulled:
        assert slope[0] < 0 < slope[1], "downhill is towards each other"


def test_loss_does_not_depend_on_the_length_of_features():
    features, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0, 1, 1])
    longer = features * torch.tensor([[1.0], [2], [3], [4], [5], [0.1]])
    losses = [supervised_contrastive_loss(x, labels, 0.15, 0.1).item() for x in (features, longer)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.fixture
def method(built, tiny_spec, awaken):
    def make(**over):
        made = built(tiny_spec(NAME, over))
        awaken(made.network, deviation=0.4)
        return made

    return make


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_margins_fall_linearly_from_the_first_layer_to_the_last(method, layers):
    margins = method(network={"layers": layers}).margins
    expected = torch.linspace(0.4, 0.1, layers).tolist() if layers > 1 else [0.4]
    assert margins == pytest.approx(expected)


def gradients(made, step: int = 0) -> dict[str, torch.Tensor]:
    made.network.zero_grad(set_to_none=True)
    made.training_step(step).loss.backward()
    return {name: p.grad.clone() for name, p in made.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("perturbed", [1, 2])
def test_gradients_of_a_layer_do_not_know_what_comes_after_it(method, perturbed):
    made = method()
    before = gradients(made)
    with torch.no_grad():
        for parameter in made.network.layers[perturbed].parameters():
            parameter.mul_(1.5)
    after = gradients(made)
    changed = {name for name in before if not torch.allclose(before[name], after[name], atol=0, rtol=1e-6)}
    later = {name for name in before if name.startswith(tuple(f"layers.{i}." for i in range(perturbed, 3)))}
    assert changed == later


def test_layers_learn_from_both_views_with_their_own_margins(method):
    made = method(augment={"crop_padding": 2})
    views = [made.task.batch(4, view) for view in range(2)]
    assert torch.equal(views[0].targets, views[1].targets) and not torch.equal(views[0].inputs, views[1].inputs)
    x = made.network.embed(made.network.raw_tokens(torch.cat([view.inputs for view in views])))
    expected = 0.0
    for layer, margin in zip(made.network.layers, (0.4, 0.25, 0.1), strict=True):
        x = layer(x)
        expected += slow_loss(x.mean(1).tolist(), views[0].targets.tolist() * 2, 0.15, margin)
    assert made.training_step(4).loss.item() == pytest.approx(expected, rel=1e-4)


def test_layer_steps_leave_the_probe_and_probe_steps_leave_the_encoder(built, tiny_spec, tmp_path):
    spec = tiny_spec(NAME, {"training": {"max_steps": 4, "weight_decay": 0.1}, "network": {"dropout": 0.1}})
    made = built(spec)
    trainer = Trainer(spec, made, 8, tmp_path, torch.device("cpu"))
    for step in range(8):
        before = {name: p.detach().clone() for name, p in made.network.named_parameters()}
        trainer.train_step(step)
        moved = {name for name, p in made.network.named_parameters() if not torch.equal(p, before[name])}
        probe = {name for name in before if name.startswith("probe.")}
        if step < made.layer_steps:
            assert moved.isdisjoint(probe)
            assert {"positions", "project.weight", "layers.0.mlp.up.weight", "layers.2.mlp.up.weight"} <= moved
        else:
            assert moved == probe
    assert made.layer_steps == 4


@pytest.mark.parametrize(
    ("epochs", "probe_epochs", "layer_steps", "probe_steps"), [(2, 3, 178, 267), (1, 0.001, 89, 1)]
)
def test_the_probe_has_epochs_of_its_own_after_the_layers(method, epochs, probe_epochs, layer_steps, probe_steps):
    """An epoch of digits is 1437 // 16 = 89 steps."""
    made = method(training={"epochs": epochs}, method={"probe_epochs": probe_epochs})
    assert total_steps(made.spec) == layer_steps + probe_steps
    around = (0, layer_steps - 1, layer_steps, layer_steps + probe_steps - 1)
    assert [made.draw(step).part for step in around] == ["layers", "layers", "probe", "probe"]


def test_probe_loss_is_cross_entropy_on_mean_features_without_dropout(method):
    made = method(network={"dropout": 0.5}, training={"max_steps": 2})
    batch = made.task.batch(2)
    made.network.train()
    loss = made.training_step(2).loss
    made.network.eval()
    x = made.network.embed(made.network.raw_tokens(batch.inputs))
    for layer in made.network.layers:
        x = layer(x)
    scores = made.network.probe(x.mean(1))
    assert loss.item() == pytest.approx(F.cross_entropy(scores, batch.targets).item(), rel=1e-5)
    assert torch.equal(made.predictors()[""].scores(batch.inputs, torch.Generator()), scores)


def test_probe_has_its_own_learning_rate_and_every_parameter_one_group(method):
    made = method(method={"probe_learning_rate": 0.125})
    layers, probe = made.parameter_groups()
    assert "lr" not in layers and probe["lr"] == 0.125
    assert {id(p) for p in probe["params"]} == {id(p) for p in made.network.probe.parameters()}
    grouped = [id(p) for group in (layers, probe) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in made.network.parameters())


def test_training_step_is_a_function_of_seed_and_step(built, tiny_spec):
    one, again, other = (built(tiny_spec(NAME, {"seed": seed})) for seed in (0, 0, 1))
    losses = [made.training_step(step).loss.item() for made in (one, again, other) for step in (0, 1)]
    assert losses[:2] == losses[2:4]
    assert len(set(losses)) == 4
