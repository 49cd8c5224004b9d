"""FID and KID by torch-fidelity, over features of Inception 2015 or of a classifier trained here.

Metric names tell the features: `fid` and `kid` for Inception's, `fid_classifier` and `kid_classifier` for a
substitute's, which only shows trends. Images are uint8 [N, C, H, W]; features [N, D].
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dblocks.checkpoint import read_tensors
from dblocks.data.files import sha256_of
from dblocks.errors import UserError
from dblocks.metrics.torchvision_import import ensure_torchvision

KEPT_FEATURES = 50_000  # of one set, for KID; FID's statistics take every image
INCEPTION_SHA256 = "6726825d"  # first digits, from the published file's name


@dataclass
class Extractor:
    """Features of images: `kind` is fid's suffix ("" or "_classifier"), `name` tells origin and checksum."""

    kind: str
    name: str
    features: Callable[[Tensor], Tensor]
    device: torch.device


@dataclass
class FeatureSet:
    """Statistics over all `count` features of a set, float64, and some of the features, spread over it."""

    count: int
    mean: np.ndarray
    covariance: np.ndarray
    kept: Tensor


def inception(weights: Path, device: torch.device, resize: str = "tensorflow") -> Extractor:
    """torch-fidelity's Inception 2015, 2,048 features after the last pooling.

    Args:
        resize: how images come to 299 pixels: `tensorflow`, as within the network of 2015 and so in the ADM suite, or
            `clean`, as clean-fid does it.
    Raises: UserError if the weights are not the published ones, by the checksum in their file's name (eight digits,
        which someone who wants to can meet), or hold anything else than tensors.
    """
    digest = sha256_of(weights)
    if not digest.startswith(INCEPTION_SHA256):
        raise UserError(
            f"{weights}: sha256 is {digest[:8]}…, Inception's weights have {INCEPTION_SHA256}…; get it again"
        )
    ensure_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity unpickles whatever its file holds: it is handed one that was written here, of tensors alone
    tensors = io.BytesIO()
    torch.save(_tensors_of(weights), tensors)
    tensors.seek(0)
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], tensors).to(device).eval()

    # its layers lie in the order in which they are run, what maps images to pixels of [-1, 1] aside
    layers = nn.Sequential(*(layer for name, layer in network.named_children() if name != "fc"), nn.Flatten())

    def features(images: Tensor) -> Tensor:
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        return network(images)[0] if resize == "tensorflow" else layers((clean_resize(images) - 128) / 128)

    how = ", resized as by clean-fid" if resize == "clean" else ""
    return Extractor("", f"Inception 2015 ({digest[:8]}){how}", features, device)


def clean_resize(images: Tensor, size: int = 299) -> Tensor:
    """Images [N, C, size, size], float32 in [0, 255], by Pillow's bicubic filter on each channel, and not rounded after
    it, as clean-fid resizes (GaParmar/clean-fid, resize.py; Parmar et al. 2022)."""
    # antialias: Pillow's kernel, which widens where it shrinks; without, PyTorch's is another
    large = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True, align_corners=False)
    return large.clamp(0, 255)


def _tensors_of(weights: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(weights.read_bytes())
    except ValueError as error:
        raise UserError(f"{weights}: {error}; get it again") from error


@torch.no_grad()
def feature_set(extractor: Extractor, batches: Iterable[np.ndarray], images: int = 0) -> FeatureSet:
    """Features of all images of `batches`, uint8 [n, C, H, W] each, reduced as they come.

    Args:
        images: how many there will be, where they may be more than are kept.
    """
    count, total, outer, kept = 0, 0.0, 0.0, []
    stride = max(1, math.ceil(images / KEPT_FEATURES))
    for batch in batches:
        features = extractor.features(torch.from_numpy(np.array(batch)).to(extractor.device)).double()
        kept.append(features[-count % stride :: stride].float().cpu())
        count, total, outer = count + len(features), total + features.sum(0), outer + features.T @ features
    if count < 2:
        raise ValueError(f"{count} images have no covariance")
    mean = total / count
    covariance = (outer - count * torch.outer(mean, mean)) / (count - 1)
    return FeatureSet(count, mean.cpu().numpy(), covariance.cpu().numpy(), torch.cat(kept))


def fid(one: FeatureSet, other: FeatureSet) -> float:
    """Fréchet distance of the two Gaussians (Heusel et al. 2017): |μ − μ'|² + tr(Σ + Σ' − 2(ΣΣ')^½)."""
    ensure_torchvision()
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    statistics = [{"mu": part.mean, "sigma": part.covariance} for part in (one, other)]
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def kid(one: FeatureSet, other: FeatureSet, subsets: int, subset_size: int) -> float:
    """Mean over subsets of the unbiased squared MMD with a cubic kernel (Bińkowski et al. 2018)."""
    ensure_torchvision()
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = min(subset_size, len(one.kept), len(other.kept))
    options = {"kid_subsets": subsets, "kid_subset_size": size, "rng_seed": 0, "verbose": False}
    return kid_features_to_metric(one.kept, other.kept, **options)[KEY_METRIC_KID_MEAN]
