"""What is to be measured: config/measurements.yaml, and each of its entries resolved to the runs it is about.

A measurement compares a block-wise run with its baseline at the shapes of one scale. It needs no trained weights and
no data: inputs are made up.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dblocks.command_line import CommandLine
from dblocks.config import CONFIG_DIR, has_run, load_scales, merge, read_yaml, resolve
from dblocks.errors import UserError
from dblocks.identity import digest, identity
from dblocks.spec import Part, RunSpec
from dblocks.versions import COMPONENTS

REQUEST, MEASUREMENT = "request.json", "measurement.json"


class MeasurementSpec(Part):
    """One entry of config/measurements.yaml."""

    kind: Literal["memory", "wall_time", "compute", "inference"]
    run: str = Field(description="<experiment>/<variant>, trained in blocks.")
    baseline: str = Field(description="<experiment>/<variant> it is compared with.")
    shapes: str | None = Field(None, description="Scale whose shapes are taken; None: that of the plan.")
    micro_batch: int | None = Field(
        None, ge=1, description="Samples that are accounted; None: those of a baseline's pass."
    )
    iterations: int = Field(100, ge=1, description="Timed steps of each; of no meaning where nothing is timed.")


class Measurements(Part):
    measurements: dict[str, MeasurementSpec]


class Request(Part):
    """request.json: a measurement to take, whole, so that its file explains itself.

    Attributes:
        scale: of the plan it belongs to; `spec.scale` is the one whose shapes are taken.
    """

    name: str
    scale: str
    settings: MeasurementSpec
    spec: RunSpec
    baseline: RunSpec

    @property
    def kind(self) -> str:
        return self.settings.kind

    @property
    def on_device(self) -> bool:
        """Whether it runs on the device that its runs ask for; what is only counted needs none."""
        return self.kind in ("memory", "wall_time")

    @property
    def shape(self) -> str:
        """What is measured, in words: the network's sizes and the data."""
        network = self.spec.network
        hidden = getattr(network, "hidden", None) or int(network.width * getattr(network, "mlp_ratio", 0))
        layers = f" of {network.layers} layers" if hasattr(network, "layers") else ""
        mlp = f", MLP {hidden:,}" if hidden else ""
        return f"{network.name}{layers}, width {network.width}{mlp}, on {self.spec.data.name}"

    @property
    def version(self) -> int:
        return COMPONENTS[f"measure.{self.kind}"]

    @property
    def identity(self) -> str:
        """SHA-256 (hex) over all that decides its numbers: both runs, the settings, the code's version."""
        runs = [identity(self.spec), identity(self.baseline)]
        content: dict[str, Any] = {"runs": runs, "version": self.version, **self.settings.model_dump(mode="json")}
        for name in ("run", "baseline", "shapes"):  # names; what they stand for is in `runs`
            del content[name]
        return digest(content)

    @property
    def folder(self) -> str:
        """<name>-<hash8>, the folder of its files."""
        return f"{self.name}-{self.identity[:8]}"


@cache
def load_measurements(config_dir: Path = CONFIG_DIR) -> dict[str, MeasurementSpec]:
    """config/measurements.yaml.

    Raises: UserError naming the entry whose run or scale does not exist.
    """
    path = config_dir / "measurements.yaml"
    measurements = read_yaml(path, Measurements).measurements
    for name, entry in measurements.items():
        for field in ("run", "baseline"):
            if not has_run(getattr(entry, field), config_dir):
                raise UserError(f"{path}: {name}.{field}: '{getattr(entry, field)}' is not in config/runs")
        if resolve(entry.run, "paper", config_dir=config_dir).method.name != "diffusion_blocks":
            raise UserError(f"{path}: {name}.run: '{entry.run}' is not trained in blocks")
        for field in ("run", "baseline") if entry.kind == "inference" else ():
            if resolve(getattr(entry, field), "paper", config_dir=config_dir).network.name != "dit":
                raise UserError(
                    f"{path}: {name}.{field}: '{getattr(entry, field)}' is no DiT; kind inference is of them"
                )
        if entry.shapes is not None and entry.shapes not in load_scales(config_dir):
            raise UserError(f"{path}: {name}.shapes: no scale '{entry.shapes}'")
    return measurements


def make_request(name: str, command_line: CommandLine, config_dir: Path = CONFIG_DIR) -> Request:
    """The request behind an entry, for a plan at the command line's scale.

    Where it names the scale of its shapes, only `compute` comes from the plan: what a table shows at a named scale
    is not to change with what the plan's own runs are tried out with.
    """
    entry = load_measurements(config_dir)[name]
    specs = {}
    for field in ("run", "baseline"):
        run = getattr(entry, field)
        overrides = command_line.overrides(run)
        if entry.shapes is not None:
            own = merge(load_scales(config_dir)[command_line.scale].overrides, overrides)
            overrides = {"compute": own["compute"]} if "compute" in own else {}
        specs[field] = resolve(run, entry.shapes or command_line.scale, 0, overrides, config_dir)
    return Request(name=name, scale=command_line.scale, settings=entry, spec=specs["run"], baseline=specs["baseline"])
