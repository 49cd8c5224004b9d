"""FID and KID: closed forms, and torch-fidelity's own road from images to numbers."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dblocks.data.files import sha256_of
from dblocks.errors import UserError
from dblocks.metrics import fid as fid_module
from dblocks.metrics.fid import Extractor, FeatureSet, clean_resize, feature_set, fid, inception, kid
from dblocks.metrics.torchvision_import import ensure_torchvision

CPU = torch.device("cpu")


def flat(images: torch.Tensor) -> torch.Tensor:
    """Pixels as features."""
    return images.float().flatten(1) / 100


PIXELS = Extractor("_classifier", "pixels", flat, CPU)


def images(count: int, seed: int, shift: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    return np.clip(draws.normal(100 + shift, 30, (count, 1, 3, 3)), 0, 255).astype(np.uint8)


def of(array: np.ndarray, size: int = 64) -> FeatureSet:
    return feature_set(PIXELS, [array[i : i + size] for i in range(0, len(array), size)])


def test_statistics_do_not_depend_on_batches():
    array = images(200, 0)
    whole, parts, features = of(array, 200), of(array, 7), flat(torch.from_numpy(array)).double().numpy()
    assert whole.count == parts.count == 200
    for found in (whole, parts):
        assert np.allclose(found.mean, features.mean(0), atol=1e-12)
        assert np.allclose(found.covariance, np.cov(features, rowvar=False), atol=1e-10)
    assert torch.equal(whole.kept, parts.kept)


def test_a_set_with_itself_is_at_distance_0():
    one = of(images(300, 0))
    assert fid(one, one) == pytest.approx(0, abs=1e-6)
    assert abs(kid(one, one, 20, 100)) < 0.05


def test_fid_is_the_closed_form_on_gaussian_features():
    """Commuting covariances: |μ − μ'|² + Σ (√λ − √λ')²; and N(0, I) against N(μ, c·I)."""
    draws = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(draws.normal(size=(6, 6)))
    first, second = draws.uniform(0.5, 4, 6), draws.uniform(0.5, 4, 6)
    means = draws.normal(size=(2, 6))
    sets = [
        FeatureSet(9, mean, rotation @ np.diag(values) @ rotation.T, torch.zeros(1, 6))
        for mean, values in zip(means, (first, second), strict=True)
    ]
    expected = ((means[0] - means[1]) ** 2).sum() + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert fid(*sets) == pytest.approx(expected, rel=1e-9)
    assert fid(*sets) == pytest.approx(fid(*reversed(sets)), rel=1e-9)


def test_fid_of_drawn_gaussians_approaches_it():
    draws = torch.Generator().manual_seed(0)
    table = torch.randn(40_000, 4, generator=draws)
    identity = Extractor("", "identity", lambda index: table[index.flatten().long()], CPU)
    half = np.arange(20_000).reshape(-1, 1, 1, 1)
    near = fid(feature_set(identity, [half]), feature_set(identity, [half + 20_000]))
    table[20_000:] = 2 * table[20_000:] + 3
    far = fid(feature_set(identity, [half]), feature_set(identity, [half + 20_000]))
    assert near < 0.01
    assert far == pytest.approx(4 * 9 + 4 * (2 - 1) ** 2, rel=0.02)


def test_more_different_sets_are_further_apart():
    real = of(images(300, 0))
    distances = [fid(of(images(300, 1, shift)), real) for shift in (0, 10, 40)]
    assert distances == sorted(distances)


def test_what_is_kept_for_kid_is_spread_over_a_large_set(monkeypatch):
    monkeypatch.setattr("dblocks.metrics.fid.KEPT_FEATURES", 30)
    array = images(100, 0)
    found = feature_set(PIXELS, [array[i : i + 7] for i in range(0, 100, 7)], 100)
    assert torch.equal(found.kept, flat(torch.from_numpy(array[::4])))


class Images(torch.utils.data.Dataset):
    """What torch-fidelity takes: bare uint8 tensors."""

    def __init__(self, array: np.ndarray):
        self.array = torch.from_numpy(array)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.array[index]


def test_numbers_are_those_of_torch_fidelitys_whole_road():
    ensure_torchvision()
    import torch_fidelity
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class PixelExtractor(FeatureExtractorBase):
        def __init__(self, name, features_list, **_):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return ("pixels",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "pixels"

        @staticmethod
        def can_be_compiled():
            return False

        @staticmethod
        def get_dummy_input_for_compile():
            return torch.zeros(1, 1, 3, 3, dtype=torch.uint8)

        def forward(self, input):
            return (flat(input),)

    torch_fidelity.register_feature_extractor("dblocks-pixels", PixelExtractor)
    one, other = images(300, 0), images(250, 1, 5)
    found = torch_fidelity.calculate_metrics(
        input1=Images(one), input2=Images(other), feature_extractor="dblocks-pixels", fid=True, kid=True,
        kid_subsets=20, kid_subset_size=100, rng_seed=0, cuda=False, cache=False, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    assert fid(of(one), of(other)) == pytest.approx(found["frechet_inception_distance"], rel=1e-4)
    assert kid(of(one), of(other), 20, 100) == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-4)


def test_one_image_has_no_covariance():
    with pytest.raises(ValueError, match="covariance"):
        of(images(1, 0))


def test_weights_that_are_not_inceptions_are_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"something else")
    with pytest.raises(UserError, match="6726825d"):
        inception(tmp_path / "w.pth", CPU)


@pytest.mark.parametrize("size", [(32, 32), (256, 256), (400, 310)])
def test_clean_resizing_is_pillows_channel_by_channel(size):
    """What clean-fid does: floats, bicubic, cut to [0, 255], not rounded."""
    array = np.random.default_rng(0).integers(0, 256, (2, 3, *size), dtype=np.uint8)
    array[0, :, : size[0] // 2] = 255  # an edge, beyond which the filter overshoots
    found = clean_resize(torch.from_numpy(array)).numpy()
    for image, own in zip(array, found, strict=True):
        for channel, resized in zip(image, own, strict=True):
            large = Image.fromarray(channel.astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
            assert np.abs(np.asarray(large).clip(0, 255) - resized).max() < 1e-2
    assert found.max() == 255 and (found != found.round()).any()


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """untrained(resize): Inception with weights that keep a signal's size through all layers, read from a file as the
    published ones are."""
    ensure_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path_factory.mktemp("inception") / "untrained.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        empty = io.BytesIO()
        torch.save({}, empty)
        empty.seek(0)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], empty)
        torch.manual_seed(0)
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)
        torch.save(network.state_dict(), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fid_module, "INCEPTION_SHA256", sha256_of(path)[:8])
        yield lambda resize: inception(path, CPU, resize)


def test_both_ways_to_resize_are_the_same_network(untrained):
    one, other = untrained("tensorflow"), untrained("clean")
    assert one.kind == other.kind == "" and one.name != other.name and "clean-fid" in other.name
    large = torch.randint(0, 256, (2, 3, 299, 299), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(one.features(large), other.features(large), atol=1e-5)
    small = large[:, :, :32, :32]
    assert one.features(small).shape == other.features(small).shape == (2, 2048)
    assert not torch.allclose(one.features(small), other.features(small), rtol=1e-3)
    gray = small[:, :1]
    assert torch.equal(other.features(gray), other.features(gray.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("resize", ["tensorflow", "clean"])
def test_an_images_features_do_not_depend_on_the_others_of_its_batch(untrained, resize):
    extractor = untrained(resize)
    two = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together, alone = extractor.features(two), extractor.features(two[:1])
    assert torch.allclose(together[:1], alone, rtol=1e-4, atol=1e-6)


def test_kid_takes_no_more_of_each_set_than_the_smaller_one_has():
    small, large = of(images(40, 0)), of(images(300, 1))
    for pair in ((small, large), (large, small)):
        assert kid(*pair, 5, 1000) == kid(*pair, 5, 40)
