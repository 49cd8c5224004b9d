"""log.jsonl: the truth about a run's course, one JSON object a line, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dblocks.data.files import write_atomically
from dblocks.errors import UserError


class RunLog:
    """Append-only JSON lines, each with a `step`; opened at `step`, later lines are dropped."""

    def __init__(self, path: Path, step: int, on_line: Callable[[dict[str, Any]], None] | None = None):
        self.path, self.on_line = path, on_line
        kept = [line for line in read_log(path) if line["step"] <= step]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self.file = open(path, "a")  # noqa: SIM115, closed by close()

    def write(self, **line: Any) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.on_line:
            self.on_line(line)

    def close(self) -> None:
        """On the disk before the weights are: what has those counts as trained, and its log as whole."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; the last may be cut off, by a kill, and is left out then. No file is no lines.

    Raises: UserError naming the first line that is none of a log's.
    """
    if not path.exists():
        return []
    lines, texts = [], path.read_bytes().splitlines()
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError:
            if number == len(texts):
                break
            problem: str | None = "not JSON"
        except RecursionError:
            problem = "nested too deeply"
        else:
            problem = problem_of(line)
        if problem:
            raise UserError(f"{path}: line {number}: {problem}; bring it back as it was, or remove the file")
        lines.append(line)
    return lines


def problem_of(line: Any) -> str | None:
    """What is wrong with a line of a log, if something is."""
    if not isinstance(line, dict):
        return "no JSON object"
    if type(line.get("step")) is not int:
        return "step: must be a whole number"
    for field in ("learning_rate", "seconds"):
        if not _is_number(line.get(field)) or line[field] < 0:
            return f"{field}: must be a number from 0"
    loss = line.get("loss")
    if not isinstance(loss, dict) or not all(map(_is_number, loss.values())):
        return "loss: must be a number for each block"
    return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # JSON's may be NaN, and whole ones too long for a float
