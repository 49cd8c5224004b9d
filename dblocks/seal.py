"""What a file of results is held against when it is read: its own checksum, and the folder it lies in."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from dblocks.errors import UserError

SEAL = "checksum"
M = TypeVar("M", bound=BaseModel)


def sealed(model: BaseModel) -> str:
    """The JSON of a record or a measurement, with its checksum."""
    content = json.loads(model.model_dump_json())
    return json.dumps(content | {SEAL: checksum(content)}, indent=1, ensure_ascii=False) + "\n"


def unsealed(text: str, model: type[M]) -> M:
    """The record or measurement of such a JSON. Files that were written before there was a checksum have none.

    Raises: ValueError if it is not whole, or not what its checksum says.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    rest = {name: value for name, value in content.items() if name != SEAL} if isinstance(content, dict) else content
    read = model.model_validate(rest)  # first, since it names the field
    if content.get(SEAL) not in (None, checksum(rest)):
        raise ValueError(f"{SEAL}: {content[SEAL]} is not that of the rest: it was changed or damaged")
    return read


def checksum(content: dict[str, Any]) -> str:
    """SHA-256 (16 hex digits) over content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def check_place(path: Path, identity: str, seed: int) -> None:
    """Raises: UserError if a run's file lies in the folder of another run or seed, `runs/<name>-<hash8>/seed<k>`."""
    folder, run = path.absolute().parent, path.absolute().parent.parent
    if run.parent.name == "runs" and (run.name.rpartition("-")[2], folder.name) != (identity[:8], f"seed{seed}"):
        raise UserError(
            f"{path}: is of run {identity[:8]}, seed {seed}, which is not this folder's; bring back what was there, or "
            f"remove {folder} to make it again"
        )
