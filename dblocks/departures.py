"""What a run has set otherwise than the configuration, which at scale `paper` is the paper's as it is read here.

And by which earlier version of the code it was made, where that is another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dblocks.config import resolve
from dblocks.identity import code_versions
from dblocks.measure.measurement import Measurement
from dblocks.measure.request import load_measurements
from dblocks.record import Record
from dblocks.spec import IDENTITY_SECTIONS, RunSpec

# how long is told by the budget, and of phases by their share of it; what a run reads has an identity of its own
BUDGET = {"epochs", "max_steps"}
PHASES = {"warmup_epochs", "probe_epochs"}
# the rest of where and how it is computed changes no more than rounding
OF_COMPUTE = {"precision"}


def of_record(record: Record, run: str) -> tuple[str, ...]:
    """What of a record is not as `run` = "<experiment>/<variant>" would be made today: settings, then code."""
    own, today = record.code_versions, code_versions(record.spec)
    other = [name for name in {**own, **today} if own.get(name) != today.get(name)]
    said = [f"{name} of version {own.get(name, 'none')} (now: {today.get(name, 'none')})" for name in other]
    return (*departures(record.spec, run), *said)


def of_measurement(measurement: Measurement) -> tuple[str, ...]:
    """The same of a measurement, of both its runs; what its kind does not depend on is left out."""
    request, entry = measurement.request, load_measurements().get(measurement.request.name)
    if entry is None:
        return ()
    pairs = ((request.baseline, entry.baseline), (request.spec, entry.run))
    found = dict.fromkeys(words for spec, run in pairs for words in departures(spec, run))
    idle = ["method.sampling."] * (request.kind != "inference") + ["compute."] * (request.kind != "wall_time")
    found = {words: None for words in found if not words.startswith(tuple(idle))}
    if measurement.identity != request.identity:
        found["made by an earlier version of the code"] = None
    return tuple(found)


def departures(spec: RunSpec, run: str) -> tuple[str, ...]:
    """Settings of `spec` that are not those of `run` = "<experiment>/<variant>" at its scale, in words."""
    own, configured = (dict(settings(one)) for one in (spec, resolve(run, spec.scale)))
    names = [name for name in {**configured, **own} if own.get(name) != configured.get(name)]
    return tuple(f"{name} {shown(own.get(name))} (configured: {shown(configured.get(name))})" for name in names)


def settings(spec: RunSpec) -> Iterator[tuple[str, Any]]:
    """All that decides a run's numbers, its budget aside, by dotted name."""
    content = spec.model_dump(mode="json", include=set(IDENTITY_SECTIONS))
    for name, value in leaves("", content):
        section, _, field = name.partition(".")
        if field in PHASES:
            yield f"{name} / epochs", round(value / spec.training.epochs, 9)
        elif field not in BUDGET and (section != "compute" or field in OF_COMPUTE):
            yield name, value


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted name."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        if not key.endswith(("_identity", "_identities")):
            yield from leaves(f"{name}.{key}" if name else key, inner)


def shown(value: Any) -> str:
    """A setting as it is written in the configuration."""
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
