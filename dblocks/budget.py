"""How long a run trains: samples, steps, and the share of the paper's budget."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from dblocks.config import CONFIG_DIR, resolve
from dblocks.data.fingerprints import characters_in
from dblocks.data.registry import character_splits, dataset
from dblocks.errors import UserError
from dblocks.spec import AutoregressiveTextSpec, ContrastiveForwardForwardSpec, MaskedTextSpec, RunSpec


def training_samples(spec: RunSpec) -> int:
    """Images of the training split, or disjoint windows in the training part of a text."""
    if isinstance(spec.task, AutoregressiveTextSpec):
        return spec.task.epoch_tokens // spec.task.length
    info = dataset(spec.data.name)
    if isinstance(spec.task, MaskedTextSpec):
        characters = info.characters or _characters(spec.data.path)
        return character_splits(characters)[0] // spec.task.length
    return info.train_size if spec.data.train_split == "train" else info.fit_size()


@cache
def _characters(path: str) -> int:
    """Of a user's text as it is when this process first asks, as its fingerprint (`identity.data_fingerprint`)."""
    return characters_in(Path(path))


def steps_per_epoch(spec: RunSpec) -> int:
    """n_train // batch_size; the last incomplete batch is dropped."""
    size = training_samples(spec)
    steps = size // spec.training.batch_size
    if steps == 0:
        raise UserError(
            f"training.batch_size: {spec.training.batch_size} is more than the {size} training samples of "
            f"{spec.data.name}"
        )
    return steps


def baseline_steps(spec: RunSpec) -> int:
    """Updates that each layer gets: epochs × steps per epoch, cut at max_steps."""
    steps = max(1, round(spec.training.epochs * steps_per_epoch(spec)))
    return min(steps, spec.training.max_steps or steps)


def probe_steps(spec: RunSpec) -> int:
    """Steps of the linear probe that follows the layers' own training; 0 for methods without one."""
    if not isinstance(spec.method, ContrastiveForwardForwardSpec):
        return 0
    steps = max(1, round(spec.method.probe_epochs * steps_per_epoch(spec)))
    return min(steps, spec.training.max_steps or steps)


def total_steps(spec: RunSpec) -> int:
    """Steps of the run: B × baseline steps, so that each block gets as many updates as the baseline's layers."""
    return spec.num_blocks * baseline_steps(spec) + probe_steps(spec)


def budget_fraction(spec: RunSpec, config_dir: Path = CONFIG_DIR) -> float:
    """Training samples (of a text: characters or tokens) seen, as a fraction of the same row's at the paper's scale."""
    paper = resolve(f"{spec.experiment}/{spec.variant}", "paper", config_dir=config_dir)
    return training_volume(spec) / training_volume(paper)


def training_volume(spec: RunSpec) -> int:
    """Samples, or characters or tokens of a text, that training sees in all."""
    length = spec.task.length if isinstance(spec.task, MaskedTextSpec | AutoregressiveTextSpec) else 1
    return total_steps(spec) * spec.training.batch_size * length
