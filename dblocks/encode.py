"""A run's frozen autoencoder, and the job that encodes a data set with it once for all runs."""

from __future__ import annotations

from pathlib import Path

import torch

from dblocks.data.latents import encode
from dblocks.data.prepared import PreparedData
from dblocks.data.registry import dataset
from dblocks.errors import UserError
from dblocks.identity import data_fingerprint, latents_fingerprint
from dblocks.machine import pick_device
from dblocks.networks.autoencoder import Autoencoder, Codec, PublishedAutoencoder
from dblocks.record import RECORD, read_record
from dblocks.run import read_spec
from dblocks.weights import weights_path


def load_codec(path: Path, device: torch.device) -> Codec:
    """The autoencoder behind a run's record.json, or behind the manifest of published weights.

    Raises: UserError if the weights are not there, or not what the record says.
    """
    if path.name != RECORD:
        return PublishedAutoencoder(weights_path(path)).to(device).eval()
    from dblocks.checkpoint import load_verified

    record = read_record(path)
    network = Autoencoder(record.spec.network, dataset(record.spec.data.name).image_shape)
    try:
        network.load_state_dict(load_verified(path.parent / record.weights, device)["network"])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: its weights cannot be read: {error}") from error
    return network.to(device).eval()


def encode_data(spec_path: Path, images: Path, autoencoder: Path, folder: Path) -> Path:
    """Encode the images that the run of `spec_path` is to train on; returns the manifest's path."""
    spec, data = read_spec(spec_path), PreparedData(images.parent)
    if data.fingerprint != (wanted := data_fingerprint(spec.data)):
        raise UserError(f"{data.folder}: holds {data.fingerprint}, this run wants {wanted}; prepare it again")
    device = pick_device(spec.compute)
    torch.set_num_threads(spec.compute.threads)
    return encode(data, load_codec(autoencoder, device), latents_fingerprint(spec), folder, device)
