"""What one training step saves for backward, in bytes, by the layer that saves it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dblocks.networks.layers import layers_of

Storages = dict[int, torch.UntypedStorage]


def nbytes(storages: Storages) -> int:
    return sum(storage.nbytes() for storage in storages.values())


@dataclass
class Saved:
    """Storages saved for backward, each once however many tensors look at it; parameters are not among them.

    Attributes:
        outside: saved outside every layer.
        by_layer: saved inside a layer, by the order in which layers ran.
        inputs: of the layers.
        tokens: the sequence's length in the layers.
    """

    outside: Storages = field(default_factory=dict)
    by_layer: list[Storages] = field(default_factory=list)
    inputs: Storages = field(default_factory=dict)
    tokens: int = 0

    @property
    def in_layers(self) -> int:
        """Bytes saved inside layers."""
        return nbytes({key: storage for layer in self.by_layer for key, storage in layer.items()})

    @property
    def total(self) -> int:
        """Bytes saved."""
        return nbytes(self.outside | {key: storage for layer in self.by_layer for key, storage in layer.items()})

    @property
    def kept(self) -> int:
        """Bytes between forward and backward if each layer keeps only its inputs."""
        return nbytes(self.outside | self.inputs)

    @property
    def checkpointed(self) -> int:
        """Bytes saved if each layer keeps only its inputs and is run again in backward: those, and one layer's."""
        kept = self.outside | self.inputs
        again = [nbytes({k: s for k, s in layer.items() if k not in kept}) for layer in self.by_layer]
        return self.kept + max(again, default=0)


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors in nested arguments."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def saved_by_step(method: Any, step: int) -> Saved:
    """Run one training step of a method, forward and backward; returns what it saved."""
    saved, network = Saved(), method.network
    network.train()
    with _watching(network, saved):
        loss = method.training_step(step).loss
    loss.backward()
    return saved


@contextlib.contextmanager
def _watching(network: nn.Module, saved: Saved) -> Iterator[None]:
    """Note what is saved while the block runs."""
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    current: list[Storages] = [saved.outside]

    def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
        current.append({})
        saved.by_layer.append(current[-1])
        found = tensors_in((args, kwargs))
        saved.tokens = found[0].shape[1]
        if not torch.is_grad_enabled():  # iterations before the last few of recurrent depth keep nothing
            return
        saved.inputs.update({t.untyped_storage()._cdata: t.untyped_storage() for t in found})

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        current.pop()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            current[-1][storage._cdata] = storage
        return tensor

    layers = layers_of(network)
    hooks = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    hooks += [layer.register_forward_hook(leave) for layer in layers]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
    finally:
        for hook in hooks:
            hook.remove()
