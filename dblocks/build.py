"""From a RunSpec and its data to the task, network and method that the loop trains."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from dblocks import seeds
from dblocks.blocks import keep_block
from dblocks.budget import baseline_steps, steps_per_epoch
from dblocks.data.prepared import PreparedData
from dblocks.errors import UserError
from dblocks.machine import compiles_blocks, wants_compile
from dblocks.masking import mask_partition
from dblocks.methods.backprop import Backprop
from dblocks.methods.contrastive_forward_forward import ContrastiveForwardForward
from dblocks.methods.diffusion_blocks import DiffusionBlocksMethod
from dblocks.methods.end_to_end import EndToEnd
from dblocks.methods.forward_forward import ForwardForward
from dblocks.methods.masked_diffusion import MaskedDiffusion
from dblocks.methods.next_token import NextToken
from dblocks.methods.noprop_ct import NoPropCT
from dblocks.methods.noprop_dt import NoPropDT
from dblocks.methods.noprop_fm import NoPropFM
from dblocks.methods.recurrent_denoising import RecurrentDenoising
from dblocks.methods.recurrent_depth import RecurrentDepth
from dblocks.methods.token_denoising import TokenDenoising
from dblocks.needs import Needs
from dblocks.networks.autoencoder import Autoencoder
from dblocks.networks.dit import DiTDenoiser
from dblocks.networks.huginn import Huginn
from dblocks.networks.huginn_denoiser import HuginnDenoiser
from dblocks.networks.layers import layers_of
from dblocks.networks.llama import Llama, LlamaDenoiser
from dblocks.networks.masked_lm import MaskedLM
from dblocks.networks.noprop_cnn import ClassEmbedding, NoPropDenoiser, NoPropNetwork, class_prototypes
from dblocks.networks.vit import ViT, ViTDenoiser
from dblocks.networks.vit_layerwise import LayerwiseViT
from dblocks.partition import block_layers, partition_of
from dblocks.spec import DiffusionBlocksSpec, HuginnSpec, RecurrentDepthSpec, RunSpec
from dblocks.tasks.autoregressive_text import AutoregressiveText
from dblocks.tasks.classification import Classification
from dblocks.tasks.image_generation import ImageGeneration
from dblocks.tasks.image_reconstruction import ImageReconstruction
from dblocks.tasks.masked_text import MASK, MaskedText


def build(
    spec: RunSpec, data: PreparedData, device: torch.device, needs: Needs | None = None, block: int | None = None
) -> tuple[Any, Any]:
    """(method, task) of a run, weights initialised as a function of the seed.

    Args:
        needs: what its evaluation reads besides the data.
        block: cut the network to this block before it goes to the device; its weights are those of the whole one.
    """
    makers = {
        "classification": build_classification,
        "masked_text": build_masked_text,
        "autoregressive_text": build_autoregressive_text,
        "image_generation": build_image_generation,
        "image_reconstruction": build_image_reconstruction,
    }
    method, task = makers[spec.task.name](spec, data, device, needs or Needs())
    if block is not None:
        keep_block(method.network, block)
        if hasattr(task, "batches"):
            task.batches.every = spec.num_blocks  # the other blocks' batches are for other jobs
    if not any(parameter.is_meta for parameter in method.network.parameters()):  # measure/memory.py holds no numbers
        method.network.to(device)
    if spec.compute.checkpoint_activations:
        checkpoint_layers(method.network, compiled=wants_compile(spec.compute, device))
    if wants_compile(spec.compute, device):
        compile_parts(spec, method, task, device)
    return method, task


def compile_parts(spec: RunSpec, method: Any, task: Any, device: torch.device) -> None:
    """Have a method's network compiled: layer by layer, so that all share one graph, and the loss; in training with
    `blocks` the whole way to the loss instead, a graph for each block."""
    if not spec.compute.checkpoint_activations:  # else they are, within what is run again
        for layer in layers_of(method.network):
            layer.compile()
    # a vocabulary's logits are the largest tensor of a step: fused, no copy of them in float32 is made
    for has_loss in (task, method.network):
        if hasattr(has_loss, "loss"):
            has_loss.loss = torch.compile(has_loss.loss)
    if compiles_blocks(spec, device):
        limit = torch._dynamo.config.recompile_limit
        torch._dynamo.config.recompile_limit = max(limit, 2 * spec.num_blocks)
        # of small kernels that do not wait for each other, several become one
        options: dict[str, Any] = {"combo_kernels": True} if device.type == "cuda" else {}
        # else a block's number would be made a variable
        method.loss = torch.compile(method.loss, dynamic=False, options=options)


def checkpoint_layers(network: torch.nn.Module, compiled: bool = False) -> None:
    """Have every layer keep only what it is given, and run again in backward; the numbers stay the same.

    Args:
        compiled: compile what is run again; around it PyTorch compiles nothing.
    """
    if not (layers := layers_of(network)):
        raise UserError(
            "compute.checkpoint_activations: the network has no `layers` that could run again; leave it out"
        )
    for layer in layers:
        forward = torch.compile(layer.forward) if compiled else layer.forward
        layer.forward = partial(checkpoint, forward, use_reentrant=False)


def build_masked_text(
    spec: RunSpec, data: PreparedData, device: torch.device, needs: Needs
) -> tuple[MaskedDiffusion, MaskedText]:
    """Masked diffusion: the baseline is one block of all layers."""
    task, method = MaskedText(spec, data, device), spec.method
    options = {}
    layers_per_block, overlap = (spec.network.layers,), 0.0
    if isinstance(method, DiffusionBlocksSpec):
        layers_per_block, overlap = block_layers(method, spec.network.layers), method.overlap
        options = {"embedders": method.embedders, "adaln": method.adaln}
    partition = mask_partition(spec.task.schedule, layers_per_block, overlap)
    torch.manual_seed(seeds.derive(spec.seed, "weights"))
    network = MaskedLM(spec.network, partition, MASK, **options)
    return MaskedDiffusion(spec, network, partition, task), task


def build_autoregressive_text(
    spec: RunSpec, data: PreparedData, device: torch.device, needs: Needs
) -> tuple[Any, AutoregressiveText]:
    """A language model that predicts the next token, or its layers cut into denoisers of tokens."""
    task, method = AutoregressiveText(spec, data, device, needs), spec.method
    torch.manual_seed(seeds.derive(spec.seed, "weights"))
    if isinstance(method, RecurrentDepthSpec):
        return RecurrentDepth(spec, Huginn(spec.network, task.vocabulary.size), task), task
    if isinstance(method, DiffusionBlocksSpec):
        partition = partition_of(method, spec.network.layers)
        if isinstance(spec.network, HuginnSpec):
            denoiser = HuginnDenoiser(spec.network, method, partition, task.vocabulary.size)
            return RecurrentDenoising(spec, denoiser, task), task
        network = LlamaDenoiser(spec.network, method, partition, task.vocabulary.size)
        return TokenDenoising(spec, network, task), task
    return NextToken(spec, Llama(spec.network, task.vocabulary.size), task), task


def build_image_generation(
    spec: RunSpec, data: PreparedData, device: torch.device, needs: Needs
) -> tuple[Any, ImageGeneration]:
    """A DiT cut into blocks; with one block it is the whole network, trained end to end."""
    task = ImageGeneration(spec, data, device, needs)
    torch.manual_seed(seeds.derive(spec.seed, "weights"))
    partition = partition_of(spec.method, spec.network.layers)
    parts = (partition, task.shape, task.info.num_classes, task.sigma_data())
    return DiffusionBlocksMethod(spec, DiTDenoiser(spec.network, spec.method, *parts), task), task


def build_image_reconstruction(
    spec: RunSpec, data: PreparedData, device: torch.device, needs: Needs
) -> tuple[Any, ImageReconstruction]:
    """A small autoencoder."""
    task = ImageReconstruction(spec, data, device)
    torch.manual_seed(seeds.derive(spec.seed, "weights"))
    return EndToEnd(Autoencoder(spec.network, task.info.image_shape), task), task


def build_classification(
    spec: RunSpec, data: PreparedData, device: torch.device, needs: Needs
) -> tuple[Any, Classification]:
    """A classifier, trained in any of the ways there are for its network."""
    task = Classification(spec, data, device)
    if spec.network.name == "noprop_cnn":
        return build_noprop(spec, task), task
    if spec.network.name != "vit":
        raise ValueError(f"network {spec.network.name} of task classification is built nowhere")
    shape, classes = task.info.image_shape, task.info.num_classes
    torch.manual_seed(seeds.derive(spec.seed, "weights"))
    match spec.method.name:
        case "end_to_end":
            method: Any = EndToEnd(ViT(spec.network, shape, classes), task)
        case "diffusion_blocks":
            partition = partition_of(spec.method, spec.network.layers)
            method = DiffusionBlocksMethod(
                spec, ViTDenoiser(spec.network, spec.method, partition, shape, classes), task
            )
        case "contrastive_forward_forward":
            network = LayerwiseViT(spec.network, shape, classes)
            method = ContrastiveForwardForward(spec, network, task, baseline_steps(spec))
        case "forward_forward":
            method = ForwardForward(spec, LayerwiseViT(spec.network, shape, classes, extra_tokens=1), task)
        case _:
            raise ValueError(f"method {spec.method.name} of network vit is built nowhere")
    return method, task


def build_noprop(spec: RunSpec, task: Classification) -> Any:
    """NoProp's CNN: one copy, or one for each step or noise interval."""
    shape, classes, method = task.info.image_shape, task.info.num_classes, spec.method
    prototypes = None
    if spec.network.embedding == "prototype":
        prototypes = class_prototypes(task.normalize(task.images).cpu(), task.labels.cpu(), classes)
    torch.manual_seed(seeds.derive(spec.seed, "weights"))
    embedding = ClassEmbedding(spec.network, classes, prototypes)

    def network(copies: int, timed: bool) -> NoPropNetwork:
        return NoPropNetwork(spec.network, copies, timed, shape, embedding)

    match method.name:
        case "diffusion_blocks":
            partition = partition_of(method, method.num_blocks)
            return DiffusionBlocksMethod(spec, NoPropDenoiser(spec.network, method, partition, shape, embedding), task)
        case "noprop_dt":
            sweep = min(steps_per_epoch(spec), baseline_steps(spec))  # a cut run reaches every block too
            return NoPropDT(spec, network(method.num_blocks, timed=False), task, sweep)
        case "noprop_ct":
            return NoPropCT(spec, network(1, timed=True), task)
        case "noprop_fm":
            return NoPropFM(spec, network(1, timed=True), task)
    return Backprop(spec, network(method.copies, timed=False), task)
