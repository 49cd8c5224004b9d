"""What names a run and the arrays it reads: hashes of all that decides their content."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from dblocks.data.fingerprints import fingerprint
from dblocks.data.registry import is_spaced
from dblocks.spec import (
    IDENTITY_SECTIONS,
    AutoregressiveTextSpec,
    DataSpec,
    DiffusionBlocksSpec,
    RunSpec,
    SamplingSpec,
)
from dblocks.versions import COMPONENTS, versions_of


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 (hex) of it as canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def identity(spec: RunSpec) -> str:
    """SHA-256 (hex) over all that decides a run's numbers: spec sections, data fingerprint, code versions.

    Names, scale, seed, logging and resources do not count, so rows with equal settings share a run.
    """
    content = spec.model_dump(mode="json", include=set(IDENTITY_SECTIONS))
    if spec.compute.device == "cuda":
        del content["compute"]["threads"]  # no bit depends on it there
    del content["data"]["path"]  # the fingerprint says what is in it
    # added after the first runs were made: they count where they are set
    later = (
        (content, "generation", None),
        (content["augment"], "resized_crop", False),
        (content["training"], "ema_ramp", None),
        (content["training"], "optimizer", "adamw"),
        (content["network"], "mlp_dropout", True),
        (content["network"], "initial_deviation", None),
        (content["method"], "sigma_per", None),
        (content["method"], "target_deviation", 1.0),
        (content["compute"], "checkpoint_activations", False),
        (content["compute"], "gpus", 1),
    )
    for section, field, unset in later:
        if section.get(field, ...) == unset:
            del section[field]
    if spec.micro_batches == 1:  # likewise, and where it is not reached it cuts nothing
        del content["compute"]["micro_batch"]
    generation = content.get("generation", {})
    if (generation.get("extractor"), generation.get("test_resize")) == ("classifier", "clean"):
        del generation["test_resize"]  # Inception's alone
    if content["method"].get("schedule") == "sampled":
        del content["method"]["schedule"]
    content["fingerprint"] = data_fingerprint(spec.data)
    content["versions"] = code_versions(spec)
    return digest(content)


def code_versions(spec: RunSpec) -> dict[str, int]:
    """The versions of all code that a run's numbers depend on."""
    versions = versions_of(spec.task.name, spec.network.name, spec.method.name)
    if getattr(spec.method, "adaln", None) == "official":
        versions["network.adaln_official"] = COMPONENTS["network.adaln_official"]
    if isinstance(spec.method, DiffusionBlocksSpec) and spec.network.name == "llama":
        versions["network.llama_denoiser"] = COMPONENTS["network.llama_denoiser"]
    if is_spaced(spec.data.name):
        versions["data.detokenize"] = COMPONENTS["data.detokenize"]
    return versions


def weights_identity(spec: RunSpec) -> str:
    """SHA-256 (hex) over all that decides a run's weights: its identity without how it predicts, `method.sampling`."""
    method = spec.method
    if isinstance(method, DiffusionBlocksSpec):
        method = method.model_copy(update={"sampling": SamplingSpec()})
    return identity(spec.model_copy(update={"method": method}))


def data_fingerprint(data: DataSpec) -> str:
    """What names the exact content of a run's data.

    Of a user's own text as it is when this process first asks: a text that is edited or moved while a run trains on
    what was prepared of it changes neither the run's identity nor its end.
    """
    if data.path is None:
        return fingerprint(data.name, None, data.title)
    return _of_text(data.name, data.path, data.title)


@cache
def _of_text(name: str, path: str, title: str | None) -> str:
    return fingerprint(name, Path(path), title)


def data_key(data: DataSpec) -> str:
    """The folder of a prepared data set: its name, or title and hash8 of a user's own text.

    Of the title, what means nothing to file systems, shells and Snakemake's patterns; the hash tells texts apart.
    """
    title, _, digest = data_fingerprint(data).rpartition("-")
    return data.name if data.path is None else f"{re.sub(r'[^A-Za-z0-9_.-]', '-', title)}-{digest[:8]}"


def latents_fingerprint(spec: RunSpec) -> str:
    """What names the exact latents of a run: the images, and the autoencoder with its version."""
    latents = spec.generation.latents
    content = [
        data_fingerprint(spec.data),
        latents.autoencoder,
        latents.autoencoder_identity,
        COMPONENTS["data.latents"],
    ]
    return f"{data_fingerprint(spec.data)}-{digest(content)}"


def tokens_fingerprint(spec: RunSpec) -> str:
    """What names the exact tokens of a run: the text, and the tokenizer with the version of what is done with it."""
    content = [data_fingerprint(spec.data), spec.task.tokenizer, COMPONENTS["data.tokens"]]
    if is_spaced(spec.data.name):
        content.append(COMPONENTS["data.detokenize"])
    return f"{data_fingerprint(spec.data)}-{digest(content)}"


def training_fingerprint(spec: RunSpec) -> str:
    """What names the exact arrays a run trains on: its data set's, or their latents or tokens."""
    if isinstance(spec.task, AutoregressiveTextSpec):
        return tokens_fingerprint(spec)
    in_latents = spec.generation is not None and spec.generation.latents is not None
    return latents_fingerprint(spec) if in_latents else data_fingerprint(spec.data)


def training_key(spec: RunSpec) -> str:
    """The folder of the arrays a run trains on, as `data_key` for the data set itself."""
    fingerprint_ = training_fingerprint(spec)
    if fingerprint_ == data_fingerprint(spec.data):
        return data_key(spec.data)
    kind = spec.task.tokenizer if isinstance(spec.task, AutoregressiveTextSpec) else "latents"
    return f"{data_key(spec.data)}-{kind}-{fingerprint_.rpartition('-')[2][:8]}"


def run_name(spec: RunSpec) -> str:
    """<experiment>-<variant>-<hash8>, the folder of a run's seeds."""
    return f"{spec.experiment}-{spec.variant}-{identity(spec)[:8]}"


def wandb_id(spec: RunSpec) -> str:
    """The id of a run at W&B: the same however often it is exported, so it is never there twice."""
    return f"{spec.scale}-{run_name(spec)}-seed{spec.seed}"
