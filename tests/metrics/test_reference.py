"""Features of a split, kept where they are costly, and the trained classifier that extracts them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from dblocks.checkpoint import load_verified
from dblocks.data.prepared import PreparedData, write_manifest
from dblocks.errors import UserError
from dblocks.metrics import reference
from dblocks.metrics.fid import Extractor, FeatureSet
from dblocks.metrics.reference import classifier, reference_set
from dblocks.networks.vit import ViT
from dblocks.record import read_record
from dblocks.run import execute

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(digits_folder, tiny_spec, tmp_path_factory):
    """trained(method): the record of a ViT of three steps, with a dropout that one would see."""

    def make(method: str):
        folder = tmp_path_factory.mktemp(method)
        spec = tiny_spec(method, {"network": {"dropout": 0.5}, "training": {"max_steps": 3}})
        (folder / "spec.json").write_text(spec.model_dump_json())
        return execute(folder / "spec.json", digits_folder)

    return make


def test_the_classifiers_features_are_what_its_head_reads_of_normalised_images_without_dropout(trained, digits):
    path = trained("end_to_end")
    record, extractor = read_record(path), classifier(path, digits, CPU)
    pixels = np.array(digits.array("train_images"), dtype=np.float64) / 255
    images = np.array(digits.array("test_images"))[:50]
    normalised = torch.from_numpy((images / 255 - pixels.mean()) / pixels.std()).float()
    network = ViT(record.spec.network, (1, 8, 8), 10).eval()
    network.load_state_dict(load_verified(path.parent / record.weights)["network"])
    with torch.no_grad():
        found = extractor.features(torch.from_numpy(images))
        assert found.shape == (50, 16)
        assert torch.allclose(found, network.features(normalised), atol=1e-5)
    assert extractor.kind == "_classifier"
    accurate = f"{record.metric('accuracy').value:.1f} % accurate"
    assert extractor.name == f"digits classifier, {accurate} ({record.weights.removesuffix('.pt')})"


def test_a_run_that_was_not_trained_end_to_end_is_no_classifier(trained, digits):
    with pytest.raises(UserError, match="vit trained by diffusion_blocks; want a ViT"):
        classifier(trained("diffusion_blocks"), digits, CPU)


def equal(one: FeatureSet, other: FeatureSet) -> bool:
    statistics = (np.array_equal(a, b) for a, b in ((one.mean, other.mean), (one.covariance, other.covariance)))
    return one.count == other.count and all(statistics) and torch.equal(one.kept, other.kept)


@pytest.fixture
def own(digits_folder, tmp_path) -> PreparedData:
    """Digits in a folder to write into."""
    return PreparedData(shutil.copytree(digits_folder, tmp_path / "digits"))


def pixels(name: str = "pixels", power: int = 1) -> Extractor:
    return Extractor("", name, lambda images: images.flatten(1)[:, 18:22].float() ** power, CPU)


def forgetful(name: str = "pixels") -> Extractor:
    return Extractor("", name, lambda images: pytest.fail("extracted again"), CPU)


def test_what_is_costly_is_extracted_once_a_split_and_extractor(own, monkeypatch):
    monkeypatch.setattr(reference, "WORTH_KEEPING", 360)
    found = {split: reference_set(pixels(), own, split) for split in ("train", "test")}
    assert {split: made.count for split, made in found.items()} == {"train": 1437, "test": 360}
    for split, made in found.items():
        assert equal(reference_set(forgetful(), own, split), made)
    squares = reference_set(pixels("squares", 2), own, "test")
    assert not equal(squares, found["test"]) and equal(reference_set(forgetful("squares"), own, "test"), squares)
    assert len(list(own.folder.glob("reference-*.npz"))) == 3


def test_what_was_extracted_of_other_images_is_not_taken(own, monkeypatch):
    monkeypatch.setattr(reference, "WORTH_KEEPING", 360)
    before = reference_set(pixels(), own, "test")
    np.save(own.folder / "test_images.npy", 255 - np.array(own.array("test_images")))
    write_manifest(own.folder, own.name, own.fingerprint, "inverted")
    after = reference_set(pixels(), PreparedData(own.folder), "test")
    assert np.allclose(after.mean, 255 - before.mean)


def test_what_is_cheap_or_a_part_is_not_kept(own, monkeypatch):
    monkeypatch.setattr(reference, "WORTH_KEEPING", 361)
    reference_set(pixels(), own, "test")
    reference_set(pixels(), own, "train", limit=400)
    assert not list(own.folder.glob("reference-*.npz"))


@pytest.mark.parametrize("split", ["train", "fit", "validation"])
def test_a_limit_takes_the_first_images_of_a_split_over_several_batches(digits, split):
    limit = 100 if split == "validation" else reference.BATCH + 50
    found, whole = reference_set(pixels(), digits, split, limit), reference_set(pixels(), digits, split)
    assert found.count == limit and torch.equal(found.kept, whole.kept[:limit])
    assert np.allclose(found.mean, whole.kept[:limit].double().mean(0))
