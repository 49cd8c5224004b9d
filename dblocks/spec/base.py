"""What every part of the configuration has in common."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator


class Part(BaseModel):
    """Base of every part of the configuration: typed, immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, content: Any) -> Any:
        """Pydantic takes true for 1; of the word it says that it is no number."""
        if not isinstance(content, dict):
            return content
        return content | {name: _in_words(content[name]) for name in _numbers(cls) & content.keys()}


@cache
def _numbers(part: type[Part]) -> frozenset[str]:
    """The fields that are numbers, or sequences or mappings of such."""
    return frozenset(name for name, field in part.model_fields.items() if _is_number(field.annotation))


def _is_number(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_is_number, get_args(annotation)))


def _in_words(value: Any) -> Any:
    """The value with `true` and `false` for True and False."""
    if isinstance(value, dict):
        return {key: _in_words(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_in_words(part) for part in value]
    return str(value).lower() if isinstance(value, bool) else value
