"""What asks a run to stop: SIGTERM of a scheduler, Ctrl-C, a connection that is cut. Each may come several times."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dblocks.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ECHO = 1.0  # seconds in which a second SIGINT is the first: a terminal sends it, and torchrun passes it on


@contextlib.contextmanager
def _on_signals(handler: Callable[[int], None]) -> Iterator[None]:
    """`handler` for SIGNALS; those before are put back at the end. Only a main thread can take signals.

    What was ignored stays ignored, as SIGINT in a shell's background and SIGHUP under nohup; but a scheduler is heard.
    A process that was interrupted is on its way out: further signals are ignored, lest they cut that short.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS[1:]:
        if before[number] in (signal.SIG_IGN, None):  # None: taken by something that is not Python's
            del before[number]
    for number in before:
        signal.signal(number, lambda number, _: handler(number))
    try:
        yield
    except Interrupted:
        before = dict.fromkeys(before, signal.SIG_IGN)
        raise
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@dataclass
class Stop:
    """Whether a run was asked to stop; `by` which signal."""

    asked: threading.Event = field(default_factory=threading.Event)
    by: int = signal.SIGTERM


@contextlib.contextmanager
def flag_on_signals() -> Iterator[Stop]:
    """For work that must be ended in order: a flag that the first signal sets; a second Ctrl-C ends it at once."""
    stop, since = Stop(), 0.0

    def ask(number: int) -> None:
        nonlocal since
        if not stop.asked.is_set():
            stop.by, since = number, time.monotonic()
            stop.asked.set()
        elif number == signal.SIGINT and time.monotonic() - since > ECHO:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)

    with _on_signals(ask):
        yield stop


@dataclass
class Attempt:
    """One start of a run; `progress` is set as soon as it has got further than the start before."""

    progress: bool = False


@contextlib.contextmanager
def interrupt_on_signals() -> Iterator[Attempt]:
    """For work that can be done again: the first signal raises Interrupted."""
    attempt = Attempt()

    def interrupt(number: int) -> None:
        raise Interrupted("stopped outside training; what was done before is kept", attempt.progress, number)

    with _on_signals(interrupt):
        yield attempt
