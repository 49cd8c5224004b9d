"""Committed benchmarks of the ViT's training step as one table: this project, plain PyTorch, on which device, n."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def milliseconds(summary: dict[str, Any]) -> str:
    """A median of seconds in ms, and how many readings it is of."""
    return f"{1000 * summary['median']:.4g} (n = {summary['n']})"


def step_rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(how, whole, block) of benchmarks.step_time: steps one after another without a wait."""
    metrics = found["metrics"]
    whole, block = (
        milliseconds({"median": metrics[f"{name}_seconds"]["value"], "n": metrics[f"{name}_seconds"]["samples"]})
        for name in ("whole", "block")
    )
    readings = found["shape"].rpartition(", ")[2]
    changed = [
        f"`{section}.{field}: {json.dumps(value)}`"
        for section, fields in found["override"].items()
        for field, value in fields.items()
    ]
    return [(", ".join([f"steps back to back, {readings}", *changed]), whole, block)]


def plain_rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(how, whole, block) of benchmarks.plain_vit: each step waited for, plain PyTorch beside."""
    seconds = found["seconds_per_step"]
    ratios = [f"{found[f'plain_to_{key}']['median']:.3g}" for key in ("whole", "block")]
    return [
        ("each step waited for", milliseconds(seconds["whole"]), milliseconds(seconds["block"])),
        ("plain PyTorch, likewise", milliseconds(seconds["plain_whole"]), milliseconds(seconds["plain_block"])),
        ("plain over ours", *ratios),
    ]


def speed_table(folder: Path) -> str:
    """The table in markdown, from the benchmarks in a folder; times in ms, medians."""
    kinds = {"step_time": step_rows, "plain_vit": plain_rows}
    lines = ["| device | how | ViT (ms) ↓ | one block (ms) ↓ |", "|---|---|---|---|"]
    for path in sorted(folder.glob("*.json"), reverse=True):
        found = json.loads(path.read_text(encoding="utf-8"))
        for how, whole, block in kinds.get(found["benchmark"], lambda _: [])(found):
            lines.append(f"| {found['machine']['device']} | {how} | {whole} | {block} |")
    return "\n".join(lines) + "\n"
