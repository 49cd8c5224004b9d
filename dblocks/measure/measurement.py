"""measurement.json: what was measured of a network, at which shape, on which machine; tables read it like a record."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Literal

from pydantic import Field

from dblocks.data.files import write_atomically
from dblocks.measure.request import MEASUREMENT, Request
from dblocks.reading import naming, read_json
from dblocks.record import Machine, Metric
from dblocks.seal import sealed, unsealed
from dblocks.spec import Part


class Measurement(Part):
    """A measurement taken. The request is whole, so it explains itself."""

    format: Literal[1] = Field(1, description="Version of this format.")
    identity: str
    request: Request
    shape: str = Field(description="What was measured, in words: network, batch, precision.")
    metrics: list[Metric] = Field(min_length=1)
    machine: Machine
    finished: datetime

    def metric(self, name: str) -> Metric | None:
        """The metric of that name, None where it was not measured."""
        return next((metric for metric in self.metrics if metric.name == name), None)


def take(request_path: Path) -> Path:
    """Measure what a request.json asks for and write measurement.json beside it; returns its path.

    Raises: UserError if the request cannot be read.
    """
    from dblocks.machine import describe, set_up

    request = read_json(request_path, Request)
    compute = request.spec.compute
    device = set_up(compute if request.on_device else compute.model_copy(update={"device": "cpu"}))
    shape, metrics = import_module(f"dblocks.measure.{request.kind}").measure(request, device)
    measurement = Measurement(
        identity=request.identity,
        request=request,
        shape=shape,
        metrics=metrics,
        machine=describe(compute, device),
        finished=datetime.now(UTC),
    )
    path = request_path.parent / MEASUREMENT
    write_atomically(path, sealed(measurement))
    return path


def read_measurement(path: Path) -> Measurement:
    """Read and validate a measurement.

    Raises: UserError naming the file and the field that is wrong or missing.
    """
    with naming(path):
        return unsealed(path.read_text(encoding="utf-8"), Measurement)
