"""Published weights: found in the data directory or downloaded, and named by a small manifest with their checksum."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from dblocks.data.download import announce, fetch
from dblocks.data.files import check_disk, expanded, one_line, sha256_of, write_atomically
from dblocks.data.origins import WEIGHTS, RemoteFile
from dblocks.errors import UserError

VAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
# repositories on the hub of language models read by transformers, and of tokenizers
LANGUAGE_MODELS = {
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "llama2": "meta-llama/Llama-2-7b-hf",
}
TOKENIZERS = {
    "llama2-tokenizer": "meta-llama/Llama-2-7b-hf",
    "tinyllama-tokenizer": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
}
FROM_HUB = LANGUAGE_MODELS | TOKENIZERS
# what is fetched of them: nothing that is a pickle
MODEL_FILES = ("config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json")


@dataclass(frozen=True)
class Manifest:
    """What results/weights/<name>.json says: the weights' name, file or folder, and checksum."""

    name: str
    path: Path
    sha256: str


def provide(name: str, data_dir: Path, manifest: Path) -> Path:
    """Find the weights `name` below `data_dir`, or download them there, and write their manifest.

    Raises: UserError naming where they were looked for and why they could not be fetched.
    """
    providers = {"inception": _inception, "sd-vae-ft-ema": _vae}
    providers |= dict.fromkeys(FROM_HUB, _from_hub)
    if name not in providers:
        raise UserError(f"weights: no '{name}'; there are {', '.join(providers)}")
    path = providers[name](expanded(data_dir, "data_dir") / name).resolve()
    content = {"name": name, "path": str(path), "sha256": checksum(path)}
    write_atomically(manifest, json.dumps(content, indent=1) + "\n")
    return manifest


def read_manifest(manifest: Path) -> Manifest:
    """What a manifest names, if its content is still the one it was written for."""
    try:
        content = json.loads(manifest.read_bytes())
        path, expected = Path(content["path"]), content["sha256"]
        found = checksum(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{manifest}: what it names cannot be read ({one_line(error)}); remove it to look again"
        ) from error
    if found != expected:
        raise UserError(f"{path}: sha256 is {found[:16]}…, {manifest} says {expected[:16]}…; remove that to look again")
    return Manifest(content["name"], path, found)


def weights_path(manifest: Path) -> Path:
    """The file or folder that a manifest names, checked as in `read_manifest`."""
    return read_manifest(manifest).path


def checksum(path: Path) -> str:
    """SHA-256 of a weight file; of a folder that of its one safetensors file, or of the list of all its safetensors
    files and its tokenizer with theirs."""
    if path.is_file():
        return sha256_of(path)
    files = sorted(path.glob("*.safetensors")) + sorted(path.glob("tokenizer.json"))
    if not files:
        raise FileNotFoundError(f"no safetensors file in {path}")
    if len(files) == 1:
        return sha256_of(files[0])
    return hashlib.sha256("".join(f"{sha256_of(file)}  {file.name}\n" for file in files).encode()).hexdigest()


def missing_files(folder: Path) -> list[str]:
    """What a folder lacks to be the tokenizer or language model of its name: tokenizer; configuration, weights
    (whole, or every shard)."""
    if folder.name in TOKENIZERS:
        return [] if (folder / "tokenizer.json").is_file() else ["tokenizer.json"]
    missing = [name for name in MODEL_FILES[:2] if not (folder / name).is_file()]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return missing + ([] if (folder / "model.safetensors").is_file() else ["model.safetensors"])
    try:
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
        outside = [shard for shard in shards if Path(shard).name != shard]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: not an index of weights ({one_line(error)}); get it again") from error
    if outside:  # the checksum is over the folder's files alone
        raise UserError(f"{index}: '{min(outside)}' is no file beside it; get it again")
    return missing + sorted(shard for shard in shards if not (folder / shard).is_file())


def is_here(name: str, data_dir: Path) -> bool:
    """Whether the weights `name` lie below `data_dir`, whole."""
    folder = expanded(data_dir, "data_dir") / name
    if name in FROM_HUB:
        return not missing_files(folder)
    if name == "inception":
        return any(folder.glob("*.pth"))
    return all((folder / file).is_file() for file in VAE_FILES)


def check_gate(name: str, data_dir: Path) -> None:
    """Raises: UserError if only a person can bring the weights `name` and they are not there, with ways to go on."""
    about, folder = WEIGHTS[name], expanded(data_dir, "data_dir") / name
    if about.gate == "manual" and (missing := missing_files(folder)):
        raise UserError(
            f"weights {name}: {about.licence}; then put {', '.join(missing)} into {folder} "
            f"(hf download {FROM_HUB[name]} --local-dir {folder}), or do without: {without(name)}"
        )


def without(name: str) -> str:
    """What to add to the command line to do without a language model or a tokenizer."""
    if name in LANGUAGE_MODELS:
        return f"--config skip=[{name}]"
    return (
        f"--config skip=[{name}], which leaves out what is trained on its tokens, or tinyllama-tokenizer in its place"
    )


def _from_hub(folder: Path) -> Path:
    """The folder of a language model, or a tokenizer's file, with what is missing downloaded from the hub unless a
    person must be granted it.

    Raises: UserError if the download fails, or the weights are not the published ones where their checksum is known.
    """
    name = folder.name
    check_gate(name, folder.parent)
    patterns = ["tokenizer.json"] if name in TOKENIZERS else list(MODEL_FILES)
    if missing_files(folder):
        from huggingface_hub import snapshot_download

        check_disk(folder, WEIGHTS[name].bytes)
        announce(name, f"{FROM_HUB[name]} on the hub", WEIGHTS[name].bytes, folder)
        try:
            snapshot_download(FROM_HUB[name], local_dir=os.fspath(folder), allow_patterns=patterns)
        except Exception as error:  # offline, refused, cut off: the client's libraries have an error each
            raise UserError(
                f"{name}: download from the hub failed ({one_line(error)}); "
                f"put {', '.join(missing_files(folder))} of {FROM_HUB[name]} into {folder}, "
                f"or do without: {without(name)}"
            ) from error
    if missing := missing_files(folder):
        raise UserError(f"{folder}: lacks {', '.join(missing)}; get them from {FROM_HUB[name]}")
    if name in TOKENIZERS:
        return folder / "tokenizer.json"
    expected = WEIGHTS[name].sha256
    if expected and (found := sha256_of(folder / "model.safetensors")) != expected:
        raise UserError(f"{folder / 'model.safetensors'}: sha256 is {found[:16]}…, the published one {expected[:16]}…")
    return folder


def _inception(folder: Path) -> Path:
    """The folder's first .pth file, else torch-fidelity's release of it, downloaded."""
    if found := sorted(folder.glob("*.pth")):
        return found[0]
    url = WEIGHTS["inception"].source
    file = RemoteFile(url.rpartition("/")[2], url, None, "sha256", None)  # metrics/fid.py checks the content
    folder.mkdir(parents=True, exist_ok=True)
    check_disk(folder, WEIGHTS["inception"].bytes)
    try:
        return fetch(file, folder / file.name, WEIGHTS["inception"].bytes)
    except UserError as error:
        raise UserError(
            f"{error}; or put the file into {folder}, or do without: "
            "--config override='{generation: {extractor: classifier}}'"
        ) from error


def _vae(folder: Path) -> Path:
    """The folder, with what is missing downloaded from the hub."""
    if is_here(folder.name, folder.parent):
        return folder
    from huggingface_hub import hf_hub_download

    check_disk(folder, WEIGHTS["sd-vae-ft-ema"].bytes)
    announce(folder.name, "stabilityai/sd-vae-ft-ema on the hub", WEIGHTS["sd-vae-ft-ema"].bytes, folder)
    try:
        for name in VAE_FILES:
            hf_hub_download("stabilityai/sd-vae-ft-ema", name, local_dir=os.fspath(folder))
    except Exception as error:  # offline, refused, cut off: the client's libraries have an error each
        raise UserError(
            f"sd-vae-ft-ema: download from the hub failed ({one_line(error)}); "
            f"put {' and '.join(VAE_FILES)} into {folder}"
        ) from error
    return folder
