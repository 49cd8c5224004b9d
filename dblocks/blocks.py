"""One block of a network by itself: its own parameters, what it shares with the others, and the network cut to it.

A network in blocks has `embedders` and `heads`, one or one a block, `layers` and a `partition`; whatever else holds
parameters (a table of targets) is shared by all blocks.
"""

from __future__ import annotations

import re

from torch import nn

PART = re.compile(r"(embedders|heads|layers)\.(\d+)\.")


def owner_of(network: nn.Module, name: str) -> int | None:
    """The block that the parameter or buffer `name` belongs to; None: all of them."""
    match = PART.match(name)
    if match is None:
        return None
    part, index = match[1], int(match[2])
    if part == "layers":
        blocks = range(network.partition.num_blocks)
        return next(block for block in blocks if index in network.partition.layers(block))
    return None if len(getattr(network, part)) == 1 else index


def keep_block(network: nn.Module, block: int) -> None:
    """Cut `network` to one block: layers, embedders and heads of the others are replaced by nothing."""
    for part in ("embedders", "heads", "layers"):
        modules = getattr(network, part)
        for index in range(len(modules)):
            if owner_of(network, f"{part}.{index}.") not in (block, None):
                modules[index] = nn.Identity()
