"""How many bad inputs are tried: by name, each of another thing that is wrong."""

from __future__ import annotations

from tests.bad_input.cases import COMMAND_LINES, CONFIGURATION
from tests.bad_input.commands import CALLS, ENVIRONMENT
from tests.bad_input.data_files import DATA

ROOMS = {
    "configuration": {name: (edit.file, edit.old, edit.new) for name, edit in CONFIGURATION.items()},
    "command line": {name: (repr(config),) for name, (config, _) in COMMAND_LINES.items()},
    "call": {name: (call.arguments, call.said) for name, call in CALLS.items()},
    "environment": {name: tuple(call.environment.items()) + call.said for name, call in ENVIRONMENT.items()},
    "data file": {name: (call.arguments, call.said) for name, call in DATA.items()},
}


def test_there_are_thirty_and_more_of_every_kind():
    counts = {room: len(set(cases.values())) for room, cases in ROOMS.items()}
    assert counts == {room: len(cases) for room, cases in ROOMS.items()}, "the same thing is tried twice"
    assert sum(counts.values()) >= 30
    assert all(counts.values())
