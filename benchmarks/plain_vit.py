"""The paper's ViT and one of its blocks, as trained here, against plain eager PyTorch without anything of this project.

    python -m benchmarks.plain_vit [--device cpu|cuda] [--rounds N] [--batch N] [--out FILE]

The plain ones are PyTorch's own layers, its AdamW, clipping and schedule, in a loop of a few lines; both get the same
batches, on a GPU made before, do without cuDNN's attention and keep the memory they free. Rounds of
the two alternate, so that a drifting machine meets both alike. On a CPU it is the process's own time that counts, on a
GPU the wall's. A ratio above 1: plain PyTorch takes longer. Prints one JSON object with device and n.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sampling_time import clock
from benchmarks.step_time import summary
from dblocks.config import resolve
from dblocks.machine import autocast, describe
from dblocks.measure.wall_time import make_trainer
from dblocks.spec import RunSpec
from dblocks.training import Trainer

WIDTH, HEADS, HIDDEN, DROPOUT, PATCH, CLASSES = 128, 4, 3072, 0.1, 4, 100
WARM_UP = {"cpu": 1, "cuda": 8}


class PlainViT(nn.Module):
    """[CLS] and patches through PyTorch's encoder layers."""

    def __init__(self, layers: int):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.cls, self.positions = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.Parameter(torch.zeros(1, 64, WIDTH))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, DROPOUT, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        for layer in self.layers:
            layer.dropout.p = 0.0  # inside the MLP, where the paper's ViT has none
        self.dropout, self.norm, self.head = nn.Dropout(DROPOUT), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        x = self.dropout(torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1))
        for layer in self.layers:
            x = layer(x)
        return F.cross_entropy(self.head(self.norm(x[:, 0])), labels)


class PlainLayer(nn.Module):
    """A layer with adaLN-zero around PyTorch's own attention."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, elementwise_affine=False) for _ in range(2))
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, DROPOUT, batch_first=True)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)
        h = self.norm1(x) * (1 + scale1) + shift1
        x = x + gate1 * self.dropout(self.attention(h, h, h, need_weights=False)[0])
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + gate2 * self.dropout(self.down(F.gelu(self.up(h))))


class PlainBlock(nn.Module):
    """One block as a denoiser of the label's embedding: [CLS], label and patches through its layers."""

    def __init__(self, layers: int):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.cls, self.positions = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.Parameter(torch.zeros(1, 64, WIDTH))
        self.table, self.dropout = nn.Embedding(CLASSES, WIDTH), nn.Dropout(DROPOUT)
        self.time = nn.Sequential(nn.Linear(256, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.layers = nn.ModuleList(PlainLayer() for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(WIDTH, elementwise_affine=False), nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        sigma = torch.exp(torch.randn(len(images), 1, device=images.device) * 1.2 - 1.2)
        y = F.normalize(self.table(labels), dim=-1)
        z = y + sigma * torch.randn_like(y)
        angles = sigma.log() / 4 * torch.exp(-torch.arange(128, device=images.device) * (9.21 / 128))
        condition = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1))
        patches = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        x = torch.cat([self.cls.expand(len(z), -1, -1), (z / (sigma**2 + 0.25).sqrt()).unsqueeze(1), patches], dim=1)
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, condition)
        hidden = 0.25 / (sigma**2 + 0.25) * z + 0.5 * sigma / (sigma**2 + 0.25).sqrt() * x[:, 0]
        return F.cross_entropy(self.head(self.norm(hidden)), labels)


def plain_step(network: nn.Module, trainer: Trainer) -> Callable[[int], None]:
    """A plain training loop's step."""
    network = network.to(trainer.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10**6)

    def step(number: int) -> None:
        batch = trainer.method.task.batch(number)
        with autocast(trainer.spec.compute, trainer.device):
            loss = network(batch.inputs, batch.targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()

    return step


def spec_of(run: str, device: str, batch: int) -> RunSpec:
    return resolve(run, "paper", 0, {"compute": {"device": device}, "training": {"batch_size": batch}})


def measure(device: str, rounds: int, batch: int) -> dict:
    """Seconds a step of all four, and the two ratios round by round."""
    torch.set_num_threads(1)
    where, warm_up = torch.device(device), WARM_UP[device]
    with tempfile.TemporaryDirectory() as name:
        whole = make_trainer(spec_of("vit/end_to_end", device, batch), where, Path(name) / "whole")
        blocks = make_trainer(spec_of("vit/diffusion_blocks", device, batch), where, Path(name) / "blocks")
        acts = {
            "whole": whole.train_step,
            "plain_whole": plain_step(PlainViT(12), whole),
            "block": blocks.train_step,
            "plain_block": plain_step(PlainBlock(4), blocks),
        }
        seconds: dict[str, list[float]] = {key: [] for key in acts}
        for i in range(3 * (warm_up + rounds)):  # three blocks take their turns
            for key, act in acts.items():
                start = clock(where)
                act(i)
                if i >= 3 * warm_up:
                    seconds[key].append(clock(where) - start)
    ratios = {
        f"plain_to_{key}": summary([a / b for a, b in zip(seconds[f"plain_{key}"], seconds[key], strict=True)])
        for key in ("whole", "block")
    }
    machine = describe(whole.spec.compute, where).model_dump()
    times = {key: summary(values) for key, values in seconds.items()}
    return {"benchmark": "plain_vit", "batch": batch, "seconds_per_step": times, **ratios, "machine": machine}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3, help="of three steps each (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="the paper's: %(default)s")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    text = json.dumps(measure(options.device, options.rounds, options.batch), indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
