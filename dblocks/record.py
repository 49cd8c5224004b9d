"""record.json: what a finished run has to show. Validated when written and when read; tables read nothing else."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dblocks.data.files import write_atomically
from dblocks.errors import TrainingFailed
from dblocks.reading import naming
from dblocks.seal import check_place, sealed, unsealed
from dblocks.spec import DataSpec, Part, RunSpec

RECORD, BLOCK = "record.json", "block.json"
RESULT = "result.json"  # the finished record as the pipeline does not know it, and so never deletes it


class Metric(Part):
    """One measured number and all it takes to read it."""

    name: str = Field(description="Metric key, such as accuracy, sigma_max_ce.")
    value: float = Field(description="Finite: a missing value is left out, never written.")
    unit: str
    dataset: str
    split: str = Field(description="Where it was read: test or validation.")
    samples: int = Field(ge=1, description="Samples it was computed over; of a text: windows.")
    standard_error: float | None = Field(
        None, ge=0, description="Standard error of the value over those samples; None: not estimated."
    )
    spread: tuple[float, float] | None = Field(
        None, description="5th and 95th percentile of what `value` is the median of; None: not a median."
    )
    values: tuple[float, ...] | None = Field(None, description="All evaluations, where `value` is the least of them.")
    mean: float | None = Field(None, description="Their mean.")
    extractor: str | None = Field(None, description="Where features or likelihoods come from, and its checksum.")
    reference: int | None = Field(None, description="Images or texts of the split that the samples are compared with.")

    @classmethod
    def measured(cls, data: DataSpec, name: str, value: float, **fields: Any) -> Metric:
        """What was measured on `data`, on its evaluation split unless `split` says otherwise.

        Raises: TrainingFailed if a number is not finite: the network gives none, and would give none again.
        """
        for number in (value, fields.get("standard_error") or 0.0, *(fields.get("values") or ())):
            if not math.isfinite(number):
                raise TrainingFailed(f"{name} on {data.label} is {number}: the trained network gives no numbers")
        return cls(**{"dataset": data.label, "split": data.evaluation_split, "name": name, "value": value, **fields})


class Machine(Part):
    """Where a run was made."""

    device: str = Field(description="GPU's or processor's name.")
    threads: int
    python: str
    torch: str
    commit: str | None = Field(description="Commit of the code, with -dirty where it was changed; None outside git.")


class Record(Part):
    """A finished run. The spec is whole, so the record explains itself."""

    format: Literal[1] = Field(1, description="Version of this format.")
    identity: str
    spec: RunSpec
    code_versions: dict[str, int]
    data_checksum: str = Field(description="SHA-256 over the prepared arrays.")
    data_fingerprint: str | None = Field(
        None,
        description="What names the data's content: of a text of one's own its title and SHA-256; None: earlier code.",
    )
    metrics: list[Metric] = Field(min_length=1)
    evaluations_per_block: list[int] | None = Field(
        description="Denoiser calls a block when predicting; None: no blocks."
    )
    steps: int = Field(ge=1)
    parameters: int = Field(ge=1)
    budget: float = Field(gt=0, description="Training samples seen, as a fraction of the paper's for this row.")
    train_seconds: float = Field(
        ge=0,
        description="Wall time of training: of each attempt up to its last checkpoint; of blocks in parallel, summed.",
    )
    evaluate_seconds: float = Field(ge=0)
    peak_memory_bytes: int | None = Field(
        ge=0,
        description="Allocator's peak on CUDA, else the process's resident peak; None: not one process trained it.",
    )
    machine: Machine
    finished: datetime
    wandb_id: str = Field(description="Id of the W&B run this record is exported to, if it is.")
    skipped: tuple[str, ...] = Field(
        (), description="Published weights it was not measured with, for it was run without them."
    )
    weights: str = Field(description="File name of the final weights beside the record; its name holds its checksum.")
    trained_as: str | None = Field(
        None, description="Run and seed that these weights come from, where that is another; its training is told here."
    )

    def metric(self, name: str) -> Metric | None:
        """The metric of that name, None where it was not measured; `parameters` is the network's size."""
        if name == "parameters":
            first = self.metrics[0]
            known = {"unit": "", "dataset": first.dataset, "split": first.split, "samples": first.samples}
            return Metric(name=name, value=self.parameters, **known)
        return next((metric for metric in self.metrics if metric.name == name), None)


def write_record(path: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    write_atomically(path, sealed(record))


def read_record(path: Path) -> Record:
    """Read and validate a record.

    Raises: UserError naming the file and the field that is wrong or missing, or if it lies in another run's folder.
    """
    with naming(path):
        record = unsealed(path.read_text(encoding="utf-8"), Record)
    check_place(path, record.identity, record.spec.seed)
    return record
