"""JSON schemas of the configuration files, generated from the typed configuration; a test fails when they drift."""

from __future__ import annotations

import json
from pathlib import Path

from dblocks.claims import Claims
from dblocks.command_line import CommandLine
from dblocks.config import Experiment, Scales
from dblocks.measure.request import Measurements
from dblocks.spec import RunSpec
from dblocks.tables import Table

SCHEMA_DIR = Path(__file__).resolve().parent.parent / "workflow" / "schemas"
MODELS = {
    "command_line": CommandLine,
    "experiment": Experiment,
    "run_spec": RunSpec,
    "scales": Scales,
    "table": Table,
    "claims": Claims,
    "measurements": Measurements,
}


def schema_texts() -> dict[str, str]:
    """File name → content of every schema."""
    return {
        f"{name}.schema.json": json.dumps(model.model_json_schema(), indent=1, ensure_ascii=False) + "\n"
        for name, model in MODELS.items()
    }


def write_schemas(folder: Path = SCHEMA_DIR) -> list[Path]:
    """Write all schemas into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in schema_texts().items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in schema_texts()]
