"""How far training is, for people: a bar, and nothing where none is wanted."""

from __future__ import annotations

import sys
from typing import Any


def progress_bar(start: int, total: int, show: bool) -> Any:
    """tqdm where it is installed and wanted, else nothing that looks like it."""
    try:
        from tqdm import tqdm
    except ImportError:
        return QuietBar()
    # a log file gets a line now and then, a terminal a living bar
    interval = 1.0 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, initial=start, disable=not show, unit="step", mininterval=interval, maxinterval=interval)


class QuietLog:
    """Stands in for the log in processes that do not write one."""

    def write(self, **line: Any) -> None: ...

    def close(self) -> None: ...


class QuietBar:
    """Stands in for tqdm on a bare machine."""

    def update(self) -> None: ...

    def set_postfix(self, values: dict[str, str], refresh: bool) -> None: ...

    def close(self) -> None: ...
