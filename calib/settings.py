"""Settings that people type: strict dataclasses, and errors that name the place, the value and the remedy.

Study files, the API and the command line all end in `parse`, so one wrong key reads the same everywhere:
`methods[2].bits: expected 2 to 8, got 1`. Types are checked strictly (`true` is no integer, `"4"` is no number), and
everything that is given, however deep, has an end: no number beyond 64 bits, none that is infinite, no text that cannot
be written down.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import dataclass_transform  # of pydantic; Python has it from 3.11 on

T = TypeVar("T")


INT32_MAX = 2**31 - 1  # counts: what an int32 column of the results holds
INT64_MAX = 2**63 - 1  # every other number, seeds among them
MAX_DEPTH = 50  # lists and mappings inside each other
MAX_LABEL = 200  # characters of a name that stands in tables and figures
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # besides tab and line break
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
SHOWN = 100  # characters of a value in a message
NAMES_SHOWN = 50  # names to choose from


class SettingsError(ValueError):
    """Something a person wrote cannot be used. The message names the thing, the value and the remedy.

    Several faults that are found together have a line each.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.faults

    @property
    def lines(self) -> list[str]:
        """One printable line for each fault: what would break it or cannot be written is escaped."""
        return [one_line(fault) for fault in self.faults]


def error_lines(error: Exception) -> list[str]:
    """What is wrong, one printable line for each thing."""
    return error.lines if isinstance(error, SettingsError) else [one_line(str(error))]


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
        raise SettingsError(f"{path}: expected a mapping of settings, got {shown(values)}")
    check_plain(values, path)
    try:
        return cls(**values)
    except ValidationError as error:
        raise SettingsError(*_faults(cls, error, path)) from None


def check_plain(value: Any, path: str, depth: int = 0) -> None:
    """Refuse what no setting can be, wherever it stands: keys that are no text, numbers without end, text that cannot
    be written down, endless nesting. Values that are no plain data are left to the type of their setting.

    Raises SettingsError with the path.
    """
    place = path or "the study"
    if depth > MAX_DEPTH:
        raise SettingsError(f"{place}: more than {MAX_DEPTH} lists and mappings inside each other; write less")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise SettingsError(f"{place}: keys must be text, got {shown(key)}")
            check_plain(key, place)
            check_plain(inner, f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            check_plain(inner, f"{path}[{number}]", depth + 1)
    elif isinstance(value, int) and not -INT64_MAX <= value <= INT64_MAX:
        raise SettingsError(f"{place}: expected a number of at most 64 bits ({INT64_MAX}), got {shown(value)}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{place}: expected a finite number, got {value}")
    elif isinstance(value, str) and (found := CONTROL.search(value)):
        raise SettingsError(
            f"{place}: expected text that can be written down, got {shown(value)}; leave {shown(found.group())} out"
        )


def check_label(text: str) -> str:
    """A name that stands in tables and figures: one line that is not blank. Raises ValueError."""
    if not text.strip() or len(text) > MAX_LABEL or UNPRINTABLE.search(text):
        raise ValueError(f"expected one line of 1 to {MAX_LABEL} printable characters, got {shown(text)}")
    return text


Label = Annotated[str, AfterValidator(check_label)]


def shown(value: Any) -> str:
    """The value as an error shows it: one printable line that is not long."""
    try:
        text = one_line(repr(value))
    except ValueError:  # Python writes out integers of at most 4,300 digits
        text = f"a {type(value).__name__} with more digits than can be written"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 20]}... ({len(text):,} characters)"


def counted(number: int, noun: str) -> str:
    """`1 set`, `2 sets`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def one_line(text: str) -> str:
    """The text with everything escaped that cannot be printed, or would begin a new line."""
    return UNPRINTABLE.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def suggestion(name: str, choices: Iterable[str]) -> str:
    """`", did you mean 'wanda'?"` or, when nothing is close, `"; choose from ..."`."""
    names = sorted(one_line(choice) for choice in choices if len(choice) <= SHOWN)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6) if len(name) <= SHOWN else []
    if close:
        return f", did you mean '{close[0]}'?"
    more = ", ..." if len(names) > NAMES_SHOWN else ""
    return f"; choose from {', '.join(names[:NAMES_SHOWN])}{more}" if names else ""


def as_dict(value: Any) -> dict[str, Any]:
    """The settings as plain JSON types, defaults included."""
    return asdict(value)


def identity(value: Any, length: int = 16) -> str:
    """A hash of plain JSON types (mappings, lists, text, numbers, booleans, None), equal on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _faults(cls: Any, error: ValidationError, path: str) -> list[str]:
    """One line for each thing that is wrong: alternatives of one value are one, and so are a key and its typo."""
    grouped: dict[Any, list[Any]] = {}
    for number, item in enumerate(error.errors()):
        branch = next((i for i, part in enumerate(item["loc"]) if i and _BRANCH.fullmatch(str(part))), None)
        grouped.setdefault(number if branch is None else item["loc"][:branch], []).append(item)
    faults = [
        fault
        for items in grouped.values()
        for fault in _faults_inside(items, path) or [_explain_alternatives(cls, items, path)]
    ]
    meant = {match.group(1) for fault in faults if (match := re.search(r"unknown key .*did you mean '(\w+)'", fault))}
    missing = {f"{path}.{name}" if path else name for name in meant}
    return [fault for fault in faults if fault.removesuffix(": required, but not given") not in missing]


def _faults_inside(items: Sequence[Any], path: str) -> list[str]:
    """The faults of a setting that was parsed by itself (a source inside a source), where it calls itself INSIDE."""
    error = items[0].get("ctx", {}).get("error")
    if not items[0]["loc"] or not isinstance(error, SettingsError):
        return []
    return [_place(path, items[0]["loc"]) + fault.removeprefix(INSIDE) for fault in error.faults]


INSIDE = "<here>"  # the place of a setting that is parsed by itself, until its own place is known
_BRANCH = re.compile(r"(str|int|float|bool|none|dict|list|tuple)(\[.*\])?")  # pydantic's name of one of several types


def _explain_alternatives(cls: Any, items: Sequence[Any], path: str) -> str:
    """The errors of one value. pydantic gives those of every type that it may have (`str | list[str]`): the one that
    got furthest is what was meant, and types that failed alike are named together."""
    furthest = max(len(item["loc"]) for item in items)
    chosen = [item for item in items if len(item["loc"]) == furthest]
    loc = tuple(part for i, part in enumerate(chosen[0]["loc"]) if not (i and _BRANCH.fullmatch(str(part))))
    merged = {**chosen[0], "loc": loc}
    words = list(dict.fromkeys(_expected(cls, item) for item in chosen))
    if len(words) == 1:
        return _explain(cls, merged, path)
    return f"{_place(path, loc)}: expected {' or '.join(words)}, got {shown(merged['input'])}"


def _place(path: str, loc: Sequence[Any]) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return f"{path}{where}" if path else where.lstrip(".")


def _explain(cls: Any, item: Any, path: str) -> str:
    place = _place(path, item["loc"])
    described = getattr(cls, "__pydantic_fields__", {})
    known = [getattr(described.get(field.name), "alias", None) or field.name for field in fields(cls) if field.init]
    if item["type"] == "unexpected_keyword_argument":
        name = str(item["loc"][-1])
        return f"{place}: unknown key {shown(name)}{suggestion(name, known)}"
    if item["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{place}: required, but not given"
    if item["type"] == "value_error":  # raised by our own checks, which say it all
        reason = str(item["ctx"]["error"])
        return f"{place}: {reason}" if item["loc"] else f"{path}.{reason}" if path else reason
    return f"{place}: expected {_expected(cls, item)}, got {shown(item['input'])}{_hint(item)}"


WORDS = {"string_type": "text", "list_type": "a list", "dict_type": "a mapping", "mapping_type": "a mapping"}


def _hint(item: Any) -> str:
    """How to write what was probably meant."""
    if item["type"] != "string_type" or not isinstance(item["input"], bool | int | float):
        return ""
    if isinstance(item["input"], bool):
        return " (YAML reads yes, no, on and off as true or false; put text in quotes)"
    return " (put it in quotes)"


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
    if limits.get("le") in (INT32_MAX, INT64_MAX) and item["type"] != "less_than_equal":
        del limits["le"]  # the end of what can be stored, which nobody meant to reach
    if item["type"] in ("greater_than_equal", "greater_than", "less_than_equal", "less_than") and limits:
        words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
        if set(limits) == {"ge", "le"}:
            return f"{limits['ge']} to {limits['le']}"
        return " and ".join(f"{words[bound]} {value}" for bound, value in limits.items())
    if item["type"] in WORDS:
        return WORDS[item["type"]]
    return str(item["msg"]).removeprefix("Input should be ").removeprefix("a valid ")
