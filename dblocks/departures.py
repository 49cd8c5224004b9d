"""What a run of scale `paper` has set otherwise than the configuration has: no number of it is quite the paper's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dblocks.config import resolve
from dblocks.spec import IDENTITY_SECTIONS, RunSpec

# how long is told by the budget, where it ran by the machine, and what it reads has an identity of its own
TOLD_ELSEWHERE = {"epochs", "max_steps", "warmup_epochs", "probe_epochs", "compute"}


def departures(spec: RunSpec, run: str) -> tuple[str, ...]:
    """Settings of `spec` that are not those of `run` = "<experiment>/<variant>" at its scale `paper`, in words.

    None for other scales, all of whose numbers are of another budget anyway.
    """
    if spec.scale != "paper":
        return ()
    own, papers = (dict(settings(one.model_dump(mode="json"))) for one in (spec, resolve(run, "paper")))
    names = [name for name in {**papers, **own} if own.get(name) != papers.get(name)]
    return tuple(f"{name} {shown(own.get(name))} (paper: {shown(papers.get(name))})" for name in names)


def settings(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All that decides a run's numbers, by dotted name."""
    for section in IDENTITY_SECTIONS:
        if section not in TOLD_ELSEWHERE and content[section] is not None:
            yield from leaves(section, content[section])


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted name."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        if key not in TOLD_ELSEWHERE and not key.endswith(("_identity", "_identities")):
            yield from leaves(f"{name}.{key}", inner)


def shown(value: Any) -> str:
    """A setting as it is written in the configuration."""
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
