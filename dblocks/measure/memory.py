"""Memory of a training step by accounting: tensors with a shape and no content go through the real step.

Counted at the moment where a step holds most, between forward and backward: parameters, their gradients (of the step
before), AdamW's two moments, the weights' moving average where there is one, and what is saved for backward. What
lives within one operation (workspace, gradients of activations) is left out. Attention and dropout are counted as a
GPU's kernels have them: attention is one operation that saves q, k, v, output and log-sum-exp, dropout saves a mask
of one byte. Everything is float32.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_parameter_registration_hook

from dblocks.blocks import keep_block
from dblocks.build import build
from dblocks.data.prepared import PreparedData
from dblocks.measure.kernels import AsOnGPU
from dblocks.measure.made_up import made_up_data
from dblocks.measure.request import Request
from dblocks.measure.saved import Saved, saved_by_step
from dblocks.networks.layers import layers_of
from dblocks.record import Metric
from dblocks.spec import DiffusionBlocksSpec, RunSpec

MIB = 2**20
ISOLATED = {"method": {"embedders": "own", "target_table": "frozen"}}


@dataclass(frozen=True)
class Account:
    """Bytes of one training step, by what they are."""

    parameters: int
    gradients: int
    optimizer: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.average + self.activations


def accounting_spec(spec: RunSpec, samples: int) -> RunSpec:
    """The run as it is accounted: one pass of `samples`, blocks in turn, float32, on a CPU without a compiler."""
    fields: dict[str, Any] = {
        "compute": {"device": "cpu", "gpus": 1, "micro_batch": None, "precision": "fp32", "compile": "off"},
        "training": {"batch_size": samples},
    }
    if "attention" in type(spec.network).model_fields:
        fields["network"] = {"attention": "masked"}  # one call, as FlexAttention's on a GPU
    if isinstance(spec.method, DiffusionBlocksSpec) and spec.num_blocks > 1:
        fields["method"] = {"block_order": "turns"}
    return spec.changed(fields)


def build_without_numbers(spec: RunSpec, data: PreparedData) -> Any:
    """The method of a run, its weights tensors without content."""

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None  # registered as it is
        return nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(to_meta)
    try:
        method, _ = build(spec, data, torch.device("cpu"))
    finally:
        hook.remove()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for module in method.network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            with mode:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
            setattr(module, name, nn.Parameter(empty, parameter.requires_grad))
    return method


def size(parameters: Any) -> int:
    """Bytes of parameters."""
    return sum(p.numel() * p.element_size() for p in parameters)


def account(spec: RunSpec, network: nn.Module, activations: int) -> Account:
    """What a step takes that saved `activations` bytes; its gradients lie in `network`."""
    trained = size(p for p in network.parameters() if p.requires_grad)
    return Account(
        parameters=size(network.parameters()),
        gradients=size(p.grad for p in network.parameters() if p.grad is not None),
        optimizer=2 * trained,
        average=trained if spec.training.ema_half_life else 0,
        activations=activations,
    )


@dataclass(frozen=True)
class Part:
    """One network's step: its account, with activation checkpointing, of its layers alone; and what it saved."""

    account: Account
    checkpointed: Account
    layers: Account
    saved: Saved


def account_part(spec: RunSpec, method: Any, step: int = 0, fused_norm: bool = True) -> Part:
    """Run a step of a network without numbers and take its accounts; `fused_norm` as in kernels.py."""
    method.network.zero_grad(set_to_none=True)
    with AsOnGPU(fused_norm):
        saved = saved_by_step(method, step)
    return Part(
        account=account(spec, method.network, saved.total),
        checkpointed=account(spec, method.network, saved.checkpointed),
        layers=account(spec, nn.ModuleList(layers_of(method.network)), saved.in_layers),
        saved=saved,
    )


class Accountant:
    """Takes the accounts of one request; made-up data goes into `folder`."""

    def __init__(self, request: Request, folder: Path):
        self.folder = folder
        samples = request.settings.micro_batch or request.baseline.samples_at_once
        self.baseline = accounting_spec(request.baseline, samples)
        self.blocks = accounting_spec(request.spec, samples)
        # a network that is not cut is its one block as it is
        self.alone = self.blocks.changed(ISOLATED) if self.blocks.num_blocks > 1 else self.blocks
        self.data = made_up_data(self.blocks, folder / "data")

    def method(self, spec: RunSpec) -> Any:
        """A network without numbers, and how it is trained."""
        return build_without_numbers(spec, self.data)

    def baseline_has_adaln(self) -> bool:
        """Whether the baseline's layers are modulated as the blocks' are."""
        return layers_of(self.method(self.baseline).network)[0].modulation is not None

    def whole(self) -> Part:
        """The baseline."""
        return account_part(self.baseline, self.method(self.baseline))

    def resident(self) -> Part:
        """The block that takes most, in a network that is there as a whole."""
        method = self.method(self.blocks)
        found = [account_part(self.blocks, method, step) for step in range(self.blocks.num_blocks)]
        return max(found, key=lambda part: part.account.total)

    def one_block(self, plain_layers: bool = False) -> Part:
        """The block that takes most, alone, with embedders and head of its own and a frozen target table.

        Args:
            plain_layers: take AdaLN out of its layers.
        """
        found = []
        for step in range(self.alone.num_blocks):
            method = self.method(self.alone)
            if self.alone.num_blocks > 1:
                keep_block(method.network, step)
            for layer in layers_of(method.network) if plain_layers else ():
                layer.modulation = None
            found.append(account_part(self.alone, method, step))
        return max(found, key=lambda part: part.account.total)

    def peaks(self, device: torch.device) -> dict[str, int | None]:
        """What CUDA's allocator gives out at most in real steps of each way; None where that does not fit."""
        from dblocks.measure.allocated import allocated

        checkpointed = {"compute": {"checkpoint_activations": True}}
        block = 0 if self.alone.num_blocks > 1 else None
        ways = {
            "whole": (self.baseline, None),
            "whole_checkpointed": (self.baseline.changed(checkpointed), None),
            "resident": (self.blocks, None),
            "alone": (self.alone, block),
            "alone_checkpointed": (self.alone.changed(checkpointed), block),
        }
        return {way: allocated(spec, device, self.folder / f"real-{way}", block) for way, (spec, block) in ways.items()}


def decomposition(accountant: Accountant, whole: Part, alone: Part) -> dict[str, float]:
    """The reduction by one block alone, and what it becomes as its causes are taken away one after another.

    Each step keeps the ones before: layers without embeddings and head; block layers without AdaLN where the
    baseline's have none; activations of a sequence as long as the baseline's.
    """
    plain = alone if accountant.baseline_has_adaln() else accountant.one_block(plain_layers=True)
    shorter = plain.saved.in_layers * whole.saved.tokens / plain.saved.tokens
    same_sequence = plain.layers.total - plain.layers.activations + shorter
    return {
        "reduction_of_layers": whole.layers.total / alone.layers.total,
        "reduction_without_adaln": whole.layers.total / plain.layers.total,
        "reduction_at_equal_length": whole.layers.total / same_sequence,
    }


def measure(request: Request, device: torch.device) -> tuple[str, list[Metric]]:
    """Shape in words, and the accounts of five ways to train, with the gap between reduction and B taken apart."""
    with tempfile.TemporaryDirectory() as name:
        accountant = Accountant(request, Path(name))
        whole, alone, resident = accountant.whole(), accountant.one_block(), accountant.resident()
        ratios = decomposition(accountant, whole, alone)
        peaks = accountant.peaks(device) if device.type == "cuda" else {}
    ways = {
        "whole": whole.account,
        "whole_checkpointed": whole.checkpointed,
        "resident": resident.account,
        "alone": alone.account,
        "alone_checkpointed": alone.checkpointed,
    }
    batch = accountant.blocks.training.batch_size
    made = {"unit": "", "split": "made up", "samples": batch}
    metrics = []
    for way, found in ways.items():
        sizes = {**asdict(found), "total": found.total}
        if peaks.get(way) is not None:
            sizes["allocated"] = peaks[way]
        for part, value in sizes.items():
            metrics.append(Metric.measured(request.spec.data, f"{way}_{part}", value / MIB, **{**made, "unit": "MiB"}))
        ratios[f"{way}_reduction"] = whole.account.total / found.total
    ratios["blocks"] = request.spec.num_blocks
    ratios["share_of_blocks"] = ratios["alone_reduction"] / request.spec.num_blocks
    metrics += [Metric.measured(request.spec.data, name, value, **made) for name, value in ratios.items()]
    return f"{request.shape}, micro-batch {batch}", metrics
