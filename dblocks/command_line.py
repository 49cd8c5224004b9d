"""What `snakemake --config key=value …` may say, checked, and which fields of runs it changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from dblocks.config import MOST_SEEDS, NAMES, merge
from dblocks.reading import first_error, parse_yaml
from dblocks.spec import Part


class CommandLine(Part):
    """What `snakemake --config …` may say."""

    scale: str = Field("smoke", description="smoke, short or paper.")
    seeds: int | None = Field(
        None, ge=1, le=MOST_SEEDS, description="How many: seeds 0 … n − 1 of every run; default: the scale's."
    )
    data_dir: str = Field("data", description="Where data sets lie, one folder each.")
    results_dir: str = Field("results", description="Where everything that is made goes.")
    skip: list[str] = Field([], description="Data sets, tokenizers and language models to do without.")
    device: Literal["auto", "cpu", "cuda"] | None = Field(None, description="compute.device of every run.")
    max_steps: int | None = Field(None, ge=1, description="training.max_steps of every run, to try things out.")
    max_samples: int | None = Field(None, ge=1, description="data.max_evaluation_samples of every run, likewise.")
    override: dict[str, Any] = Field({}, description="Any other fields of RunSpec, for every run.")
    override_runs: dict[str, dict[str, Any]] = Field(
        {},
        description="Fields of RunSpec by <experiment>, for its runs, or by <experiment>/<variant>, for that one; they "
        "win over `override`, and the latter over the former.",
    )
    at_scale: dict[str, dict[str, Any]] = Field(
        {}, description="Other keys by scale: they hold at that scale alone, and what is given for all wins over them."
    )
    wandb: str = Field("offline", pattern="^(offline|online|off)$", description="offline, online or off.")

    @model_validator(mode="before")
    @classmethod
    def _what_holds_at_its_scale(cls, given: Any) -> Any:
        """Its scale's part of `at_scale`, under what is given for all."""
        parts = given.get("at_scale") if isinstance(given, Mapping) else None
        scale = given.get("scale", cls.model_fields["scale"].default) if isinstance(parts, Mapping) else None
        own = parts.get(scale) if isinstance(scale, str) else None
        return merge(own, given) if isinstance(own, Mapping) else given

    @field_validator("at_scale")
    @classmethod
    def _every_part_is_right(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Also the parts of other scales."""
        for scale, part in value.items():
            if {"scale", "at_scale"} & part.keys():
                raise ValueError(f"{scale}: cannot hold scale or at_scale")
            try:
                cls.model_validate(part)
            except ValidationError as error:
                raise ValueError(f"{scale}: {first_error(error)}") from error
        return value

    @field_validator("override", "override_runs", mode="before")
    @classmethod
    def _read_scalars(cls, value: Any) -> Any:
        """Snakemake hands nested values over as text: read them as YAML, so that null and 0.1 mean what they say."""
        if isinstance(value, Mapping):
            return {key: cls._read_scalars(part) for key, part in value.items()}
        return parse_yaml(value) if isinstance(value, str) else value

    @field_validator("wandb", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        """In Snakemake's own configuration files `off` is false."""
        return "off" if value is False else value

    @field_validator("override", "override_runs")
    @classmethod
    def _names_are_not_fields(cls, value: dict[str, Any]) -> dict[str, Any]:
        fields = (value, *(part for part in value.values() if isinstance(part, Mapping)))
        if found := [name for part in fields for name in NAMES if name in part]:
            raise ValueError(f"'{found[0]}' is no field to override; scale and seeds have keys of their own")
        return value

    @field_validator("data_dir", "results_dir")
    @classmethod
    def _can_be_a_path(cls, value: str) -> str:
        """The path as Snakemake writes it, which compares paths as text: `./a//b/` is `a/b`."""
        if not value or not value.isprintable():
            raise ValueError("is no path")
        try:
            path = Path(value).expanduser() if value.startswith("~") else Path(value)
            if path.is_file():
                raise ValueError("is a file; must be a directory, which need not be there yet")
        except RuntimeError as error:
            raise ValueError("there is no such home directory") from error
        except OSError as error:
            raise ValueError(f"is no path ({error.strerror})") from error
        path = path.absolute() if path == Path() else path  # else some paths would begin with "./"
        value = re.sub("^//", "/", str(path))
        if value.startswith("-") or {"{", "}"} & set(value):
            raise ValueError("must not begin with '-', as options do, nor have '{' or '}', as Snakemake's wildcards do")
        return value

    def overrides(self, run: str = "") -> dict[str, Any]:
        """The part of the command line that changes the spec of "<experiment>/<variant>"."""
        fields = self.override
        for name in (run.partition("/")[0], run):
            fields = merge(fields, self.override_runs.get(name, {}))
        if self.device is not None:
            fields = merge(fields, {"compute": {"device": self.device}})
        if self.max_steps is not None:
            fields = merge(fields, {"training": {"max_steps": self.max_steps}})
        if self.max_samples is not None:
            fields = merge(fields, {"data": {"max_evaluation_samples": self.max_samples}})
        return fields
