"""Features of a data set's split, computed once where they are costly, and the trained classifier as extractor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dblocks.data.files import save_atomically
from dblocks.data.prepared import PreparedData
from dblocks.errors import UserError
from dblocks.metrics.fid import Extractor, FeatureSet, feature_set
from dblocks.record import read_record
from dblocks.tasks.arrays import split_indices

BATCH = 250
WORTH_KEEPING = 20_000  # images; fewer are computed anew faster than they are found


def batches(images: np.ndarray, chosen: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """`images` [N, C, H, W], or the chosen of them, a few at a time."""
    count = len(images) if chosen is None else len(chosen)
    for start in range(0, count, BATCH):
        yield images[start : start + BATCH] if chosen is None else images[chosen[start : start + BATCH]]


def reference_set(extractor: Extractor, data: PreparedData, split: str, limit: int | None = None) -> FeatureSet:
    """Features of train, fit, validation or test; large ones are kept beside the data, under their extractor's name.

    Args:
        limit: take the first so many images only, to try things out.
    """
    chosen = split_indices(data, split)
    images = data.array("test_images" if split == "test" else "train_images")
    if limit is not None:
        first = images[:limit] if chosen is None else images[chosen[:limit]]
        return feature_set(extractor, batches(first), len(first))
    key = hashlib.sha256(f"{data.checksum()} {extractor.name} {split}".encode()).hexdigest()[:16]
    path = data.folder / f"reference-{key}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            return FeatureSet(int(kept["count"]), kept["mean"], kept["covariance"], torch.from_numpy(kept["kept"]))
    found = feature_set(extractor, batches(images, chosen), len(images) if chosen is None else len(chosen))
    if found.count >= WORTH_KEEPING:
        arrays = {"count": np.array(found.count), "mean": found.mean, "covariance": found.covariance}
        save_atomically(path, lambda file: np.savez(file, **arrays, kept=found.kept.numpy()))
    return found


def classifier(record_path: Path, data: PreparedData, device: torch.device) -> Extractor:
    """The run of `record_path`, a ViT trained end to end on the same data set, as extractor: what its head reads.

    Raises: UserError if it is another kind of run, or its weights are not what the record says.
    """
    from dblocks.build import build
    from dblocks.checkpoint import load_recorded

    record = read_record(record_path)
    if (record.spec.network.name, record.spec.method.name) != ("vit", "end_to_end"):
        raise UserError(f"{record_path}: a {record.spec.network.name} trained by {record.spec.method.name}; want a ViT")
    method, task = build(record.spec, data, device)
    load_recorded(method.network, record_path, record.weights)
    network = method.network.eval()
    accuracy = record.metric("accuracy")
    name = (
        f"{record.spec.data.label} classifier, {accuracy.value:.1f} % accurate ({record.weights.removesuffix('.pt')})"
    )
    return Extractor("_classifier", name, lambda images: network.features(task.normalize(images)), device)
