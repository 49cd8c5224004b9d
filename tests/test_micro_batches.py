"""A batch that goes through the network in parts takes the step of the whole batch, and the memory of a part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dblocks.build import build
from dblocks.config import resolve
from dblocks.data.prepared import PreparedData
from dblocks.errors import UserError
from dblocks.identity import identity
from dblocks.networks.layers import layers_of
from dblocks.spec import RunSpec
from dblocks.training import Trainer

RUNS = (
    "vit/end_to_end",
    "vit/diffusion_blocks",
    "dit_cifar10/diffusion_blocks",
    "mdm/end_to_end",
    "mdm/diffusion_blocks",
    "ar_lm1b/end_to_end",
    "ar_lm1b/diffusion_blocks",
    "huginn/diffusion_blocks",
    "huginn/recurrent_depth",
)
STEP = 3
AT_ONCE = 4  # samples; 16 or 64 make a batch at scale smoke


def spec_of(run: str, micro_batch: int | None, **compute: Any) -> RunSpec:
    """A run of smoke's size without dropout, nor clipping, which would hide gradients of another length."""
    over = {"compute": {"micro_batch": micro_batch, **compute}, "training": {"grad_clip": None}}
    dropout = {"network": {"dropout": 0.0}} if run.partition("/")[0] in ("vit", "mdm") else {}
    return resolve(run, "smoke", 0, over | dropout)


@pytest.fixture
def stepped(digits, austen, tokens_folder, tmp_path):
    """stepped(run, micro_batch): the loss of one step, its gradients by name, and samples per pass of each layer."""
    others = {"mdm": austen, "ar_lm1b": PreparedData(tokens_folder), "huginn": PreparedData(tokens_folder)}

    def step(run: str, micro_batch: int | None) -> tuple[float, dict[str, torch.Tensor], set[int]]:
        spec = spec_of(run, micro_batch)
        method, _ = build(spec, others.get(run.partition("/")[0], digits), torch.device("cpu"))
        with torch.no_grad():  # fresh adaLN-zero layers do nothing at all
            noise = torch.Generator().manual_seed(1)
            for parameter in method.network.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise))
        seen: set[int] = set()
        for layer in layers_of(method.network):
            layer.register_forward_pre_hook(lambda module, args: seen.add(len(args[0])))
        trainer = Trainer(spec, method, 10, tmp_path, torch.device("cpu"))
        trainer.train_step(STEP)
        ((_, made),) = trainer.buffer.entries
        gradients = {n: p.grad for n, p in method.network.named_parameters() if p.grad is not None}
        return made.loss.item(), gradients, seen

    return step


@pytest.mark.parametrize("run", RUNS)
def test_parts_of_a_batch_give_the_gradients_of_the_whole(run, stepped):
    loss, whole, at_once = stepped(run, None)
    parts_loss, parts, at_once_in_parts = stepped(run, AT_ONCE)
    assert parts_loss == pytest.approx(loss, rel=1e-5)
    assert parts.keys() == whole.keys()  # those of the active block, no others
    difference = sum((parts[name] - whole[name]).square().sum() for name in whole)
    assert difference <= 1e-8 * sum(gradient.square().sum() for gradient in whole.values())
    assert at_once == {spec_of(run, None).training.batch_size}
    assert at_once_in_parts == {AT_ONCE}


def test_it_names_a_run_where_it_cuts_something():
    whole = identity(resolve("vit/end_to_end", "smoke"))
    assert identity(spec_of("vit/end_to_end", None)) == identity(spec_of("vit/end_to_end", 64))
    assert identity(resolve("vit/end_to_end", "smoke", 0, {"compute": {"micro_batch": 4096}})) == whole
    assert identity(resolve("vit/end_to_end", "smoke", 0, {"compute": {"micro_batch": 32}})) != whole


def test_it_is_a_part_of_what_each_of_several_processes_takes():
    spec = spec_of("vit/end_to_end", 8, gpus=4)
    assert (spec.samples_at_once, spec.micro_batches) == (8, 2)


@pytest.mark.parametrize(
    ("run", "over", "message"),
    [
        ("vit/end_to_end", {"compute": {"micro_batch": 48}}, "micro_batch 48 does not divide training.batch_size 64"),
        (
            "vit/end_to_end",
            {"compute": {"micro_batch": 12, "gpus": 2}},
            "micro_batch 12 does not divide a process's share of training.batch_size 64, 32",
        ),
        ("vit/forward_forward", {"compute": {"micro_batch": 16}}, "cannot be trained on shares"),
        ("noprop/backprop", {"compute": {"micro_batch": 16}}, "cannot be trained on shares"),
        (
            "vit/diffusion_blocks",
            {"compute": {"micro_batch": 16}, "method": {"weighting": "official"}},
            "no mean over samples",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused(run, over, message):
    with pytest.raises(UserError, match=message):
        resolve(run, "smoke", 0, over)


def test_a_full_gpu_is_told_in_one_line_with_what_to_do(digits, tmp_path: Path, monkeypatch):
    spec = spec_of("vit/end_to_end", 16)
    method, _ = build(spec, digits, torch.device("cpu"))

    def full(drawn):  # what CUDA's allocator raises; there is no such GPU here to fill
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 GiB.")

    monkeypatch.setattr(method, "loss", full)
    with pytest.raises(UserError, match=r"no memory for 16 samples at once; set compute\.micro_batch to less"):
        Trainer(spec, method, 10, tmp_path, torch.device("cpu")).run()
