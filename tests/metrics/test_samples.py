"""Samples are functions of their index, kept on disk, and drawn once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dblocks.metrics.samples import Samples, quantize

CPU = torch.device("cpu")


def samples(folder, count: int = 10, batch_size: int = 4, seed: int = 0, repeat: int = 0) -> Samples:
    return Samples(folder, count, batch_size, (1, 2, 2), 10, seed, repeat)


def draw(labels: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    return torch.tanh(epsilon + labels[:, None, None, None] / 10)


def all_images(made: Samples) -> np.ndarray:
    made.draw(draw, CPU)
    return np.concatenate(list(made.images()))


@pytest.mark.parametrize(
    ("value", "grey"), [(-1, 0), (1, 255), (0, 128), (-2, 0), (3, 255), (0.9999, 255), (-0.5, 64), (0.5, 191)]
)
def test_quantized_as_edm_does(value, grey):
    assert quantize(torch.tensor([float(value)])).tolist() == [grey]  # x·127.5 + 128, truncated


def test_quantize_undoes_the_way_in():
    levels = torch.arange(256)
    assert quantize(levels / 127.5 - 1).tolist() == levels.tolist()


def test_a_sample_does_not_depend_on_its_batch(tmp_path):
    whole = all_images(samples(tmp_path / "a", batch_size=10))
    parts = all_images(samples(tmp_path / "b", batch_size=3))
    assert whole.dtype == np.uint8 and whole.shape == (10, 1, 2, 2)
    assert np.array_equal(whole, parts)
    more = all_images(samples(tmp_path / "c", count=14))
    assert np.array_equal(more[:10], whole)


def test_seed_and_repeat_make_other_samples(tmp_path):
    sets = [
        all_images(samples(tmp_path / f"{seed}{repeat}", seed=seed, repeat=repeat))
        for seed, repeat in ((0, 0), (1, 0), (0, 1))
    ]
    assert len({part.tobytes() for part in sets}) == 3


def test_drawing_goes_on_where_it_was_stopped(tmp_path):
    complete = all_images(samples(tmp_path / "whole"))
    calls = []

    def until_killed(labels, epsilon):
        calls.append(len(labels))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(labels, epsilon)

    made = samples(tmp_path / "resumed")
    with pytest.raises(KeyboardInterrupt):
        made.draw(until_killed, CPU)
    kept = {path.name: path.stat().st_mtime_ns for path in made.folder.iterdir()}
    assert len(kept) == 1
    written = []
    made.draw(until_killed, CPU, lambda: written.append(True))
    assert (calls, len(written)) == ([4, 4, 4, 2], 2)
    assert np.array_equal(np.concatenate(list(made.images())), complete)
    assert all((made.folder / name).stat().st_mtime_ns == time for name, time in kept.items())


def test_seconds_are_those_of_all_attempts(tmp_path):
    made = samples(tmp_path)
    first = made.draw(draw, CPU)
    assert made.draw(lambda *_: pytest.fail("drawn again"), CPU) == first > 0


def test_the_first_of_several_batches_is_not_timed(tmp_path):
    made = samples(tmp_path, count=10, batch_size=4)
    made.draw(draw, CPU)
    for start, seconds in ((0, 100.0), (4, 2.0), (8, 4.0)):
        with np.load(made.path(start)) as kept:
            content = {**kept, "seconds": seconds}
        np.savez(made.path(start), **content)
    assert made.draw(draw, CPU) == 6.0 / 6


def test_labels_are_uniform():
    made = samples("nowhere", count=5000)
    counts = np.bincount([made.label(i) for i in range(5000)], minlength=10)
    assert len(counts) == 10 and counts.min() > 400 and counts.max() < 600


def test_images_by_class(tmp_path):
    made = samples(tmp_path, count=60, batch_size=16)
    made.draw(lambda labels, epsilon: (labels[:, None, None, None] / 10).expand_as(epsilon), CPU)
    rows = made.by_class(3, 5)
    assert {label: len(row) for label, row in rows.items()} == dict.fromkeys(range(5), 3)
    for label, row in rows.items():
        assert (row == int(label / 10 * 127.5 + 128)).all()


def test_classes_without_a_sample_are_not_shown(tmp_path):
    made = Samples(tmp_path, 2, 2, (1, 2, 2), 100, 0, 0)
    made.draw(draw, CPU)
    assert set(made.by_class(3, 5)) == {made.label(0), made.label(1)}


def test_noise_and_labels_are_of_seed_evaluation_and_place():
    made = [samples("nowhere"), samples("nowhere", seed=1), samples("nowhere", repeat=1)]
    assert len({one.noise(index).numpy().tobytes() for one in made for index in (0, 1)}) == 6
    assert len({tuple(one.label(index) for index in range(50)) for one in made}) == 3
