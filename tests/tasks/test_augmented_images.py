"""Augmented batches: each a function of (seed, step, view), also where those of several steps are made at once."""

from __future__ import annotations

import pytest
import torch

from dblocks import seeds
from dblocks.data.augment import augment
from dblocks.tasks.arrays import AugmentedImages, EpochOrder

TOGETHER = 4


@pytest.fixture
def batches(digits, tiny_spec):
    """batches(together): augmented digits, so many steps at once, as a GPU makes them."""
    augmentation = {"crop_padding": 2, "flip": 0.5, "rand_augment": {"num_ops": 2, "magnitude": 9}}
    images = torch.from_numpy(digits.array("train_images").copy())

    def make(together: int = TOGETHER, **more) -> AugmentedImages:
        spec = tiny_spec(over={"augment": {**augmentation, **more}})
        made = AugmentedImages(spec, images, lambda x: x.float() / 255)
        made.together = together
        return made

    return make


def test_on_a_cpu_each_step_is_made_by_itself(batches):
    made = batches(1)
    spec = made.spec
    assert AugmentedImages(spec, made.images, made.finish).together == 1
    chosen = EpochOrder(spec.seed, len(made.images), 16, torch.device("cpu")).indices(7)
    draws = seeds.generator("cpu", spec.seed, "augment", 0, 7)
    images, found = made.batch(7)
    assert torch.equal(found, chosen)
    assert torch.equal(images, augment(made.images[chosen], spec.augment, draws).float() / 255)


@pytest.mark.parametrize("crop", [{"crop_padding": 2}, {"crop_padding": 0, "resized_crop": True}], ids=str)
def test_several_at_once_are_those_made_one_by_one(batches, crop):
    """So a GPU sees the images that a CPU does."""
    one_by_one, at_once = batches(1, **crop), batches(**crop)
    for step in range(85, 97):
        for view in range(2):
            expected, found = one_by_one.batch(step, view), at_once.batch(step, view)
            assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("block", [0, 2])
def test_a_block_s_job_makes_its_own_batches_alone(batches, block, monkeypatch):
    whole, own = batches(1), batches()
    own.every, made = 3, []
    monkeypatch.setattr(own.order, "indices", lambda step: (made.append(step), whole.order.indices(step))[1])
    for step in range(block, 96, 3):
        assert torch.equal(own.batch(step)[0], whole.batch(step)[0])
    assert made == list(range(block, 96, 3))


@pytest.mark.parametrize("start", [1, 4, 89, 91])  # an epoch is 89 steps: the last two straddle its end
def test_a_batch_does_not_depend_on_where_training_went_on_from(batches, start):
    whole, again = batches(), batches()
    expected = [whole.batch(step)[0] for step in range(96)]
    for step in range(start, 96):
        assert torch.equal(again.batch(step)[0], expected[step])


def test_every_image_once_an_epoch_and_each_view_another_augmentation(batches):
    made = batches()
    per_epoch = made.order.steps_per_epoch
    for epoch in range(2):
        seen = torch.cat([made.batch(step)[1] for step in range(epoch * per_epoch, (epoch + 1) * per_epoch)])
        assert len(seen.unique()) == len(seen) == per_epoch * 16
    (one, chosen), (other, same) = made.batch(3, view=0), made.batch(3, view=1)
    assert torch.equal(chosen, same) and not torch.equal(one, other)
