"""Whether a run's data is what its task reads, and of a size that its network takes: asked before anything runs."""

from __future__ import annotations

from dblocks.data.registry import ImageDataset, TextDataset, dataset
from dblocks.errors import UserError
from dblocks.spec import AutoregressiveTextSpec, MaskedTextSpec, RunSpec
from dblocks.weights import LANGUAGE_MODELS, TOKENIZERS


def check_published(task: AutoregressiveTextSpec) -> None:
    """Raises: UserError if a tokenizer or a language model is named that is not known."""
    roles = task.needed_weights().items()
    named = [("features" if role == "features" else "teachers", name, LANGUAGE_MODELS) for role, name in roles]
    if not task.tokenizer.startswith("bpe"):
        named.append(("tokenizer", task.tokenizer, TOKENIZERS))
    for field, name, known in named:
        if name not in known:
            raise UserError(
                f"task.{field}: no published '{name}'; there are {', '.join(known)}, or "
                f"{'bpe<size>' if field == 'tokenizer' else 'an <experiment>/<variant> that trains one'}"
            )


def check_data_fits(spec: RunSpec) -> None:
    """Raises: UserError if the data set is none or not what the task reads."""
    info = dataset(spec.data.name)
    if isinstance(spec.task, AutoregressiveTextSpec):
        check_published(spec.task)
    if isinstance(spec.task, MaskedTextSpec):
        fits, wanted = isinstance(info, TextDataset) and info.kind == "characters", "characters"
    elif isinstance(spec.task, AutoregressiveTextSpec):
        fits, wanted = isinstance(info, TextDataset) and info.kind != "characters", "documents or sentences"
    else:
        fits, wanted = isinstance(info, ImageDataset), "images"
    if not fits:
        raise UserError(f"data.name: '{spec.data.name}' has no {wanted}, task {spec.task.name} needs some")


def check_tiles(spec: RunSpec, latents: tuple[int, int, int] | None) -> None:
    """Raises: UserError if patches do not tile what the network reads, or it cannot be halved as often as it is.

    Args:
        latents: [C, H, W] of what a run in latents reads; None for one that reads its data as it is.
    """
    info = dataset(spec.data.name)
    if not isinstance(info, ImageDataset):
        return
    kind, (_, height, width) = ("latents", latents) if latents else ("images", info.image_shape)
    field, tile = "patch_size", getattr(spec.network, "patch_size", 1)
    if spec.network.name == "autoencoder":
        field, tile = "layers", 2**spec.network.layers
    if height % tile or width % tile:
        power = f"2^{spec.network.layers} = " if field == "layers" else ""
        raise UserError(f"network.{field}: {power}{tile} does not divide {kind} of {height}×{width}")
