"""Batches for image generation, and a whole short run with its samples, picture and metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dblocks.build import build
from dblocks.config import resolve
from dblocks.data.prepared import PreparedData, write_manifest
from dblocks.errors import UserError
from dblocks.identity import identity
from dblocks.metrics.fid import Extractor
from dblocks.metrics.reference import reference_set
from dblocks.needs import Needs
from dblocks.record import read_record
from dblocks.report.grids import write_grid
from dblocks.spec import RunSpec
from dblocks.tasks.image_generation import ImageGeneration
from tests.test_golden import OVERRIDES, Workshop

CPU = torch.device("cpu")


def spec_of(**overrides) -> RunSpec:
    return resolve("dit_cifar10/end_to_end", "smoke", 0, overrides)


def task_of(digits, **overrides) -> ImageGeneration:
    return ImageGeneration(spec_of(**overrides), digits, CPU, Needs())


def test_targets_are_the_stored_images_in_minus_1_to_1(digits):
    batch = task_of(digits).batch(0)
    stored = {image.tobytes() for image in np.array(digits.array("train_images"))}
    grey = ((batch.targets + 1) * 127.5).round().to(torch.uint8).numpy()
    assert batch.targets.shape == (64, 1, 8, 8)
    assert batch.targets.min() == -1 and batch.targets.max() == 1
    assert all(image.tobytes() in stored for image in grey)


def test_a_batch_is_a_function_of_the_step(digits):
    one, two = task_of(digits), task_of(digits)
    two.batch(5)
    for step in (3, 40):
        first, second = one.batch(step), two.batch(step)
        assert torch.equal(first.inputs, second.inputs) and torch.equal(first.targets, second.targets)
    assert not torch.equal(one.batch(3).targets, one.batch(4).targets)


def test_a_tenth_of_the_labels_is_dropped_and_the_others_are_right(digits):
    task = task_of(digits)
    labels = np.array(digits.array("train_labels"))
    by_image = {image.tobytes(): label for image, label in zip(digits.array("train_images"), labels, strict=True)}
    dropped = right = total = 0
    for step in range(44):
        batch = task.batch(step)
        grey = ((batch.targets + 1) * 127.5).round().to(torch.uint8).numpy()
        dropped += int((batch.inputs == 10).sum())
        right += sum(int(by_image[g.tobytes()] == label) for g, label in zip(grey, batch.inputs.tolist(), strict=True))
        total += len(grey)
    assert right + dropped == total
    assert 0.08 < dropped / total < 0.12


def test_without_dropout_no_label_is_null(digits):
    task = task_of(digits, network={"label_dropout": 0.0})
    assert all((task.batch(step).inputs < 10).all() for step in range(10))


def test_sigma_data_by_name(digits):
    assert task_of(digits).sigma_data() == 0.5
    measured = task_of(digits, method={"noise": {"sigma_data": "data_rms"}}).sigma_data()
    images = np.array(digits.array("train_images")) / 127.5 - 1
    assert measured == pytest.approx(np.sqrt((images**2).mean()), rel=1e-5)


@pytest.mark.parametrize("name", ["embedding_rms"])
def test_sigma_data_of_embeddings_is_refused(name):
    with pytest.raises(Exception, match=name):
        spec_of(method={"noise": {"sigma_data": name}})


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_sampler_has_the_guidance_of_the_spec(digits, scale):
    method, _ = build(spec_of(generation={"guidance": scale}), digits, CPU)
    assert method.model.guidance == scale


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("run", ["dit_cifar10/diffusion_blocks", "dit_imagenet/diffusion_blocks"])
def test_a_short_run_records_all_it_takes_to_read_it(workshop, run):
    path = workshop.record(run)
    record = read_record(path)
    assert record.evaluations_per_block == [17, 16, 17]
    names = {metric.name for metric in record.metrics}
    assert names == {f"{m}_classifier_{s}" for m in ("fid", "kid") for s in ("train", "test")} | {"seconds_per_image"}
    found = record.metric("fid_classifier_test")
    assert (found.samples, found.reference, found.split) == (20, 360, "test")
    assert "classifier" in found.extractor and "weights-" in found.extractor
    assert found.value == min(found.values) and len(found.values) == 1
    assert record.metric("fid_classifier_train").reference == 1437
    assert record.metric("seconds_per_image").value > 0
    with Image.open(path.parent / "samples.png") as picture:
        assert picture.size[0] > 100
    with np.load(next(path.parent.glob("samples-*/0-*.npz"))) as kept:
        side = 8 if run.startswith("dit_cifar10") else 16
        assert kept["images"].shape == (20, 1, side, side) and kept["images"].dtype == np.uint8


def test_the_least_of_several_evaluations_counts_and_all_are_kept(workshop, monkeypatch):
    monkeypatch.setitem(OVERRIDES["generation"], "repeats", 3)
    found = read_record(Workshop(workshop.folder / "three").record("dit_cifar10/end_to_end")).metric(
        "fid_classifier_test"
    )
    assert len(set(found.values)) == 3
    assert found.value == min(found.values)
    assert found.mean == pytest.approx(sum(found.values) / 3)


def test_colour_images_go_the_same_way(tmp_path):
    """Data of CIFAR-10's shape: three channels, 256 tokens at the paper's patch."""
    draws = np.random.default_rng(0)
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}_images.npy", draws.integers(0, 256, (64, 3, 32, 32), dtype=np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", draws.integers(0, 10, 64))
    np.save(tmp_path / "validation.npy", np.arange(6))
    write_manifest(tmp_path, "cifar10", "cifar10-1", "random")
    spec = spec_of(data={"name": "cifar10"}, augment={"flip": 0.5}, training={"batch_size": 8})
    method, task = build(spec, PreparedData(tmp_path), CPU)
    assert task.batch(0).targets.shape == (8, 3, 32, 32)
    assert torch.isfinite(method.training_step(0).loss)
    with torch.no_grad():
        labels, epsilon = torch.arange(2), torch.randn(2, 3, 32, 32)
        assert method.predictors()[""].sample(labels, epsilon).shape == (2, 3, 32, 32)


def test_a_grid_shows_a_class_a_row(tmp_path):
    rows = {10 - n: np.full((n, 1, 8, 8), 25 * n, np.uint8) for n in (3, 2, 1)}
    write_grid(tmp_path / "grid.png", rows, ["σ: two", "lines"])
    with Image.open(tmp_path / "grid.png") as picture:
        pixels = np.array(picture)
    below = pixels[2 * 14 :, 28:]  # under the title, right of the classes' numbers
    assert [(below == grey).all(-1).sum() for grey in (75, 50, 25)] == [n * 32**2 for n in (3, 2, 1)]


@pytest.mark.parametrize("split", ["train", "fit", "test"])
def test_trying_out_compares_with_the_first_images_of_a_split_only(digits, split):
    task = task_of(digits, data={"max_evaluation_samples": 6})
    extractor = Extractor("_mean", "pixels", lambda images: images.flatten(1)[:, :3].float(), CPU)
    found, whole = (reference_set(extractor, digits, split, n) for n in (task.reference_limit, None))
    assert (task.samples, found.count) == (6, 6) and whole.count >= 360
    assert torch.equal(found.kept, whole.kept[:6])


def test_the_way_to_inceptions_size_counts_where_inception_judges():
    clean = resolve("dit_cifar10/end_to_end", "paper")
    other = resolve("dit_cifar10/end_to_end", "paper", 0, {"generation": {"test_resize": "tensorflow"}})
    assert clean.generation.test_resize == "clean" and identity(clean) != identity(other)
    with pytest.raises(UserError, match="test_resize is Inception's"):
        resolve("dit_cifar10/end_to_end", "smoke", 0, {"generation": {"test_resize": "tensorflow"}})


def test_only_the_evaluation_split_is_resized_as_by_clean_fid(digits, monkeypatch, tmp_path):
    (tmp_path / "weights.json").write_text("{}")
    monkeypatch.setattr("dblocks.weights.weights_path", lambda path: path)
    monkeypatch.setattr("dblocks.metrics.fid.inception", lambda path, device, resize: resize)
    for chosen in ("clean", "tensorflow"):
        task = task_of(digits, generation={"extractor": "inception", "test_resize": chosen})
        task.needs.paths["extractor"] = tmp_path / "weights.json"
        assert (task._extractor("train"), task._extractor("test")) == ("tensorflow", chosen)
