"""The layers of any network: what is compiled, checkpointed and accounted for one at a time."""

from __future__ import annotations

from torch import nn

from dblocks.networks.huginn import SandwichLayer
from dblocks.networks.transformer import TransformerLayer

Layer = TransformerLayer | SandwichLayer


def layers_of(network: nn.Module) -> list[Layer]:
    """A network's layers, each once; none of a network that is not made of them."""
    return [module for module in network.modules() if isinstance(module, Layer)]
