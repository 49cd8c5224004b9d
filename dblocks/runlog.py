"""log.jsonl: the truth about a run's course, one JSON object a line, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class RunLog:
    """Append-only JSON lines, each with a `step`; opened at `step`, later lines are dropped."""

    def __init__(self, path: Path, step: int, on_line: Callable[[dict[str, Any]], None] | None = None):
        self.path, self.on_line = path, on_line
        kept = [line for line in read_log(path) if line["step"] <= step]
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(temporary, path)
        self.file = open(path, "a")  # noqa: SIM115, closed by close()

    def write(self, **line: Any) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.on_line:
            self.on_line(line)

    def close(self) -> None:
        self.file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log up to the first that is none, as a kill cuts off the last; no file is no lines."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict) or "step" not in line:
            break
        lines.append(line)
    return lines
