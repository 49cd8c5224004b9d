"""Wall time of training steps: what is reported of what was timed."""

from __future__ import annotations

import itertools

import pytest
import torch

from dblocks.command_line import CommandLine
from dblocks.measure import wall_time
from dblocks.measure.request import make_request
from dblocks.measure.wall_time import Pace, make_trainer, measure, percentiles, timed_steps
from dblocks.tasks.arrays import AugmentedImages

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def request_():
    request = make_request("time_vit", CommandLine(override={"network": {"layers": 3, "width": 16}}))
    return request.model_copy(update={"settings": request.settings.model_copy(update={"iterations": 4})})


def test_every_block_is_timed_in_every_round(request_):
    times, together = timed_steps(request_, CPU, 4)
    assert together == 1, "on a CPU each batch is made by itself, and each step timed"
    assert {name: len(values) for name, values in times.items()} == {
        "whole": 4,
        "block": 12,
        "blocks": 4,
        "whole_data": 4,
        "block_data": 4,
    }
    assert all(value > 0 for values in times.values() for value in values)
    for i, whole_round in enumerate(times["blocks"]):
        assert whole_round == pytest.approx(sum(times["block"][3 * i : 3 * i + 3]))


def test_each_reading_makes_its_batches_once(request_, tmp_path, monkeypatch):
    made = []
    make = AugmentedImages._make
    monkeypatch.setattr(AugmentedImages, "_make", lambda self, *chunk: made.append(chunk) or make(self, *chunk))
    trainer = make_trainer(request_.spec, CPU, tmp_path / "data")
    trainer.method.task.batches.together = 4  # as if on CUDA
    pace = Pace(trainer, CPU)
    assert pace.round == 3 and pace.next == 4
    for _ in range(3):
        made.clear()
        pace.read()
        assert len(made) == pace.round, "one making a reading"
        made.clear()
        pace.read_batch()  # of a batch each, for the copy makes none ahead on a CPU
        assert len(made) == 4
        assert trainer.method.task.batches._made[0][0] == range(pace.next - 4, pace.next), (
            "what the trainer had is still there"
        )


def test_metrics_have_their_spread_count_and_share(request_):
    shape, metrics = measure(request_, CPU)
    found = {metric.name: metric for metric in metrics}
    assert "vit of 3 layers, width 16, MLP 64, on digits" in shape and "4 iterations" in shape and "batch 64" in shape
    for name, samples in (("whole", 4), ("block", 12), ("blocks", 4)):
        seconds, share = found[f"{name}_seconds"], found[f"{name}_data_share"]
        assert seconds.samples == samples
        assert seconds.spread[0] <= seconds.value <= seconds.spread[1]
        assert 0 < share.value < 100
    assert found["whole_ratio"].value == 1
    assert found["blocks_seconds"].value > found["block_seconds"].value


def test_a_measurement_of_time_wants_a_hundred_iterations_at_every_scale():
    for scale in ("smoke", "short", "paper"):
        request = make_request("time_vit", CommandLine(scale=scale))
        assert request.settings.iterations >= 100
        assert request.spec.scale == request.baseline.scale == scale


def test_the_spread_leaves_out_a_twentieth_at_each_end():
    assert percentiles([float(value) for value in range(101)]) == (5.0, 95.0)


def test_seconds_ratios_and_shares_are_of_the_readings_round_by_round(monkeypatch):
    times = {"whole": [1, 2, 9], "block": [1, 1, 2, 2, 2, 4, 3, 3, 3], "blocks": [4, 8, 9]}
    times |= {"whole_data": [0.1] * 3, "block_data": [0.2] * 3}
    monkeypatch.setattr(wall_time, "timed_steps", lambda *_: (times, 1))
    found = {m.name: m.value for m in measure(make_request("time_vit", CommandLine()), torch.device("cpu"))[1]}
    assert [found[f"{name}_seconds"] for name in ("whole", "block", "blocks")] == [2, 2, 8]
    assert (found["block_ratio"], found["blocks_ratio"]) == (1, 4)  # medians of 1 1 2, 1 1 2, 1/3 1/3 1/3; and of 4 4 1
    assert found["step_ratio"] == pytest.approx(4 / (21 / 9))
    assert found["whole_data_share"] == pytest.approx(100 * 0.1 / 2)
    assert found["blocks_data_share"] == pytest.approx(100 * 3 * 0.2 / 8)


def test_blocks_take_turns_in_every_round(request_, tmp_path):
    trainer = make_trainer(request_.spec, CPU, tmp_path / "data")
    blocks = [trainer.method.draw(step).block for step in range(18)]
    assert [sorted(blocks[start : start + 3]) for start in range(0, 18, 3)] == [[0, 1, 2]] * 6


def test_the_first_round_is_made_before_any_reading(request_, tmp_path):
    for spec, steps in ((request_.baseline, 1), (request_.spec, 3)):
        pace = Pace(make_trainer(spec, CPU, tmp_path / str(steps)), CPU)
        assert pace.round == pace.next == steps


def test_a_reading_is_the_mean_of_the_steps_it_holds_and_leaves_nothing_in_the_log(request_, tmp_path, monkeypatch):
    def two_seconds_a_step(device, act):
        act()
        return 2.0 * act.args[0]

    monkeypatch.setattr(wall_time, "seconds", two_seconds_a_step)
    trainer = make_trainer(request_.spec, CPU, tmp_path / "data")
    trainer.method.task.batches.together = 4
    pace = Pace(trainer, CPU)
    assert pace.read() == [2.0] * 3 and pace.next == 4 + 3 * 4
    assert pace.read_batch() == 2.0
    assert not trainer.buffer.entries


def test_each_round_gives_its_own_readings_and_the_first_counts_nothing(request_, monkeypatch):
    """On a clock that ticks a second a reading: the baseline's step, three blocks' steps, both kinds of batches."""
    ticks = itertools.count()
    monkeypatch.setattr(wall_time, "seconds", lambda device, act: float(next(ticks)))
    times, _ = timed_steps(request_, CPU, 2)
    assert times == {
        "whole": [6, 12],
        "block": [7, 8, 9, 13, 14, 15],
        "blocks": [7 + 8 + 9, 13 + 14 + 15],
        "whole_data": [10, 16],
        "block_data": [11, 17],
    }


@pytest.mark.parametrize(("iterations", "readings"), [(12, 3), (4, 2)])
def test_where_a_reading_holds_many_steps_there_are_fewer_but_not_too_few(request_, monkeypatch, iterations, readings):
    monkeypatch.setattr(wall_time, "LEAST_READINGS", 2)
    monkeypatch.setattr(wall_time, "seconds", lambda device, act: 1.0)
    init = AugmentedImages.__init__

    def four_at_once(self, *arguments):
        init(self, *arguments)
        self.together = 4

    monkeypatch.setattr(AugmentedImages, "__init__", four_at_once)
    times, together = timed_steps(request_, CPU, iterations)
    assert together == 4
    assert [len(times[name]) for name in ("whole", "block", "blocks")] == [readings, 3 * readings, readings]


def test_the_shape_says_of_how_many_steps_a_reading_is_the_mean(request_, monkeypatch):
    times = {name: [1.0] * 6 for name in ("whole", "block", "blocks", "whole_data", "block_data")}
    monkeypatch.setattr(wall_time, "timed_steps", lambda *_: (times, 64))
    assert measure(request_, CPU)[0].endswith("batch 64, 6 readings of 64 steps")
