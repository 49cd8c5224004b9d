"""What is made of a data set once for all runs: latents by a frozen autoencoder, tokens by a tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch

from dblocks.data.files import write_atomically
from dblocks.data.latents import encode
from dblocks.data.prepared import PreparedData
from dblocks.data.registry import dataset
from dblocks.errors import UserError
from dblocks.identity import data_fingerprint, latents_fingerprint, tokens_fingerprint
from dblocks.machine import set_up
from dblocks.networks.autoencoder import Autoencoder, Codec, PublishedAutoencoder
from dblocks.record import RECORD, read_record
from dblocks.run import read_spec
from dblocks.spec import AutoregressiveTextSpec, RunSpec
from dblocks.weights import weights_path


def load_codec(path: Path, device: torch.device) -> Codec:
    """The autoencoder behind a run's record.json, or behind the manifest of published weights.

    Raises: UserError if the weights are not there, or not what the record says.
    """
    if path.name != RECORD:
        return PublishedAutoencoder(weights_path(path)).to(device).eval()
    from dblocks.checkpoint import load_recorded

    record = read_record(path)
    if record.spec.network.name != "autoencoder":
        raise UserError(f"{path}: network {record.spec.network.name} is no autoencoder")
    network = Autoencoder(record.spec.network, dataset(record.spec.data.name).image_shape)
    load_recorded(network, path, record.weights)
    return network.to(device).eval()


def encode_data(spec_path: Path, images: Path, autoencoder: Path, folder: Path) -> Path:
    """Encode the images that the run of `spec_path` is to train on; returns the manifest's path."""
    spec, data = read_spec(spec_path), PreparedData(images.parent)
    if spec.generation is None or spec.generation.latents is None:
        raise UserError(f"{spec_path}: generation.latents: not set; this run trains on images as they are")
    data.must_be(data_fingerprint(spec.data))
    device = set_up(spec.compute)
    return encode(data, load_codec(autoencoder, device), latents_fingerprint(spec), folder, device)


def tokenizer_of(spec: RunSpec, path: Path) -> str:
    """The name of a run's tokenizer. Raises: UserError if it reads no tokens."""
    if not isinstance(spec.task, AutoregressiveTextSpec):
        raise UserError(f"{path}: task {spec.task.name} reads no tokens, so it has no tokenizer")
    return spec.task.tokenizer


def make_tokenizer(spec_path: Path, source: Path, output: Path) -> Path:
    """Write the tokenizer of the run of `spec_path` to `output`.

    Args:
        source: manifest of the prepared text it is trained on, or of a published one.
    """
    from dblocks.data.vocabulary import Vocabulary, train_vocabulary

    name = tokenizer_of(read_spec(spec_path), spec_path)
    if name.startswith("bpe"):
        return train_vocabulary(PreparedData(source.parent), int(name.removeprefix("bpe")), output)
    path = weights_path(source)
    Vocabulary(path)  # readable, or an error
    write_atomically(output, path.read_bytes())
    return output


def tokenize_data(spec_path: Path, text: Path, folder: Path) -> Path:
    """Tokenize the text that the run of `spec_path` is to train on; returns the manifest's path."""
    from dblocks.data.tokens import tokenize

    spec, data = read_spec(spec_path), PreparedData(text.parent)
    name = tokenizer_of(spec, spec_path)
    data.must_be(data_fingerprint(spec.data))
    return tokenize(data, name, tokens_fingerprint(spec), folder, progress=True)
