"""Made-up prepared data of a run's shapes, small: what a step takes does not depend on what is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dblocks.config import latent_shape
from dblocks.data.files import sha256_of
from dblocks.data.prepared import PreparedData, write_manifest
from dblocks.data.registry import ImageDataset, TextDataset, dataset
from dblocks.identity import training_fingerprint
from dblocks.spec import AutoregressiveTextSpec, RunSpec

BATCHES = 8  # of data, so that their order is drawn as in training


def made_up_data(spec: RunSpec, folder: Path) -> PreparedData:
    """Random arrays that a run of `spec` trains on, in the new `folder`: a few batches."""
    info, draws = dataset(spec.data.name), np.random.default_rng(0)
    folder.mkdir(parents=True)
    facts = None
    if isinstance(spec.task, AutoregressiveTextSpec):
        facts = tokens(spec, folder, draws)
    elif isinstance(info, TextDataset):
        text(spec, folder, draws)
    elif spec.generation is not None and spec.generation.latents is not None:
        facts = latents(spec, info, folder, draws)
    else:
        images(spec, info, folder, draws)
    write_manifest(folder, spec.data.name, training_fingerprint(spec), "made up", facts)
    return PreparedData(folder)


def images(spec: RunSpec, info: ImageDataset, folder: Path, draws: np.random.Generator) -> None:
    """Images and labels of every split."""
    count = BATCHES * spec.training.batch_size
    np.save(folder / "validation.npy", np.arange(count // 10))
    for split in ("train", "test"):
        np.save(folder / f"{split}_images.npy", draws.integers(0, 256, (count, *info.image_shape), dtype=np.uint8))
        np.save(folder / f"{split}_labels.npy", draws.integers(0, info.num_classes, count))


def latents(spec: RunSpec, info: ImageDataset, folder: Path, draws: np.random.Generator) -> dict[str, float]:
    """Latents and labels of the training split; returns the manifest's facts."""
    count = BATCHES * spec.training.batch_size
    channels, height, breadth = latent_shape(spec)
    moments = draws.random((count, 2 * channels, height, breadth), dtype=np.float32)
    np.save(folder / "train_latents_00000.npy", moments.astype(np.float16))
    np.save(folder / "train_labels.npy", draws.integers(0, info.num_classes, count))
    np.save(folder / "validation.npy", np.arange(count // 10))
    return {"rms": 1.0}


def tokens(spec: RunSpec, folder: Path, draws: np.random.Generator) -> dict[str, str]:
    """Tokens of every split and a tokenizer with as many; returns the manifest's facts."""
    from tokenizers import Tokenizer, models

    from dblocks.data.tokens import TOKENIZER
    from dblocks.data.vocabulary import END

    size, count = vocabulary_size(spec.task.tokenizer), BATCHES * spec.training.batch_size * spec.task.length
    for split in ("train", "validation", "test"):
        np.save(folder / f"{split}.npy", draws.integers(0, size, count, dtype=np.uint16))
    words = {END: 0, **{f"word{i}": i for i in range(1, size)}}
    Tokenizer(models.WordLevel(words, unk_token=END)).save(str(folder / TOKENIZER))
    return {"tokenizer_sha256": sha256_of(folder / TOKENIZER)}


def vocabulary_size(tokenizer: str) -> int:
    """Tokens of a tokenizer by its name in a spec: those published are Llama 2's or made like it."""
    return int(tokenizer.removeprefix("bpe")) if tokenizer.startswith("bpe") else 32000


def text(spec: RunSpec, folder: Path, draws: np.random.Generator) -> None:
    """Characters of every split."""
    count = BATCHES * spec.training.batch_size * spec.task.length
    for split in ("train", "validation", "test"):
        np.save(folder / f"{split}.npy", draws.integers(0, 27, count, dtype=np.uint8))
