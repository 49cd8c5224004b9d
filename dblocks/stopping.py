"""What SIGTERM does: a scheduler's warning before a time limit, a preemption, a cancel. It may come several times."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dblocks.errors import Interrupted


@contextlib.contextmanager
def _on_sigterm(handler: Callable[..., Any]) -> Iterator[None]:
    """`handler` for SIGTERM; the one before is put back at the end. Only a main thread can take signals.

    A process that was interrupted is on its way out: further signals are ignored, lest they cut that short.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    except Interrupted:
        before = signal.SIG_IGN
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def flag_on_sigterm() -> Iterator[threading.Event]:
    """For work that must be ended in order: an event that SIGTERM sets."""
    asked = threading.Event()
    with _on_sigterm(lambda *_: asked.set()):
        yield asked


@dataclass
class Attempt:
    """One start of a run; `progress` is set as soon as it has got further than the start before."""

    progress: bool = False


@contextlib.contextmanager
def interrupt_on_sigterm() -> Iterator[Attempt]:
    """For work that can be done again: SIGTERM raises Interrupted."""
    attempt = Attempt()

    def interrupt(*_: Any) -> None:
        raise Interrupted("stopped outside training; what was done before is kept", attempt.progress)

    with _on_sigterm(interrupt):
        yield attempt
