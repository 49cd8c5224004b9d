"""Wall time of training steps: what is reported of what was timed."""

from __future__ import annotations

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
        assert trainer.method.task.batches._made[0][0] == pace.next // 4 - 1, "what the trainer had is still there"


def test_metrics_have_their_spread_count_and_share(request_):
    shape, metrics = measure(request_, CPU)
    found = {metric.name: metric for metric in metrics}
    assert "3 layers, width 16" in shape and "4 iterations" in shape and "batch 64" in shape
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
