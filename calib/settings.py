"""Settings that people type: strict dataclasses, and errors that name the place, the value and the remedy.

Study files, the API and the command line all end in `parse`, so one wrong key reads the same everywhere:
`methods[2].bits: expected 2 to 8, got 1`. Types are checked strictly (`true` is no integer, `"4"` is no number).
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

T = TypeVar("T")


class SettingsError(ValueError):
    """Something a person wrote cannot be used. The message names the thing, the value and the remedy."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Turn a class into a frozen, keyword-only dataclass that refuses unknown keys and wrong types."""
    config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
    return cast(type[T], pydantic_dataclass(frozen=True, kw_only=True, config=config)(cls))


def parse(cls: Callable[..., T], values: Mapping[str, Any], path: str) -> T:
    """Build `cls(**values)`; `path` is where the values stand (`methods[2]`), for the error message.

    Raises SettingsError with one line for each thing that is wrong.
    """
    if not isinstance(values, Mapping):
        raise SettingsError(f"{path}: expected a mapping of settings, got {values!r}")
    wrong_keys = [key for key in values if not isinstance(key, str)]
    if wrong_keys:
        raise SettingsError(f"{path}: keys must be text, got {wrong_keys[0]!r}")
    try:
        return cls(**values)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(cls, item, path) for item in error.errors())) from None


def suggestion(name: str, choices: Iterable[str]) -> str:
    """`", did you mean 'wanda'?"` or, when nothing is close, `"; choose from ..."`."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f", did you mean '{close[0]}'?"
    return f"; choose from {', '.join(names)}" if names else ""


def as_dict(value: Any) -> dict[str, Any]:
    """The settings as plain JSON types, defaults included."""
    return asdict(value)


def identity(value: Any, length: int = 16) -> str:
    """A hash of plain JSON types (mappings, lists, text, numbers, booleans, None), equal on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _explain(cls: Any, item: Any, path: str) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"])
    place = f"{path}{where}" if path else where.lstrip(".")
    described = getattr(cls, "__pydantic_fields__", {})
    known = [getattr(described.get(field.name), "alias", None) or field.name for field in fields(cls) if field.init]
    if item["type"] == "unexpected_keyword_argument":
        return f"{place}: unknown key '{item['loc'][-1]}'{suggestion(str(item['loc'][-1]), known)}"
    if item["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{place}: required, but not given"
    if item["type"] == "value_error":  # raised by our own checks, which say it all
        reason = str(item["ctx"]["error"])
        return f"{place}: {reason}" if where else f"{path}.{reason}" if path else reason
    return f"{place}: expected {_expected(cls, item)}, got {item['input']!r}"


def _expected(cls: Any, item: Any) -> str:
    """`2 to 8` for a bounded number, otherwise pydantic's own words without their `Input should be`."""
    described = getattr(cls, "__pydantic_fields__", {})
    place = item["loc"][0] if item["loc"] else None
    field = next((info for name, info in described.items() if place in (name, info.alias)), None)
    limits: dict[str, Any] = {}
    metadata = getattr(field, "metadata", [])
    for rule in metadata:
        for bound in ("ge", "gt", "le", "lt"):
            if getattr(rule, bound, None) is not None:
                limits[bound] = getattr(rule, bound)
    if item["type"] in ("greater_than_equal", "greater_than", "less_than_equal", "less_than") and limits:
        words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
        if set(limits) == {"ge", "le"}:
            return f"{limits['ge']} to {limits['le']}"
        return " and ".join(f"{words[bound]} {value}" for bound, value in limits.items())
    return str(item["msg"]).removeprefix("Input should be ").removeprefix("a valid ")
