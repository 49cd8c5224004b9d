"""Wall time of training steps: what is reported of what was timed."""

from __future__ import annotations

import pytest
import torch

from dblocks.config import CommandLine
from dblocks.measure.request import make_request
from dblocks.measure.wall_time import measure, percentiles, timed_steps

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
