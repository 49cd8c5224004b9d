"""A tiny GPT-2 with random weights and a tokenizer of its own, laid out like a published model's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TEXTS = ["the cat sat on the mat", "a dog ran after the cat", "the mat was on the floor and the dog slept"]


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.json, model.safetensors and tokenizer.json of a GPT-2 of two layers, awake enough to be far from
    uniform; read only."""
    import torch
    from tokenizers import ByteLevelBPETokenizer

    from dblocks.metrics.torchvision_import import ensure_torchvision

    ensure_torchvision()
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("models") / "gpt2-large"
    folder.mkdir()
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(TEXTS, vocab_size=300, show_progress=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=tokenizer.get_vocab_size(), n_positions=24, n_embd=16, n_layer=2, n_head=2)
    config.initializer_range = 0.3
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gpt2_manifest(gpt2_folder: Path) -> Path:
    """The manifest of that folder, as weights.provide would write it."""
    from dblocks.weights import checksum

    path = gpt2_folder.parent / "gpt2-large.json"
    content = {"name": "gpt2-large", "path": str(gpt2_folder), "sha256": checksum(gpt2_folder)}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="session")
def teacher(gpt2_manifest: Path):
    """That model as a teacher."""
    import torch

    from dblocks.metrics.teachers import published

    return published(gpt2_manifest, torch.device("cpu"))
