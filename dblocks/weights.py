"""Published weights: found in the data directory or downloaded, and named by a small manifest with their checksum."""

from __future__ import annotations

import json
import os
from pathlib import Path

from dblocks.data.files import check_disk, one_line, sha256_of, write_atomically
from dblocks.data.origins import WEIGHTS, RemoteFile
from dblocks.errors import UserError

VAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


def provide(name: str, data_dir: Path, manifest: Path) -> Path:
    """Find the weights `name` below `data_dir`, or download them there, and write their manifest.

    Raises: UserError naming where they were looked for and why they could not be fetched.
    """
    providers = {"inception": _inception, "sd-vae-ft-ema": _vae}
    if name not in providers:
        raise UserError(f"weights: no '{name}'; there are {', '.join(providers)}")
    path = providers[name](data_dir.expanduser() / name).resolve()
    file = path if path.is_file() else path / VAE_FILES[1]
    write_atomically(
        manifest, json.dumps({"name": name, "path": str(path), "sha256": sha256_of(file)}, indent=1) + "\n"
    )
    return manifest


def weights_path(manifest: Path) -> Path:
    """The file or folder that a manifest names, if its content is still the one it was written for."""
    try:
        content = json.loads(manifest.read_text())
        path, expected = Path(content["path"]), content["sha256"]
        found = sha256_of(path if path.is_file() else path / VAE_FILES[1])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{manifest}: what it names cannot be read ({one_line(error)}); remove it to look again"
        ) from error
    if found != expected:
        raise UserError(f"{path}: sha256 is {found[:16]}…, {manifest} says {expected[:16]}…; remove that to look again")
    return path


def _inception(folder: Path) -> Path:
    """The one .pth file of the folder, or torch-fidelity's own download."""
    if found := sorted(folder.glob("*.pth")):
        return found[0]
    from dblocks.data.download import fetch

    url = WEIGHTS["inception"].source.partition(" ")[0]
    file = RemoteFile(url.rpartition("/")[2], url, None, "sha256", None)  # metrics/fid.py checks the content
    folder.mkdir(parents=True, exist_ok=True)
    check_disk(folder, WEIGHTS["inception"].bytes)
    try:
        return fetch(file, folder / file.name)
    except UserError as error:
        raise UserError(
            f"{error}; or put the file into {folder}, or do without: "
            "--config override='{generation: {extractor: classifier}}'"
        ) from error


def _vae(folder: Path) -> Path:
    """The folder, with what is missing downloaded from the hub."""
    if all((folder / name).is_file() for name in VAE_FILES):
        return folder
    from huggingface_hub import hf_hub_download

    check_disk(folder, WEIGHTS["sd-vae-ft-ema"].bytes)
    try:
        for name in VAE_FILES:
            hf_hub_download("stabilityai/sd-vae-ft-ema", name, local_dir=os.fspath(folder))
    except Exception as error:  # offline, refused, cut off: the client's libraries have an error each
        raise UserError(
            f"sd-vae-ft-ema: download from the hub failed ({one_line(error)}); "
            f"put {' and '.join(VAE_FILES)} into {folder}"
        ) from error
    return folder
