"""Seconds per image and per training step: DiT-S/2 in three blocks against the whole network.

    python -m benchmarks.sampling_time [--device cpu|cuda] [--images N] [--rounds N] [--out FILE]

Both take the same 50 steps of the equal-mass grid with guidance, on random weights at CIFAR-10's shape; rounds of
the two alternate, so that a drifting machine meets both alike. A training step is whole: batch (on a GPU made with
those of other steps, before), forward, backward, AdamW, moving average. On a CPU it is the process's own time that
counts, on a GPU the wall's. Prints one JSON object with device and n.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.step_time import summary
from dblocks.build import build
from dblocks.config import resolve
from dblocks.machine import autocast, describe, set_up
from dblocks.measure.made_up import made_up_data
from dblocks.training import Trainer

VARIANTS = {"whole": "end_to_end", "blocks": "equi_4_4_4"}
WARM_UP = {"cpu": 1, "cuda": 15}  # rounds; a block's step is recorded as a graph when it has come four times


def clock(device: torch.device) -> float:
    """Seconds: wall time once a GPU has finished its work; a CPU's process time, which other processes do not slow."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def training_seconds(trainer: Trainer, step: int) -> float:
    """Time of one whole training step."""
    start = clock(trainer.device)
    trainer.train_step(step)
    return clock(trainer.device) - start


def sampling_seconds(trainer: Trainer, images: int) -> float:
    """Time of drawing `images` images together."""
    labels = torch.arange(images, device=trainer.device) % 10
    epsilon = torch.randn(images, *trainer.network.target_shape, device=trainer.device)
    trainer.network.eval()
    start = clock(trainer.device)
    with torch.no_grad(), autocast(trainer.spec.compute, trainer.device):
        trainer.method.predictors()[""].sample(labels, epsilon).cpu()
    return clock(trainer.device) - start


def measure(device: str, images: int, rounds: int, batch_size: int | None = None) -> dict:
    """Medians over rounds, and the ratios of each round."""
    sampling = {name: [] for name in VARIANTS}
    training = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as name:
        trainers = {}
        batch = {"batch_size": batch_size} if batch_size else {}
        for key, variant in VARIANTS.items():
            overrides = {"compute": {"device": device}, "training": batch, "method": {"block_order": "turns"}}
            spec = resolve(f"dit_cifar10/{variant}", "paper", 0, overrides)
            set_up(spec.compute)
            data = made_up_data(spec, Path(name) / key)
            method, _ = build(spec, data, torch.device(device))
            trainers[key] = Trainer(spec, method, 10**6, Path(name), torch.device(device))
        warm_up = WARM_UP[device]
        for i in range(-warm_up, rounds):
            for key, trainer in trainers.items():
                trained = training_seconds(trainer, i + warm_up)
                if i < -1:
                    continue
                drawn = sampling_seconds(trainer, images)
                if i >= 0:
                    sampling[key].append(drawn / images)
                    training[key].append(trained)
        spec = trainers["whole"].spec
        machine = describe(spec.compute, trainers["whole"].device)
    return {
        "benchmark": "sampling_time",
        "network": f"DiT, {spec.network.layers} layers, width {spec.network.width}, patch {spec.network.patch_size}",
        "steps": spec.method.sampling.steps,
        "images_together": images,
        "training_batch": spec.training.batch_size,
        "seconds_per_image": {key: summary(values) for key, values in sampling.items()},
        "sampling_ratio_whole_to_blocks": summary(ratios(sampling)),
        "seconds_per_training_step": {key: summary(values) for key, values in training.items()},
        "training_ratio_whole_to_one_block": summary(ratios(training)),
        "machine": machine.model_dump(),
    }


def ratios(seconds: dict[str, list[float]]) -> list[float]:
    """The whole network's time as a multiple of the blocks', round by round."""
    return [a / b for a, b in zip(seconds["whole"], seconds["blocks"], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--images", type=int, help="images drawn together (default: 1 on CPU, 500 on CUDA)")
    parser.add_argument("--rounds", type=int, help="timed rounds (default: 2 on CPU, 5 on CUDA)")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    gpu = options.device == "cuda"
    images, rounds = options.images or (500 if gpu else 1), options.rounds or (5 if gpu else 2)
    text = json.dumps(measure(options.device, images, rounds, batch_size=None if gpu else 8), indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
