"""Files that people or jobs have written, as typed data: what is wrong is one line that names file, field and value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from dblocks.data.files import one_line
from dblocks.errors import UserError


def first_error(error: ValidationError) -> str:
    """One line for a pydantic error: field, problem, value."""
    detail = error.errors()[0]
    field = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    value = detail.get("input")
    written = repr(value)  # of a file that is no JSON: all of it
    hidden = isinstance(value, dict | list) or detail["type"] in ("missing", "json_invalid") or len(written) > 100
    shown = "" if hidden else f" (found {written})"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{field + ': ' if field else ''}{message}{shown}{more}"


class UniqueKeys(yaml.SafeLoader):
    """Plain data only, and of a key that stands twice in a mapping neither is silently dropped.

    In Python although it takes most of a plan's time: libyaml's C loader dies of a text that is nested deeply.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = (key_node.tag, key_node.value) if isinstance(key_node, yaml.ScalarNode) else id(key_node)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key_node.value}' stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str | bytes) -> Any:
    """The plain data of a YAML text.

    Raises: ValueError saying in one line why it is not YAML.
    """
    try:
        return yaml.load(text, UniqueKeys)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {one_line(error)}") from error
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
