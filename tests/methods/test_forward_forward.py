"""Forward-Forward: layers learn alone, wrong labels are wrong, label tokens are distinct."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from dblocks.data.prepared import PreparedData, write_manifest
from dblocks.methods.forward_forward import wrong_labels

ALL_IN = {"augment": {"crop_padding": 0}}


@pytest.fixture
def method(built, tiny_spec, awaken):
    def make(**over):
        made = built(tiny_spec("forward_forward", {**ALL_IN, **over}))
        awaken(made.network, deviation=0.4)
        return made

    return make


@pytest.fixture(scope="module")
def hundred_classes(tmp_path_factory) -> PreparedData:
    """CIFAR-100's format with one small random image a class."""
    folder, draws = tmp_path_factory.mktemp("cifar100"), np.random.default_rng(0)
    for split in ("train", "test"):
        np.save(folder / f"{split}_images.npy", draws.integers(0, 256, (100, 3, 32, 32), dtype=np.uint8))
        np.save(folder / f"{split}_labels.npy", np.arange(100))
    np.save(folder / "validation.npy", np.arange(10))
    write_manifest(folder, "cifar100", "cifar100-1", "random numbers")
    return PreparedData(folder)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_wrong_labels_are_never_right_and_uniform_over_the_rest(classes):
    labels = torch.arange(classes).repeat_interleave(2000)
    wrong = wrong_labels(labels, classes, torch.Generator().manual_seed(0))
    assert not (wrong == labels).any()
    assert wrong.min() >= 0 and wrong.max() < classes
    counts = torch.bincount(labels * classes + wrong, minlength=classes**2).view(classes, classes)
    others = counts[~torch.eye(classes, dtype=torch.bool)]
    assert classes == 2 or stats.chisquare(others.numpy()).pvalue > 0.01


def test_label_tokens_are_distinct_for_a_hundred_classes(tiny_spec, hundred_classes):
    from dblocks.build import build

    spec = tiny_spec("forward_forward", {"data": {"name": "cifar100"}, **ALL_IN})
    codes = build(spec, hundred_classes, torch.device("cpu"))[0].network.label_codes
    assert codes.shape == (100, 48)
    # far apart: no code is nearer to another than a third of the codes' own length
    assert torch.pdist(codes).min() > codes.norm(dim=-1).mean() / 3
    again = build(spec, hundred_classes, torch.device("cpu"))[0].network.label_codes
    assert torch.equal(codes, again)


def test_goodness_of_a_layer_gives_gradients_to_that_layer_alone(method):
    network, batch = (made := method()).network, made.task.batch(0)
    for i, goodness in enumerate(made._goodness(batch.inputs, batch.targets)):
        network.zero_grad(set_to_none=True)
        goodness.sum().backward()
        learning = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        own = {name for name, _ in network.named_parameters() if name.startswith(f"layers.{i}.")}
        first = {"positions", "project.weight", "project.bias"} if i == 0 else set()
        assert learning <= own | first
        assert learning >= first | {f"layers.{i}.mlp.down.weight", f"layers.{i}.attention.qkv.weight"}


@pytest.mark.parametrize("perturbed", [1, 2])
def test_gradients_of_a_layer_do_not_know_what_comes_after_it(method, perturbed):
    def gradients(made) -> dict[str, torch.Tensor]:
        made.network.zero_grad(set_to_none=True)
        made.training_step(0).loss.backward()
        return {name: p.grad.clone() for name, p in made.network.named_parameters() if p.grad is not None}

    made = method()
    before = gradients(made)
    with torch.no_grad():
        for parameter in made.network.layers[perturbed].parameters():
            parameter.mul_(1.5)
    after = gradients(made)
    later = tuple(f"layers.{i}." for i in range(perturbed, 3))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if name.startswith(later)
    }


def test_every_layer_but_the_first_reads_tokens_of_length_one(method):
    made, lengths = method(), []
    for layer in made.network.layers:
        layer.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].flatten(1).norm(dim=-1)))
    batch = made.task.batch(0)
    made._goodness(batch.inputs, batch.targets)
    assert (lengths[0] - 1).abs().min() > 0.1
    assert torch.allclose(torch.stack(lengths[1:]), torch.ones(2, 16))


def test_goodness_is_the_mean_square_of_the_mean_image_token(method):
    made = method()
    batch = made.task.batch(0)
    found = made._goodness(batch.inputs, batch.targets)
    label_token = made.network.label_codes[batch.targets][:, None]
    x = made.network.embed(torch.cat([label_token, made.network.raw_tokens(batch.inputs)], dim=1))
    for layer, goodness in zip(made.network.layers, found, strict=True):
        x = layer(x)
        means = x[:, 1:].sum(1) / 4
        assert torch.allclose(goodness, (means**2).sum(-1) / 16, rtol=1e-4)
        x = x / x.square().sum((1, 2), keepdim=True).sqrt()


def test_loss_is_softplus_around_the_threshold_for_right_and_wrong_labels(method):
    made = method(method={"threshold": 1.5})
    batch, expected = made.task.batch(3), 0.0
    from dblocks import seeds

    wrong = wrong_labels(batch.targets, 10, seeds.generator("cpu", 0, "wrong labels", 3))
    for labels, sign in ((batch.targets, -1), (wrong, 1)):
        for goodness in made._goodness(batch.inputs, labels):
            expected += sum(math.log1p(math.exp(sign * (g - 1.5))) for g in goodness.tolist()) / 16
    assert made.training_step(3).loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("scored", "layers"), [("last", [2]), ("all_but_first", [1, 2])])
def test_scores_are_the_goodness_of_each_label_in_the_scored_layers(method, scored, layers):
    made = method(method={"scored_layers": scored})
    images = made.task.batch(0).inputs
    predictor = made.predictors()[""]
    assert predictor.logits is False
    scores = predictor.scores(images, torch.Generator())
    assert scores.shape == (16, 10)
    for label in range(10):
        goodness = made._goodness(images, torch.full((16,), label))
        assert torch.allclose(scores[:, label], sum(goodness[i] for i in layers))


def test_the_label_token_changes_the_goodness(method):
    made = method()
    images = made.task.batch(0).inputs
    scores = made.predictors()[""].scores(images, torch.Generator())
    assert scores.std(dim=1).min() > 1e-4


def test_training_step_is_a_function_of_seed_and_step(built, tiny_spec):
    one, again, other = (built(tiny_spec("forward_forward", {"seed": seed})) for seed in (0, 0, 1))
    losses = [made.training_step(step).loss.item() for made in (one, again, other) for step in (0, 1)]
    assert losses[:2] == losses[2:4]
    assert len(set(losses)) == 4
