"""Seconds per training step: the paper's ViT against its blocks (the comparison of Table 12).

    python -m benchmarks.step_time [--device cpu|cuda] [--steps N] [--out FILE]

Whole steps are timed as training makes them (batch and augmentation, forward, backward, clipping, AdamW)
on random images of CIFAR-100's shape, baseline and blocks in turn, so that a drifting machine meets both
alike. Prints one JSON object with device and n.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dblocks.build import build
from dblocks.config import resolve
from dblocks.data.prepared import PreparedData, write_manifest
from dblocks.data.registry import dataset
from dblocks.machine import describe
from dblocks.spec import RunSpec
from dblocks.training import Trainer

WARM_UP = 3


def random_images(name: str, folder: Path, count: int = 1024) -> PreparedData:
    """Prepared data of a data set's shape, random and small: a step's time does not depend on the pixels."""
    info, draws = dataset(name), np.random.default_rng(0)
    folder.mkdir(parents=True)
    np.save(folder / "validation.npy", np.arange(count // 10))
    for split in ("train", "test"):
        np.save(folder / f"{split}_images.npy", draws.integers(0, 256, (count, *info.image_shape), dtype=np.uint8))
        np.save(folder / f"{split}_labels.npy", draws.integers(0, info.num_classes, count))
    write_manifest(folder, name, info.fingerprint, "random")
    return PreparedData(folder)


def trainer(variant: str, device: str, data: PreparedData, folder: Path) -> Trainer:
    """A trainer of the paper's ViT that is about to make its first step."""
    overrides = {"compute": {"device": device}}
    if variant == "diffusion_blocks":
        overrides["method"] = {"block_order": "rounds"}
    spec: RunSpec = resolve(f"vit/{variant}", "paper", 0, overrides)
    torch.set_num_threads(spec.compute.threads)
    method, _ = build(spec, data, torch.device(device))
    return Trainer(spec, method, 10**6, folder, torch.device(device))


def seconds_of(trainer: Trainer, step: int) -> float:
    """Wall time of one step, the device's work included."""
    synchronize = torch.cuda.synchronize if trainer.device.type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    trainer.train_step(step)
    synchronize()
    return time.perf_counter() - start


def measure(device: str, steps: int) -> dict:
    """Median seconds of a baseline step, of one block's, and of one step of every block."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = random_images("cifar100", folder / "data")
        baseline = trainer("end_to_end", device, data, folder)
        blocks = trainer("diffusion_blocks", device, data, folder)
        count = blocks.spec.num_blocks
        baseline_seconds, block_seconds, round_seconds = [], [], []
        for i in range(-WARM_UP, steps):
            whole = seconds_of(baseline, i + WARM_UP)
            parts = [seconds_of(blocks, (i + WARM_UP) * count + k) for k in range(count)]
            if i >= 0:
                baseline_seconds.append(whole)
                block_seconds.extend(parts)
                round_seconds.append(sum(parts))
        spec = baseline.spec
        machine = describe(spec.compute, baseline.device)
    pairs = zip(round_seconds, baseline_seconds, strict=True)
    return {
        "benchmark": "step_time",
        "network": f"ViT, {spec.network.layers} layers, width {spec.network.width}, batch {spec.training.batch_size}",
        "vit_seconds": summary(baseline_seconds),
        "one_block_seconds": summary(block_seconds),
        "three_blocks_seconds": summary(round_seconds),
        "ratio_three_blocks_to_vit": summary([a / b for a, b in pairs]),
        "machine": machine.model_dump(),
    }


def summary(values: list[float]) -> dict[str, float]:
    """Median, spread and count."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default)
    parser.add_argument("--steps", type=int, help="timed steps (default: 10 on CPU, 100 on CUDA)")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    text = json.dumps(measure(options.device, options.steps or (100 if options.device == "cuda" else 10)), indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
