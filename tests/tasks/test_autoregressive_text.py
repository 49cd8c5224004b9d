"""Autoregressive text end to end on a small scale: windows, losses, generation with and without a cache."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dblocks.build import build
from dblocks.config import merge
from dblocks.data.prepared import PreparedData
from dblocks.errors import UserError
from dblocks.needs import Needs
from dblocks.spec import RunSpec

CPU = torch.device("cpu")
FIELDS = {
    "experiment": "ar_lm1b",
    "variant": "tiny",
    "scale": "smoke",
    "task": {
        "name": "autoregressive_text",
        "length": 12,
        "tokenizer": "bpe300",
        "epoch_tokens": 4000,
        "cross_entropy_windows": 7,
        "prompts": 5,
        "continuations": 2,
        "prompt_tokens": 4,
        "continuation_tokens": 6,
        "batch_size": 4,
    },
    "data": {"name": "austen_sentences"},
    "network": {"name": "llama", "layers": 4, "width": 16, "heads": 2, "hidden": 24},
    "training": {"epochs": 1, "batch_size": 3, "learning_rate": 1e-3},
    "compute": {"device": "cpu"},
}
DB = {"method": {"name": "diffusion_blocks", "num_blocks": 2, "overlap": 0.1, "sigma_per": "token"}}
AR = {"method": {"name": "end_to_end"}}


def spec_of(*over: dict) -> RunSpec:
    fields = FIELDS
    for part in over:
        fields = merge(fields, part)
    return RunSpec.model_validate(fields)


@pytest.fixture
def made(tokens_folder, awaken, tmp_path):
    """made(method, fields): method and task on a little text, weights drawn anew so that every path counts."""

    def make(*over: dict):
        (tmp_path / "weights-0.pt").touch()
        method, task = build(spec_of(*over), PreparedData(tokens_folder), CPU, Needs(folder=tmp_path))
        awaken(method.network, deviation=0.3).eval()
        return method, task

    return make


def generator():
    return torch.Generator().manual_seed(3)


def test_an_epoch_is_a_cut_into_disjoint_windows(made):
    _, task = made(AR, {"training": {"batch_size": 50}})
    windows = torch.cat([task.windows(step) for step in range(task.order.steps_per_epoch)])
    assert windows.shape[1] == 12
    text = torch.from_numpy(np.array(task.tokens).astype(np.int64))
    starts = torch.cat([task.order.indices(step) for step in range(task.order.steps_per_epoch)])
    assert len(starts.unique()) == len(starts)
    for start, window in list(zip(starts.tolist(), windows, strict=True))[:50]:
        assert torch.equal(window, text[start : start + 12])


def test_next_token_batches_are_shifted_by_one(made):
    _, task = made(AR)
    windows, batch = task.windows(2), task.batch(2)
    assert torch.equal(batch.inputs, windows[:, :-1])
    assert torch.equal(batch.targets, windows[:, 1:])


def test_prompts_and_references_are_the_same_for_every_arm(made):
    _, one = made(AR)
    _, other = made(DB, {"seed": 4})
    for a, b in zip(one.prompts(), other.prompts(), strict=True):
        assert torch.equal(a, b)
    prompts, references = one.prompts()
    assert (prompts.shape, references.shape) == ((5, 4), (5, 6))
    whole = torch.cat([prompts, references], dim=1)
    text = np.array(one.evaluation_tokens)
    found = [next(i for i in range(len(text)) if text[i : i + 10].tolist() == row) for row in whole.tolist()]
    assert all(b - a >= 10 for a, b in itertools.pairwise(found))  # disjoint, spread over the split
    assert found[-1] > len(text) / 2


@pytest.mark.parametrize("method", [AR, DB, merge(DB, {"method": {"embedders": "own", "target_table": "frozen"}})])
@torch.no_grad()
def test_text_with_the_cache_is_text_without_token_for_token(made, method):
    texts = []
    for cache in (True, False):
        trained, task = made(method, {"task": {"cache": cache}})
        texts.append(task.continuations(trained.predictors()[""]))
    assert texts[0].shape == (5, 2, 6)
    assert torch.equal(*texts)
    assert len(texts[0].unique()) > 5  # a network that always writes the same would prove little


@pytest.mark.parametrize("bridge", ["soft", "hard", "topk"])
@torch.no_grad()
def test_every_bridge_writes_and_every_block_is_run(made, bridge):
    method, task = made(DB, {"method": {"sampling": {"bridge": bridge, "top_k": 3}}})
    assert method.evaluations_per_block() == [2, 2]
    calls = []
    denoise = method.network.denoise
    method.network.denoise = lambda block, *rest: calls.append(block) or denoise(block, *rest)
    method.predictors()[""].go_on(task.prompts()[0], 3, generator())
    assert calls == [0, 0, 1, 1] * 3


def test_more_blocks_than_steps_take_as_many_steps_as_blocks(made):
    six = {"method": {"num_blocks": 6}, "network": {"layers": 6}}
    assert made(DB, six)[0].evaluations_per_block() == [1] * 6
    literal = merge(six, {"method": {"sampling": {"at_least_num_blocks": False}}})
    assert 0 in made(DB, literal)[0].evaluations_per_block()


@torch.no_grad()
def test_cross_entropy_is_that_of_next_tokens(made):
    method, task = made(AR)
    found = next(metric for metric in task._cross_entropy("", method.predictors()[""]) if metric.name == "ce")
    windows = task.evaluation_windows()
    expected = F.cross_entropy(method.network(windows)[:, :-1].flatten(0, 1), windows[:, 1:].flatten())
    assert found.value == pytest.approx(expected.item(), rel=1e-5)
    assert found.samples == 7


@torch.no_grad()
def test_cross_entropy_at_sigma_max_is_the_noisiest_blocks_at_pure_noise(made):
    method, task = made(DB)
    windows, sigma = task.evaluation_windows(), method.spec.method.noise.sigma_max
    noise = method._noise(windows.numel(), generator())
    logits = method.network.denoise(0, sigma * noise, torch.full((windows.numel(),), sigma), windows)
    expected = F.cross_entropy(logits, windows.flatten(), reduction="none").view(windows.shape)[:, 1:]
    torch.testing.assert_close(method.predictors()[""].nll(windows, generator()), expected)


@torch.no_grad()
def test_cross_entropy_at_sigma_max_sees_nothing_of_the_token(made):
    """Of any token that is asked for: another one there changes the loss of it, not the prediction."""
    method, task = made(DB)
    windows = task.evaluation_windows()
    predictor = method.predictors()[""]
    assert predictor.nll_name == "sigma_max_ce"
    before = predictor.nll(windows, generator())
    assert before.shape == (7, 11)
    vocabulary = task.vocabulary.size
    total = torch.zeros(7)
    for token in range(vocabulary):  # Σ over tokens of exp(−nats) is 1 if the prediction is the same for all of them
        other = windows.clone()
        other[:, 5] = token
        total += (-predictor.nll(other, generator())[:, 4]).exp()
    assert torch.allclose(total, torch.ones(7), atol=1e-4)


def test_a_noise_level_for_each_token_or_each_sequence(made):
    for per, distinct in (("token", 12), ("sequence", 1)):
        method, _ = made(DB, {"method": {"sigma_per": per}})
        step = method.training_step(0)
        rows = step.sigma.view(3, 12)
        assert [len(row.unique()) for row in rows] == [distinct] * 3
        low, high = method.network.partition.training_interval(step.block)
        assert low * 0.999 <= step.sigma.min() and step.sigma.max() <= high * 1.001
        assert step.loss.ndim == 0


@pytest.mark.parametrize("method", [AR, DB])
def test_a_few_steps_bring_the_loss_down(made, method):
    trained, task = made(method, {"network": {"width": 32}})
    torch.manual_seed(0)
    for parameter in trained.network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    optimizer = torch.optim.AdamW(trained.network.parameters(), 5e-3)
    losses = []
    for step in range(60):
        loss = trained.training_step(step).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert losses[0] == pytest.approx(math.log(task.vocabulary.size), rel=0.3)


@torch.no_grad()
def test_what_was_written_is_kept_and_shown(made, tmp_path):
    method, task = made(AR)
    predictors = method.predictors()
    first = task.generated(predictors[""])
    predictors[""].go_on = None  # not called again: it is on disk
    assert task.generated(predictors[""]) == first
    task.write_samples(predictors, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "continuations.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == list(first.prompts)
    assert [row["continuations"] for row in rows] == [list(group) for group in first.continuations]
    prompts, references = task.prompts()
    for row, tokens in zip(rows, torch.cat([prompts, references], dim=1).tolist(), strict=True):
        assert row["prompt"] + row["reference"] == task.vocabulary.decode(tokens)
    shown = " ".join((tmp_path / "samples.txt").read_text().split())
    assert all(" ".join(row["reference"].split()) in shown for row in rows)
    assert (tmp_path / "tokenizer.json").exists()


def test_too_little_text_is_said_in_one_line(made):
    with pytest.raises(UserError, match=r"task\.length: 12.*which make no batch"):
        made(AR, {"training": {"batch_size": 10**6}})
