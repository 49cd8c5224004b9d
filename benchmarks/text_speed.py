"""Tokens per second of autoregressive text: training whole and in blocks, with each kind of attention; writing.

    python -m benchmarks.text_speed [--device cpu|cuda] [--rounds N] [--size tiny|paper] [--out FILE]

Text is written with keys and values kept, and without. Whole training steps on random tokens, rounds of all arms in
turn, so that a drifting machine meets all alike. The network is LM1B's at the paper's scale, or one of smoke's size. On
a CPU it is the process's own time that counts, on a GPU the wall's. Prints one JSON object with device and n.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks.sampling_time import clock
from benchmarks.step_time import summary
from dblocks.build import build
from dblocks.config import resolve
from dblocks.data.prepared import PreparedData
from dblocks.machine import describe, set_up
from dblocks.measure.made_up import made_up_data
from dblocks.training import Trainer

SCALES = {"tiny": "smoke", "paper": "paper"}
BATCH = {"cpu": 4, "cuda": 64}  # sequences; the paper's 256 are timed by benchmarks.architectures
TEXTS = {"cpu": 4, "cuda": 250}  # written together
WARM_UP = {"cpu": 1, "cuda": 5}  # rounds; a block's step is recorded as a graph when it has come four times


def trainer(variant: str, scale: str, device: str, data: PreparedData, folder: Path, **over) -> Trainer:
    """A trainer that is about to make its first step."""
    batch = {} if scale == "smoke" else {"batch_size": BATCH[device]}
    overrides = {"compute": {"device": device}, "training": batch, **over}
    if variant == "diffusion_blocks":
        overrides["method"] = {"block_order": "rounds"}  # every block once in four steps
    spec = resolve(f"ar_lm1b/{variant}", scale, 0, overrides)
    set_up(spec.compute)
    method, _ = build(spec, data, torch.device(device))
    return Trainer(spec, method, 10**6, folder, torch.device(device))


def timed(device: torch.device, work) -> float:
    """Seconds that `work()` takes."""
    start = clock(device)
    work()
    return clock(device) - start


def training_rates(scale: str, device: str, data: PreparedData, folder: Path, rounds: int) -> dict:
    """Training tokens per second: a step's windows over its seconds; of four blocks, over those of four steps."""
    arms = {"ar": trainer("end_to_end", scale, device, data, folder)}
    kinds = ["masked", "split", *(["flex"] if device == "cuda" else [])]
    for kind in kinds:
        network = {"network": {"attention": kind}}
        arms[kind] = trainer("diffusion_blocks", scale, device, data, folder, **network)
    seconds = {name: [] for name in arms}
    warm_up = WARM_UP[device]
    for i in range(-warm_up, rounds):
        for name, arm in arms.items():
            first = (i + warm_up) * arm.spec.num_blocks
            took = [timed(arm.device, partial(arm.train_step, first + k)) for k in range(arm.spec.num_blocks)]
            if i >= 0:
                seconds[name].append(took)
    spec = arms["ar"].spec
    tokens = spec.training.batch_size * spec.task.length
    found = {"ar": summary([tokens / took[0] for took in seconds["ar"]])}
    for kind in kinds:
        found[f"one_block_{kind}"] = summary([tokens / one for took in seconds[kind] for one in took])
        found[f"four_blocks_{kind}"] = summary([tokens / sum(took) for took in seconds[kind]])
    return found


def generation_rates(scale: str, device: str, data: PreparedData, folder: Path, rounds: int) -> dict:
    """Tokens per second of continuations, with and without what is kept."""
    found = {}
    for variant, name in (("end_to_end", "ar"), ("diffusion_blocks", "blocks")):
        for cache in (True, False):
            over = {"task": {"cache": cache}}
            arm = trainer(variant, scale, device, data, folder, **over)
            arm.network.eval()
            task, predictor = arm.spec.task, arm.method.predictors()[""]
            prompts = torch.zeros(TEXTS[device], task.prompt_tokens, dtype=torch.long, device=arm.device)
            rates = []
            for i in range(-1, rounds):
                draws = torch.Generator(arm.device).manual_seed(i + 1)
                with torch.no_grad():  # in full precision, as the pipeline writes
                    work = partial(predictor.go_on, prompts, task.continuation_tokens, draws)
                    rate = TEXTS[device] * task.continuation_tokens / timed(arm.device, work)
                rates += [rate] if i >= 0 else []
            found[f"{name}_{'cache' if cache else 'no_cache'}"] = summary(rates)
    return found


def measure(device: str, rounds: int, size: str) -> dict:
    """All rates of one size of network."""
    scale = SCALES[size]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = resolve("ar_lm1b/end_to_end", scale, 0, {"compute": {"device": device}})
        data = made_up_data(spec, folder / "data")
        training = training_rates(scale, device, data, folder, rounds)
        generation = generation_rates(scale, device, data, folder, rounds)
    network = spec.network
    return {
        "benchmark": "text_speed",
        "network": f"Llama, {network.layers} layers, width {network.width}, windows of {spec.task.length} tokens",
        "batch": spec.training.batch_size if scale == "smoke" else BATCH[device],
        "texts_together": TEXTS[device],
        "training_tokens_per_second": training,
        "generated_tokens_per_second": generation,
        "machine": describe(spec.compute, torch.device(device)).model_dump(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: %(default)s)")
    parser.add_argument("--size", choices=tuple(SCALES), help="network (default: tiny on CPU, paper on CUDA)")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    size = options.size or ("paper" if options.device == "cuda" else "tiny")
    text = json.dumps(measure(options.device, options.rounds, size), indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
