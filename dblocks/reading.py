"""Files that people or jobs have written, as typed data: what is wrong is one line that names file, field and value."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ValidationError

from dblocks.data.files import one_line
from dblocks.errors import UserError

MOST_NODES = 100_000  # of a text with aliases: a few lines of these can stand for more than memory holds
# What is no text though it stands without quotes. YAML 1.1, which PyYAML reads, knows more: there `on` is true, `0100`
# is 64, `1:30` is 90 and 2026-01-01 is a date.
SCALARS = (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", "[-+]?(?:0|[1-9][0-9_]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", "<<", ["<"]),
)


def first_error(error: ValidationError) -> str:
    """One line for a pydantic error: field, problem, value."""
    # a name that is not known first: where one is misspelled, the right one is missing too
    detail = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    field = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = "no such field"
    value = detail.get("input")
    hidden = isinstance(value, dict | list) or detail["type"] in ("missing", "json_invalid")
    written = "" if hidden else repr(value)
    shown = "" if hidden or len(written) > 100 else f" (found {written})"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{field + ': ' if field else ''}{message}{shown}{more}"


class PlainData(yaml.SafeLoader):
    """Plain data only, scalars as YAML 1.2 has them, and of a key that stands twice in a mapping neither is dropped.

    In Python although it takes most of a plan's time: libyaml's C loader dies of a text that is nested deeply.
    """

    yaml_implicit_resolvers: ClassVar = {}  # those of SCALARS, below

    def __init__(self, text: str | bytes):
        super().__init__(text)
        self.nodes = 0  # so far, each alias counted as all that it stands for
        self.nodes_of: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event, before = self.peek_event(), self.nodes
        node = super().compose_node(parent, index)
        if not isinstance(event, yaml.AliasEvent):
            self.nodes += 1
            self.nodes_of[id(node)] = self.nodes - before
            return node
        # a node that it stands in itself has no number yet
        self.nodes += self.nodes_of.get(id(node), MOST_NODES + 1)
        if self.nodes > MOST_NODES:
            raise yaml.composer.ComposerError(None, None, "aliases stand for too much", event.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = (key_node.tag, key_node.value) if isinstance(key_node, yaml.ScalarNode) else id(key_node)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key_node.value}' stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _fitting(kind: str) -> Callable[[PlainData, yaml.Node], Any]:
    """The constructor of an explicit tag, whose errors name value and place."""

    def construct(loader: PlainData, node: yaml.Node) -> Any:
        try:
            return getattr(yaml.SafeLoader, f"construct_yaml_{kind}")(loader, node)
        except (AttributeError, LookupError, ValueError) as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"'{node.value}' is no {kind}", node.start_mark
            ) from error

    return construct


for _kind in ("bool", "int", "float", "timestamp"):
    PlainData.add_constructor(f"tag:yaml.org,2002:{_kind}", _fitting(_kind))
for _kind, _pattern, _first in SCALARS:
    PlainData.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), _first)


def parse_yaml(text: str | bytes) -> Any:
    """The plain data of a YAML text.

    Raises: ValueError saying in one line why it is not YAML.
    """
    try:
        return yaml.load(text, PlainData)
    except yaml.YAMLError as error:
        # PyYAML's name for a text; whoever reads it knows its file
        reason = re.sub('in "<(byte|unicode) string>", ', "", one_line(error))
        raise ValueError(f"not YAML: {reason}") from error
    except RecursionError as error:
        raise ValueError("not YAML: nested too deeply") from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file, as a UserError that names it and the field."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise UserError(f"{path}: {first_error(error)}") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def yaml_files(folder: Path) -> list[Path]:
    """The folder's *.yaml by name, without those that editors (.#vit.yaml) and macOS (._vit.yaml) leave beside them."""
    return sorted(path for path in folder.glob("*.yaml") if not path.name.startswith("."))


def read_yaml(path: Path, model: type[BaseModel]) -> Any:
    """A YAML file as `model`.

    Raises: UserError naming file, field, value and problem.
    """
    with naming(path):
        return model.model_validate(parse_yaml(path.read_bytes()))


def read_json(path: Path, model: type[BaseModel]) -> Any:
    """A JSON file as `model`.

    Raises: UserError naming the file, and the field that is wrong or missing.
    """
    with naming(path):
        return model.model_validate_json(path.read_bytes())
