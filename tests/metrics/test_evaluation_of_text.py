"""How text is evaluated: on which windows and prompts, with which draws, at which precision, under which name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dblocks.build import build
from dblocks.data.prepared import PreparedData
from dblocks.masking import mask_partition
from dblocks.metrics.mauve import mauve, read_features
from dblocks.needs import Needs
from dblocks.tasks import autoregressive_text
from dblocks.tasks.masked_text import MaskedPredictor, MaskedText
from dblocks.text_generation import TextPredictor
from tests.tasks.test_autoregressive_text import AR, spec_of

CPU = torch.device("cpu")


@pytest.fixture
def task_of(tokens_folder, tmp_path):
    """task_of(fields, needs): the task of windows of 12 tokens, 5 prompts of 4 tokens and two continuations of 6."""

    def make(over: dict | None = None, paths: dict | None = None):
        (tmp_path / "weights-0.pt").touch()
        needs = Needs(paths or {}, tmp_path)
        return build(spec_of(AR, over or {}), PreparedData(tokens_folder), CPU, needs)[1]

    return make


def echo(prompts: torch.Tensor, count: int, draws: torch.Generator) -> torch.Tensor:
    """The prompt again and again."""
    return prompts.repeat(1, count)[:, :count]


def as_numbers(windows: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    """Tokens as if they were nats."""
    return windows[:, 1:].float()


def drawn_text(prompts: torch.Tensor, count: int, draws: torch.Generator) -> torch.Tensor:
    return torch.randint(1, 300, (len(prompts), count), generator=draws)


def drawn_nats(windows: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    return torch.rand(windows[:, 1:].shape, generator=draws)


def test_the_error_of_a_cross_entropy_is_that_of_its_mean_over_windows(task_of):
    task = task_of()
    (found,) = task._cross_entropy("", TextPredictor(echo, as_numbers))
    nats = task.evaluation_windows().numpy()[:, 1:].astype(np.float64).mean(axis=1)
    assert (found.name, found.unit, found.samples) == ("ce", "nats/token", 7)
    assert found.value == pytest.approx(nats.mean())
    assert found.standard_error == pytest.approx(nats.std(ddof=1) / np.sqrt(7))


def test_of_a_single_window_there_is_no_error(task_of):
    (found,) = task_of({"task": {"cross_entropy_windows": 1}})._cross_entropy("", TextPredictor(echo, as_numbers))
    assert found.samples == 1 and found.standard_error is None


def test_a_cross_entropy_stands_under_its_predictors_name_and_tells_how_it_was_measured(task_of):
    predictors = {
        "": TextPredictor(echo, as_numbers, "sigma_max_ce"),
        "greedy_": TextPredictor(echo, lambda windows, draws: 2 * as_numbers(windows, draws)),
    }
    found = {metric.name: metric.value for metric in task_of({"task": {"prompts": 0}}).evaluate(predictors)}
    assert set(found) == {"ce", "sigma_max_ce", "greedy_ce"}
    assert found["greedy_ce"] == 2 * found["ce"] == 2 * found["sigma_max_ce"]


@pytest.mark.parametrize(("limit", "windows", "prompts"), [(None, 7, 5), (3, 3, 3), (6, 6, 5), (100, 7, 5)])
def test_no_more_windows_and_prompts_than_samples_are_wanted(task_of, limit, windows, prompts):
    task = task_of({"data": {"max_evaluation_samples": limit}})
    assert len(task.evaluation_windows()) == windows
    assert [len(part) for part in task.prompts()] == [prompts, prompts]
    assert task.continuations(TextPredictor(echo, as_numbers)).shape == (prompts, 2, 6)


def test_every_prompt_is_gone_on_from_in_its_own_row(task_of):
    task = task_of()
    prompts, _ = task.prompts()
    assert len(prompts.unique(dim=0)) == 5
    found = task.continuations(TextPredictor(echo, as_numbers))
    assert torch.equal(found, prompts.repeat(1, 2)[:, None, :6].expand(5, 2, 6))


def test_each_batch_of_prompts_has_draws_of_its_own_by_place_and_seed(task_of):
    predictor = TextPredictor(drawn_text, drawn_nats)
    found = task_of().continuations(predictor).view(10, 6)  # in batches of 4, 4 and 2
    assert torch.equal(task_of().continuations(predictor).view(10, 6), found)
    assert len(found.unique(dim=0)) == 10
    assert not torch.equal(task_of({"seed": 1}).continuations(predictor).view(10, 6), found)


def test_each_batch_of_windows_has_draws_of_its_own_by_place_and_seed(task_of, monkeypatch):
    monkeypatch.setattr(autoregressive_text, "EVALUATION_TOKENS", 24)  # two windows at a time

    def nats(seed: int) -> torch.Tensor:
        made = []

        def nll(windows: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
            made.append(drawn_nats(windows, draws))
            return made[-1]

        task_of({"seed": seed})._cross_entropy("", TextPredictor(drawn_text, nll))
        assert [len(part) for part in made] == [2, 2, 2, 1]
        return torch.cat(made)

    assert torch.equal(nats(0), nats(0))
    assert len(nats(0).unique(dim=0)) == 7
    assert not torch.equal(nats(0), nats(1))


def test_text_is_written_and_judged_in_full_precision_where_a_run_trains_in_bf16(task_of):
    seen = []

    def go_on(*arguments) -> torch.Tensor:
        seen.append(("written", torch.is_autocast_enabled("cpu")))
        return drawn_text(*arguments)

    def nll(*arguments) -> torch.Tensor:
        seen.append(("judged", torch.is_autocast_enabled("cpu")))
        return drawn_nats(*arguments)

    with torch.autocast("cpu", torch.bfloat16):
        task_of().evaluate({"": TextPredictor(go_on, nll)})
    assert set(seen) == {("written", False), ("judged", False)}


def test_what_is_no_number_is_left_out_of_the_metrics(task_of):
    task = task_of()
    nothing = torch.full((10, 6), task.vocabulary.end)
    silent = TextPredictor(lambda prompts, count, draws: nothing[: len(prompts)], as_numbers)
    names = {metric.name for metric in task.evaluate({"": silent})}
    assert "reference_distinct_1" in names and "ce" in names
    assert not any(name.startswith(("distinct_", "repetition_")) for name in names)


def test_mauve_is_at_the_runs_scales_with_the_runs_seed_under_the_predictors_name(task_of, gpt2_manifest, tmp_path):
    over = {"seed": 5, "task": {"prompts": 60, "mauve_scales": [1.5, 3.0]}}
    task = task_of(over, {"features": gpt2_manifest})
    predictors = {"greedy_": TextPredictor(drawn_text, as_numbers)}
    found = {metric.name: metric for metric in task.evaluate(predictors) if "mauve" in metric.name}
    assert "greedy_mauve_scale_3" in found and "greedy_mauve_scale_1.5" not in found
    kept = read_features(tmp_path / "greedy_mauve-features.npz")
    sides = kept["references_with_prompt"], kept["continuations_with_prompt"]
    scores, others = (mauve(*sides, seed, [1.5, 3.0]).scores for seed in (5, 0))
    assert [found[name].value for name in ("greedy_mauve", "greedy_mauve_scale_3")] == list(scores.values())
    assert scores != others
    assert (found["greedy_mauve"].samples, found["greedy_mauve"].reference) == (120, 60)


def test_masked_text_is_sampled_by_the_runs_seed_into_a_file_of_its_predictors_name(austen, text_spec, tmp_path):
    def uniform(block: int, tokens: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*tokens.shape, 27)

    predictors = dict.fromkeys(("", "other_"), MaskedPredictor(uniform, mask_partition("linear", (1,))))
    texts = []
    for place, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(place)
        folder.mkdir()
        MaskedText(text_spec("end_to_end", {"seed": seed}), austen, CPU).write_samples(predictors, folder)
        assert {path.name for path in folder.iterdir()} == {"samples.txt", "other_samples.txt"}
        texts.append((folder / "samples.txt").read_text())
    assert texts[0] == texts[1] != texts[2]
