"""Every random number is a function of (seed, stream, step): there is no generator state to save.

A run that is killed and started again draws the same numbers, and so do N processes that each
draw the whole batch and keep their share.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(*parts: int | str) -> int:
    """A 63-bit seed from any sequence of integers and names, the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A fresh generator on `device`, seeded by `derive(*parts)`."""
    import torch

    return torch.Generator(device).manual_seed(derive(*parts))
