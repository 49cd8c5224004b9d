"""Precision and compilation change how a step is computed, not what."""

from pathlib import Path

import pytest
import torch

from dblocks.budget import total_steps
from dblocks.build import build, checkpoint_layers
from dblocks.config import resolve
from dblocks.errors import UserError
from dblocks.machine import WITHOUT_CUDNN, autocast, set_up
from dblocks.networks.layers import layers_of
from dblocks.spec.budget import ComputeSpec
from dblocks.training import Trainer

RUNS = ("vit/end_to_end", "vit/diffusion_blocks")


def losses(run: str, digits, folder: Path, steps: int = 4, **compute) -> list[float]:
    """Losses of the first steps under the given compute options."""
    spec = resolve(run, "smoke", 0, {"compute": {"device": "cpu", **compute}})
    method, _ = build(spec, digits, torch.device("cpu"))
    trainer = Trainer(spec, method, total_steps(spec), folder, torch.device("cpu"))
    for step in range(steps):
        trainer.train_step(step)
    return [entry.loss.item() for _, entry in trainer.buffer.entries]


@pytest.mark.parametrize("run", RUNS)
def test_bf16_is_used_and_agrees_with_fp32(run, digits, tmp_path):
    fp32, bf16 = losses(run, digits, tmp_path), losses(run, digits, tmp_path, precision="bf16")
    assert bf16 != fp32
    assert bf16 == pytest.approx(fp32, rel=0.05)


def test_autocast_is_off_on_cpu_by_default():
    spec = resolve("vit/end_to_end", "smoke")
    with autocast(spec.compute, torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.slow
def test_blocks_are_compiled_once_each_and_agree_with_eager_ones(digits, tmp_path):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    run = "vit/diffusion_blocks"
    compiled = losses(run, digits, tmp_path, steps=12, compile="blocks")
    assert compiled == pytest.approx(losses(run, digits, tmp_path, steps=12), rel=1e-4)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 3, "one a block, however they alternate"
    assert not counters["graph_break"] and not counters["recompiles"]


@pytest.mark.slow
def test_layers_that_run_again_are_compiled_too(digits, tmp_path):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    run = "vit/diffusion_blocks"
    compiled = losses(run, digits, tmp_path, compile="on", checkpoint_activations=True)
    assert compiled == pytest.approx(losses(run, digits, tmp_path), rel=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_compiled_layers_agree_with_eager_ones(run, digits, tmp_path):
    compiled = losses(run, digits, tmp_path, compile="on")
    assert compiled == pytest.approx(losses(run, digits, tmp_path), rel=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


class Own(torch.nn.Module):
    """A network that somebody else has written, of PyTorch's own layers."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0) for _ in range(2))
        self.layers.append(torch.nn.Identity())  # what a cut leaves of the layers of other blocks

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_layers_of_any_kind_can_run_again():
    network, x = Own(), torch.randn(3, 5, 8, requires_grad=True)
    (before,) = torch.autograd.grad(network(x).square().sum(), x)
    assert layers_of(network) == list(network.layers)[:2]
    checkpoint_layers(network)
    runs = []
    network.layers[0].linear1.register_forward_hook(lambda *_: runs.append(1))
    (after,) = torch.autograd.grad(network(x).square().sum(), x)
    assert torch.equal(before, after) and len(runs) == 2


def test_a_network_without_a_list_of_layers_cannot():
    with pytest.raises(UserError, match="checkpoint_activations"):
        checkpoint_layers(torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_graphs_compiled_with_cudnns_attention_are_not_found_again(monkeypatch):
    monkeypatch.setattr(torch.compiler.config, "cache_key_tag", "somebody's")
    for _ in range(2):
        set_up(ComputeSpec(device="cpu"))
    assert torch.compiler.config.cache_key_tag == "somebody's" + WITHOUT_CUDNN
