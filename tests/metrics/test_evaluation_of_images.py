"""How image generation is evaluated: what is diffused and decoded, what is compared with what, and what is timed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dblocks.config import resolve
from dblocks.data.latents import STABLE_DIFFUSION, encode, to_unit
from dblocks.data.prepared import PreparedData
from dblocks.metrics.fid import Extractor, feature_set, fid
from dblocks.metrics.samples import quantize
from dblocks.needs import Needs
from dblocks.tasks.classification import Predictor
from dblocks.tasks.image_generation import ImageGeneration

CPU = torch.device("cpu")
DEVIATION = 0.25  # a half and a quarter are exact in float16


class Halving:
    """A codec that is known: 2×2 means as latents of one channel, of deviation DEVIATION; decoded, each four times."""

    def encode(self, images):
        mean = F.avg_pool2d(images, 2)
        return mean, torch.full_like(mean, DEVIATION)

    def decode(self, latents):
        return latents.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


@pytest.fixture(scope="module")
def encoded(digits, tmp_path_factory) -> PreparedData:
    return PreparedData(encode(digits, Halving(), "digits-1-x", tmp_path_factory.mktemp("latents"), CPU).parent)


@pytest.fixture
def latent_task(encoded, tmp_path):
    """latent_task(fields): the task that diffuses those latents."""

    def make(over: dict | None = None) -> ImageGeneration:
        (tmp_path / "weights-0.pt").touch()
        fields = {"data": {"name": "digits", **(over or {}).pop("data", {})}, **(over or {})}
        task = ImageGeneration(
            resolve("dit_imagenet/end_to_end", "smoke", 0, fields), encoded, CPU, Needs({}, tmp_path)
        )
        task.codec = Halving()
        return task

    return make


def scaled(scale: str) -> dict:
    return {"generation": {"latents": {"autoencoder": "autoencoder/latents", "scale": scale}}}


def means(digits) -> torch.Tensor:
    """The latents' means."""
    return F.avg_pool2d(to_unit(digits.array("train_images")), 2)


def test_sigma_data_of_latents_is_their_scaled_rms(latent_task, digits):
    rms = (means(digits).double().square().mean() + DEVIATION**2).sqrt().item()
    by_name = {"half": 0.5, "unit": 1.0, "sd": STABLE_DIFFUSION * rms}
    for scale, expected in by_name.items():
        measured = {"method": {"noise": {"sigma_data": "data_rms"}}} | scaled(scale)
        assert latent_task(measured).sigma_data() == pytest.approx(expected, rel=1e-3)
        assert latent_task(scaled(scale)).sigma_data() == 0.5  # the paper's, whatever is diffused


@pytest.mark.parametrize("split", ["train", "fit"])
def test_a_batch_of_latents_is_drawn_from_its_images_posteriors_anew_each_step(latent_task, digits, split):
    task = latent_task(scaled("sd") | {"data": {"train_split": split}, "network": {"label_dropout": 0.0}})
    labels, found = np.array(digits.array("train_labels")), []
    for step in (0, 1):
        batch, (_, chosen) = task.batch(step), task.batches.batch(step)
        places = task.chosen[chosen.numpy()]
        noise = (batch.targets / STABLE_DIFFUSION - means(digits)[places]) / DEVIATION
        assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1  # 64 · 16 standard normal numbers
        assert len(noise[:, 0, 0, 0].unique()) == 64
        assert batch.inputs.tolist() == labels[places].tolist()
        assert torch.equal(task.batch(step).targets, batch.targets)
        found.append(noise)
    assert (found[0] - found[1]).abs().max() > 1


def test_labels_are_dropped_anew_each_step(latent_task):
    task = latent_task()
    dropped = [(task.batch(step).inputs == 10).tolist() for step in range(4)]
    assert len({tuple(each) for each in dropped}) == 4


def test_samples_of_latents_are_unscaled_before_they_are_decoded_all_of_them_in_full_precision(latent_task):
    task, seen = latent_task({"generation": scaled("sd")["generation"] | {"samples": 60, "repeats": 1}}), []

    def decode(latents):
        seen.append((len(latents), latents.dtype, torch.is_autocast_enabled("cpu")))
        return Halving().decode(latents)

    task.codec.decode = decode
    grey = torch.linspace(-0.9, 0.9, 10)

    def sample(labels, epsilon):
        assert epsilon.shape == (len(labels), 1, 4, 4)
        return (STABLE_DIFFUSION * grey[labels])[:, None, None, None].expand_as(epsilon)

    with torch.autocast("cpu", torch.bfloat16):
        ((samples, _),) = task._draw(Predictor(None, sample=sample))
    images = np.concatenate(list(samples.images()))
    assert images.shape == (60, 1, 8, 8)
    expected = quantize(grey)[[samples.label(i) for i in range(60)]]
    assert np.abs(images - expected[:, None, None, None].astype(int)).max() <= 1  # a factor's rounding
    assert seen == [(50, torch.float32, False), (10, torch.float32, False)]


def pixel_task(digits, folder, over: dict | None = None, seed: int = 0) -> ImageGeneration:
    """The task that diffuses digits and compares four pixels of 16 samples."""
    (folder / "weights-0.pt").touch()
    fields = {"generation": {"samples": 16, "repeats": 2, "batch_size": 8, "kid_subsets": 2}} | (over or {})
    task = ImageGeneration(resolve("dit_cifar10/end_to_end", "smoke", seed, fields), digits, CPU, Needs({}, folder))
    task._extractor = lambda split: PIXELS
    return task


PIXELS = Extractor("_pixels", "pixels", lambda images: images.flatten(1)[:, 18:22].float(), CPU)
NOISE = Predictor(None, sample=lambda labels, epsilon: torch.tanh(epsilon))


def test_seconds_an_image_are_the_mean_over_all_evaluations(digits, tmp_path):
    task = pixel_task(digits, tmp_path)
    task.evaluate({"": NOISE})
    for repeat, seconds in ((0, 16.0), (1, 32.0)):  # the first batch of each is not timed
        path = tmp_path / "samples-0" / f"{repeat}-0000008-8.npz"
        with np.load(path) as kept:
            content = {**kept, "seconds": seconds}
        np.savez(path, **content)
    (found,) = (metric for metric in task.evaluate({"": NOISE}) if metric.name == "seconds_per_image")
    assert (found.value, found.unit, found.samples) == ((16 / 8 + 32 / 8) / 2, "s", 16)
    assert found.values is found.mean is found.extractor is None


def test_samples_are_compared_with_the_splits_that_the_run_names(digits, tmp_path):
    over = {"data": {"train_split": "fit", "evaluation_split": "validation"}}
    task = pixel_task(digits, tmp_path, over)
    found = {metric.name: metric for metric in task.evaluate({"": NOISE})}
    assert set(found) == {f"{m}_pixels_{s}" for m in ("fid", "kid") for s in ("fit", "validation")} | {
        "seconds_per_image"
    }
    drawn = [np.concatenate(list(samples.images())) for samples, _ in task._draw(NOISE)]
    held_out = np.array(digits.array("validation"))
    fitted = np.setdiff1d(np.arange(1437), held_out)
    for split, places in (("fit", fitted), ("validation", held_out)):
        real = feature_set(PIXELS, [np.array(digits.array("train_images"))[places]])
        metric, values = found[f"fid_pixels_{split}"], [fid(feature_set(PIXELS, [fake]), real) for fake in drawn]
        assert (metric.split, metric.reference) == (split, len(places))
        assert metric.values == pytest.approx(values) and metric.value == min(metric.values)
        assert metric.mean == pytest.approx(sum(values) / 2)


def test_samples_are_other_ones_for_another_seed(digits, tmp_path):
    drawn = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        task = pixel_task(digits, tmp_path / str(seed), seed=seed)
        drawn += [np.concatenate(list(samples.images())) for samples, _ in task._draw(NOISE)]
    assert len({images.tobytes() for images in drawn}) == 4  # two seeds, two evaluations


def test_features_are_taken_in_full_precision_where_a_run_is_sampled_in_bf16(digits, tmp_path):
    task, seen = pixel_task(digits, tmp_path), []

    def features(images):
        seen.append(torch.is_autocast_enabled("cpu"))
        return PIXELS.features(images)

    def sample(labels, epsilon):
        assert torch.is_autocast_enabled("cpu")
        return torch.tanh(epsilon)

    task._extractor = lambda split: Extractor("_pixels", "pixels", features, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        task.evaluate({"": Predictor(None, sample=sample)})
    assert set(seen) == {False}


@pytest.mark.parametrize(("limit", "samples", "references"), [(None, 16, None), (1, 2, 2), (5, 5, 5), (40, 16, 40)])
def test_to_try_out_there_are_at_least_two_images_and_no_more_than_are_wanted(
    digits, tmp_path, limit, samples, references
):
    task = pixel_task(digits, tmp_path, {"data": {"max_evaluation_samples": limit}})
    assert (task.samples, task.reference_limit) == (samples, references)
