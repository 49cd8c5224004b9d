"""What a DiT's sampler takes in operations a step: the whole network's against those of the block that owns the step.

The paper claims B times less: one block runs a denoising step, 1/B of the layers (Table 8's "relative
speed"). Here embedders and head, which every block runs, are counted too; see operations.py for what is an operation.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from dblocks.config import latent_shape
from dblocks.data.registry import dataset
from dblocks.diffusion_blocks import DiffusionBlocks
from dblocks.measure.request import Request
from dblocks.networks.dit import DiTDenoiser
from dblocks.partition import partition_of
from dblocks.record import Metric
from dblocks.spec import RunSpec

GIGA = 10**9


def denoising_step(spec: RunSpec) -> float:
    """Operations of one sample's denoising step, the mean over the steps of its sampler; without guidance, which
    doubles any of them."""
    info, partition = dataset(spec.data.name), partition_of(spec.method, spec.network.layers)
    shape = info.image_shape if spec.generation.latents is None else latent_shape(spec)
    with torch.device("meta"):
        network = DiTDenoiser(spec.network, spec.method, partition, shape, info.num_classes)
        z, sigma, label = torch.zeros(1, *shape), torch.ones(1), torch.zeros(1, dtype=torch.int64)
    total, runs = 0, DiffusionBlocks(network, spec.method).evaluations_per_block()
    for block, times in enumerate(runs):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network.denoise(block, z, sigma, label)
        total += times * counter.get_total_flops()
    return total / sum(runs)


def measure(request: Request, device: torch.device) -> tuple[str, list[Metric]]:
    """Shape in words, and a step's operations, whole and in blocks, with their ratio."""
    spec = request.spec
    whole, block = denoising_step(request.baseline), denoising_step(spec)
    values = {}
    for prefix, operations in (("whole_", whole), ("", block)):
        values[f"{prefix}operations"] = operations / GIGA, "10^9 operations"
        values[f"{prefix}step_reduction"] = whole / operations, ""
    return request.shape, [
        Metric.measured(spec.data, name, value, unit=unit, split="made up", samples=1)
        for name, (value, unit) in values.items()
    ]
