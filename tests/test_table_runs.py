"""What the benchmark of a table's runs projects from a share of their budgets."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.table_runs import Planned, cut, missing_seconds, projected
from dblocks.budget import probe_steps, total_steps
from dblocks.config import resolve


def logged(folder: Path, run: str, share: float, compiling: float, rates: tuple[float, float]) -> tuple[Planned, float]:
    """A run cut to a share of its budget with a log: each phase compiles first, then takes its rate, seconds a step;
    and the seconds of the steps it lacks."""
    whole = resolve(run, "paper")
    spec = cut(whole, share)
    total, probe = total_steps(spec), probe_steps(spec)
    ends, lines, phases, seconds = (total - probe, total), [], [], 0.0
    for step in range(100, total + 100, 100):
        step = min(step, total)
        phase = int(step > ends[0])
        seconds += rates[phase] * (step - (lines[-1]["step"] if lines else 0))
        seconds += 0 if phase in phases else compiling
        phases.append(phase)
        lines.append({"step": step, "loss": {"all": 1.0}, "learning_rate": 0.1, "seconds": seconds})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lacking = (total_steps(whole) - probe_steps(whole) - ends[0]) * rates[0] + (probe_steps(whole) - probe) * rates[1]
    return Planned(run, spec, whole, folder, folder / "record.json"), lacking


@pytest.mark.parametrize("run", ["vit/end_to_end", "vit/diffusion_blocks", "vit/contrastive_forward_forward"])
def test_compilation_is_not_projected_and_each_phase_has_its_rate(run, tmp_path):
    made, lacking = logged(tmp_path, run, 0.02, 50.0, (0.01, 0.002))
    record = SimpleNamespace(steps=total_steps(made.spec), trained_as=None)
    assert missing_seconds(made, record) == pytest.approx(lacking)


def test_a_log_of_one_line_projects_nothing(tmp_path):
    made, _ = logged(tmp_path, "vit/end_to_end", 0.0005, 1.0, (0.01, 0.01))
    assert missing_seconds(made, SimpleNamespace(steps=total_steps(made.spec), trained_as=None)) is None


@pytest.mark.parametrize(("together", "seconds"), [(True, 5.0), (False, 7.0)])
def test_a_part_takes_its_longest_run_or_all_of_them(together, seconds):
    assert projected([[2.0, 4.0], [1.0]], together) == seconds
    assert projected([[2.0, None], [1.0]], together) is None
    assert projected([[], [1.0]], together) == 1.0
