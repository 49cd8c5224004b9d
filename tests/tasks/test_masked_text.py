"""The masked text task: windows of training and evaluation, metrics, samples."""

import math

import numpy as np
import pytest
import torch

from dblocks.data.characters import ALPHABET
from dblocks.masking import mask_partition
from dblocks.metrics.bits_per_character import bigram_entropy, unigram_entropy
from dblocks.record import read_record
from dblocks.run import execute
from dblocks.tasks.masked_text import MaskedPredictor, MaskedText


@pytest.fixture
def task(austen, text_spec):
    return lambda over=None: MaskedText(text_spec("end_to_end", over), austen, torch.device("cpu"))


def uniform(blocks: int = 1) -> MaskedPredictor:
    partition = mask_partition("linear", (1,) * blocks)
    return MaskedPredictor(lambda block, tokens, t: torch.zeros(*tokens.shape, 27), partition)


def test_an_epoch_cuts_the_text_into_disjoint_windows_from_an_offset_of_its_own(task):
    whole = task({"training": {"batch_size": 4000}})
    assert whole.order.steps_per_epoch == len(whole.codes) // 16 // 4000
    offsets = set()
    for epoch in range(3):
        starts = torch.cat(
            [whole.order.indices(epoch * whole.order.steps_per_epoch + i) for i in range(whole.order.steps_per_epoch)]
        )
        inner = starts[starts < len(whole.codes) - 16]
        assert len(inner.unique()) == len(inner)
        (offset,) = (inner % 16).unique().tolist()
        assert starts.min() >= 0 and starts.max() <= len(whole.codes) - 16
        offsets.add(offset)
    assert len(offsets) > 1


def test_a_batch_is_a_function_of_seed_and_step_and_is_text(task, austen):
    found = task().batch(7)
    assert found.dtype == torch.int64 and found.shape == (8, 16) and found.max() < 27
    task_again = task()
    task_again.batch(100_000)
    assert (task_again.batch(7) == found).all()
    train = np.lib.stride_tricks.sliding_window_view(austen.array("train"), 16)
    assert (train == found[0].numpy().astype(np.uint8)).all(axis=1).any()


def test_evaluation_reads_disjoint_windows_of_its_split_in_order(task, austen):
    windows = task({"data": {"max_evaluation_samples": None}}).evaluation_windows()
    test = austen.array("test")
    assert windows.shape == (len(test) // 16, 16)
    assert (windows.flatten().numpy() == test[: windows.numel()]).all()
    chosen = {"data": {"train_split": "fit", "evaluation_split": "validation", "max_evaluation_samples": 5}}
    assert (task(chosen).evaluation_windows().flatten().numpy() == austen.array("validation")[:80]).all()


def test_metrics_carry_bits_with_error_and_windows_and_the_texts_own_entropies(task, austen):
    metrics = {m.name: m for m in task().evaluate({"": uniform(3)})}
    assert set(metrics) == {
        "bpc",
        "bpc_of_block_1",
        "bpc_of_block_2",
        "bpc_of_block_3",
        "unigram_entropy",
        "bigram_entropy",
    }
    bpc = metrics["bpc"]
    assert (bpc.unit, bpc.dataset, bpc.split, bpc.samples) == ("bits/char", "austen", "test", 20)
    assert abs(bpc.value - np.log2(27)) < 5 * bpc.standard_error
    assert sum(metrics[f"bpc_of_block_{b}"].value for b in (1, 2, 3)) == pytest.approx(bpc.value)
    text = austen.array("test")
    assert metrics["unigram_entropy"].samples == len(text) // 16
    assert metrics["unigram_entropy"].value == pytest.approx(unigram_entropy(text, 27))
    assert metrics["bigram_entropy"].value == pytest.approx(bigram_entropy(text, 27))


def test_each_window_is_evaluated_once_in_each_of_as_many_equal_parts_of_root_t_as_the_spec_says(task):
    seen = []

    def denoise(block, tokens, t):
        seen.append(t)
        return torch.zeros(*tokens.shape, 27)

    over = {"task": {"evaluation_times": 20}, "data": {"max_evaluation_samples": 30}}
    task(over).evaluate({"": MaskedPredictor(denoise, mask_partition("linear", (1,)))})
    assert torch.histc(torch.cat(seen).sqrt(), 20, 0, 1).tolist() == [30.0] * 20


def test_the_parts_of_two_blocks_are_half_of_what_each_of_them_would_score_alone(task):
    """The more masked block knows nothing, the other one the characters' frequencies."""
    made = task({"data": {"max_evaluation_samples": 2000}})
    codes = made.evaluation_windows().flatten()
    counts = torch.bincount(codes, minlength=27) + 1e-6
    partition = mask_partition("linear", (1, 1))

    def denoise(block, tokens, t):
        assert ((t >= 0.5) == (block == 0)).all()
        return (torch.zeros(27) if block == 0 else counts.log()).expand(*tokens.shape, -1)

    metrics = {m.name: m for m in made.evaluate({"": MaskedPredictor(denoise, partition)})}
    first, second = metrics["bpc_of_block_1"], metrics["bpc_of_block_2"]
    assert first.value == pytest.approx(math.log2(27) / 2, abs=0.05)
    assert second.value == pytest.approx(unigram_entropy(codes.numpy(), 27) / 2, abs=0.1)
    assert first.value + second.value == pytest.approx(metrics["bpc"].value)
    assert (first.samples, first.unit, "bpc_of_block_3" in metrics) == (2000, "bits/char", False)


def test_one_block_has_no_part_of_its_own(task):
    names = [m.name for m in task().evaluate({"": uniform(1)})]
    assert names == ["bpc", "unigram_entropy", "bigram_entropy"]


@pytest.mark.parametrize(
    ("grid", "schedule", "time"),
    [
        ("cosine", "linear", lambda i: math.cos(math.pi / 2 * i / 5)),
        ("cosine", "cosine", lambda i: math.cos(math.pi / 2 * i / 5)),
        ("equal_mass", "linear", lambda i: 1 - i / 5),
        ("equal_mass", "cosine", lambda i: 1 - 2 / math.pi * math.acos(1 - i / 5)),
    ],
)
def test_texts_are_sampled_at_the_times_of_the_grid_and_the_schedule_in_the_spec(task, tmp_path, grid, schedule, time):
    seen = []

    def denoise(block, tokens, t):
        seen.append(t[0].item())
        return torch.zeros(*tokens.shape, 27)

    made = task({"task": {"sampling_grid": grid, "schedule": schedule, "sampling_steps": 5}})
    made.write_samples({"": MaskedPredictor(denoise, mask_partition(schedule, (1,)))}, tmp_path)
    assert seen == pytest.approx([time(i) for i in range(5)])


def test_sampled_texts_are_lines_of_letters_and_spaces(task, tmp_path):
    task().write_samples({"": uniform()}, tmp_path)
    lines = (tmp_path / "samples.txt").read_text().split("\n")[:-1]
    assert [len(line) for line in lines] == [16, 16]
    assert set("".join(lines)) <= set(ALPHABET)


def test_a_finished_run_leaves_bits_with_their_error_in_its_record_and_samples_beside_it(austen, text_spec, tmp_path):
    spec = text_spec("diffusion_blocks", {"training": {"max_steps": 2}})
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    record = read_record(execute(tmp_path / "spec.json", austen.folder))
    bpc = record.metric("bpc")
    assert bpc.samples == 20 and bpc.standard_error > 0
    assert record.metric("bigram_entropy").value < record.metric("unigram_entropy").value
    assert sum(record.evaluations_per_block) == spec.task.sampling_steps
    assert len((tmp_path / "samples.txt").read_text().splitlines()) == spec.task.samples
