"""The layers of any network: what is compiled, checkpointed and accounted for one at a time."""

from __future__ import annotations

from torch import nn


def layers_of(network: nn.Module) -> list[nn.Module]:
    """What a network has in its list `layers`, without what a cut to one block left out; none of one without a list."""
    return [layer for layer in getattr(network, "layers", ()) if not isinstance(layer, nn.Identity)]
