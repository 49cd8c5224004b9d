"""Errors that a user can act on: one line that names the place, the value and what would be right."""

from __future__ import annotations

import os
import signal


class UserError(Exception):
    """Bad input. The command line prints its message, always one line, and exits with status 2."""

    exit_code = 2

    def __init__(self, message: object):
        super().__init__(" ".join(str(message).splitlines()))


def of_system(error: OSError) -> UserError:
    """What the system says of a file, which is a matter of paths and permissions. What it says of none is a fault of
    the code's and is raised again."""
    if error.filename is None:
        raise error
    return UserError(f"{os.fsdecode(error.filename)}: {error.strerror}")


class TrainingFailed(UserError):
    """Training cannot go on and would fail the same way again (NaN, inf). Exits with status 3."""

    exit_code = 3


class Interrupted(Exception):
    """A run was asked to stop and has saved its state. Exits with status 75 (EX_TEMPFAIL).

    `progress` says whether a scheduler is to start it again: SIGTERM asked, not a person by another signal, and it got
    further since it was started; without, starting again may go on for ever.
    """

    exit_code = 75

    def __init__(self, message: str, progress: bool, by: int = signal.SIGTERM):
        super().__init__(message)
        self.progress = progress and by == signal.SIGTERM
