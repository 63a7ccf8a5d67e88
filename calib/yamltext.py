"""YAML as people mean it: `2:4`, `010` and `2024-01-01` are text, `1e-3` is a number, a key given twice is an error.

What is read is made of mappings with text for keys, lists, text, numbers, booleans and nothing, and no part of it
stands in two places: an alias is a copy. The hard case is a text of a hundred bytes that means a billion values
(anchors of anchors), or one that is nested ten thousand times: the events of the parser are counted as they come, and
reading stops at a stated limit before anything large is built.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from calib.settings import SettingsError, shown

MAX_BYTES = 1 << 20  # of a file
MAX_VALUES = 100_000  # in a document, those of aliases counted each time
MAX_DEPTH = 50  # lists and mappings inside each other
MAX_DIGITS = 100  # of a number

PARSER = getattr(yaml, "CLoader", yaml.Loader)  # five times as fast, where libyaml is there
_TAGS = "tag:yaml.org,2002:"
_BOOLEANS = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_MERGE = object()  # the key `<<`, which takes over the keys of another mapping


def read_yaml(text: str, max_values: int = MAX_VALUES) -> Any:
    """The one document in a YAML text, as plain values; None when there is none.

    Raises SettingsError with the line and the remedy: bad YAML, a key that is twice there or no text, a tag, several
    documents, or more values than a file that people write has.
    """
    try:
        return _Builder(max_values).build(yaml.parse(text, Loader=PARSER))
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position if isinstance(error.position, int) else 0) + 1
        raise SettingsError(f"line {line}: a character that YAML does not allow ({error.reason}); remove it") from None
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise SettingsError(
            f"line {line}: half a surrogate pair ({shown(text[error.start])}), which is no character; remove it"
        ) from None


def read_yaml_file(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """The document in a YAML file. Raises SettingsError that begins with the path."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise SettingsError(
                f"{path}: {size:,} bytes; a study file has at most {max_bytes:,} (a number of sets, such as "
                "`sets: 10`, stands for a list of them)"
            )
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except (OSError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    try:
        return read_yaml(text)
    except SettingsError as error:
        raise SettingsError(f"{path}, {error}") from None


@dataclass
class _Anchored:
    """What an alias stands for."""

    value: Any
    values: int  # in it, itself included
    depth: int  # of lists and mappings, itself included


@dataclass
class _Open:
    """A list or mapping that is being read."""

    value: list[Any] | dict[str, Any]
    anchor: str | None
    before: int  # values that came before it
    merged: list[dict[str, Any]]
    lines: dict[str, int]  # of the keys
    key: Any = None
    has_key: bool = False
    depth: int = 1  # of what it holds so far, itself included


class _Builder:
    def __init__(self, max_values: int) -> None:
        self.max_values = max_values
        self.values = 0
        self.anchors: dict[str, _Anchored | None] = {}  # None: not closed yet
        self.open: list[_Open] = []
        self.document: Any = None
        self.documents = 0

    def build(self, events: Iterator[Any]) -> Any:
        for event in events:
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                self.documents += 1
                if self.documents > 1:
                    raise SettingsError(f"line {line}: a second document begins (---); keep one in a file")
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event.anchor, line)
            elif isinstance(event, yaml.ScalarEvent):
                self._count(1, 0, line)
                value = _scalar(event, line, is_key=self._expects_key())
                self._anchor(event.anchor, _Anchored(value, 1, 0))
                self._put(value, line, 0)
            elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
                self._begin(event, line)
            elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
                self._end(line)
        return self.document

    def _begin(self, event: Any, line: int) -> None:
        is_list = isinstance(event, yaml.SequenceStartEvent)
        _check_tag(event.tag, "seq" if is_list else "map", line)
        if self._expects_key():
            raise SettingsError(
                f"line {line}: a key must be text, and this one is a {'list' if is_list else 'mapping'}"
            )
        self._count(1, 1, line)
        self._anchor(event.anchor, None)
        self.open.append(_Open([] if is_list else {}, event.anchor, self.values - 1, [], {}))

    def _end(self, line: int) -> None:
        done = self.open.pop()
        for other in done.merged:
            assert isinstance(done.value, dict)
            done.value = {**other, **done.value}
        self._anchor(done.anchor, _Anchored(done.value, self.values - done.before, done.depth))
        self._put(done.value, line, done.depth)

    def _alias(self, name: str | None, line: int) -> None:
        if name not in self.anchors:
            raise SettingsError(f"line {line}: the alias *{name} names nothing; there is no &{name} before it")
        found = self.anchors[name]
        if found is None:
            raise SettingsError(f"line {line}: the alias *{name} stands inside what it names; write it out")
        self._count(found.values, found.depth, line)
        if self._expects_key() and isinstance(found.value, list | dict):
            raise SettingsError(f"line {line}: a key must be text, and *{name} is a {type(found.value).__name__}")
        self._put(_copy(found.value), line, found.depth)

    def _anchor(self, name: str | None, found: _Anchored | None) -> None:
        if name is not None:
            self.anchors[name] = found

    def _count(self, values: int, depth: int, line: int) -> None:
        self.values += values
        if self.values > self.max_values:
            raise SettingsError(
                f"line {line}: more than {self.max_values:,} values (those of aliases count each time); write less"
            )
        if len(self.open) + depth > MAX_DEPTH:
            raise _too_deep(line)

    def _expects_key(self) -> bool:
        return bool(self.open) and isinstance(self.open[-1].value, dict) and not self.open[-1].has_key

    def _put(self, value: Any, line: int, depth: int) -> None:
        """A whole value in its place: in the list or mapping around it, or as the document."""
        if not self.open:
            self.document = value
            return
        place = self.open[-1]
        place.depth = max(place.depth, depth + 1)
        if isinstance(place.value, list):
            place.value.append(value)
        elif not place.has_key:
            _check_key(value, place.lines, line)
            place.key, place.has_key = value, True
        else:
            if place.key is _MERGE:
                place.merged += _mappings_to_merge(value, line)
            else:
                place.value[place.key] = value
            place.has_key = False


def _check_key(key: Any, lines: dict[str, int], line: int) -> None:
    if key is _MERGE:
        return
    if not isinstance(key, str):
        raise SettingsError(f"line {line}: keys must be text, got {shown(key)}; put it in quotes if it is meant")
    if key in lines:
        again = f" (again in line {line})" if line != lines[key] else ""
        raise SettingsError(f"line {lines[key]}: the key {shown(key)} is there twice{again}; leave one out")
    lines[key] = line


def _mappings_to_merge(value: Any, line: int) -> list[dict[str, Any]]:
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(item, dict) for item in found):
        raise SettingsError(
            f"line {line}: << takes the keys of a mapping, or of a list of mappings, not of another value"
        )
    return found


def _scalar(event: yaml.ScalarEvent, line: int, *, is_key: bool) -> Any:
    text: str = event.value
    if event.tag is None and event.style:  # in quotes, or a block of text
        return text
    if event.tag is None and is_key and text == "<<":
        return _MERGE
    value = text if event.tag == f"{_TAGS}str" else _plain(text, line)
    if event.tag is not None:
        _check_tag(event.tag, {bool: "bool", int: "int", float: "float", str: "str"}.get(type(value), "null"), line)
    return value


def _plain(text: str, line: int) -> Any:
    """What a word without quotes means."""
    if text in _NULLS:
        return None
    if text.lower() in _BOOLEANS and text in (text.lower(), text.upper(), text.title()):
        return _BOOLEANS[text.lower()]
    is_int = _INT.fullmatch(text) is not None
    if not is_int and not _FLOAT.fullmatch(text):
        return text
    if len(text) > MAX_DIGITS:
        raise SettingsError(f"line {line}: a number of {len(text):,} characters; put it in quotes if it is text")
    value = int(text.replace("_", "")) if is_int else float(text)
    if not is_int and not math.isfinite(value):
        raise SettingsError(f"line {line}: {text} is larger than any number; put it in quotes if it is text")
    return value


def _check_tag(tag: str | None, kind: str, line: int) -> None:
    if tag is not None and tag != f"{_TAGS}{kind}":
        name = tag.replace(_TAGS, "!!")
        raise SettingsError(f"line {line}: the tag {shown(name)} does not fit or is not known here; leave it out")


def _copy(value: Any) -> Any:
    if isinstance(value, list):
        return [_copy(inner) for inner in value]
    return {key: _copy(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> SettingsError:
    mark = error.problem_mark or error.context_mark
    line = min(mark.line, text.count("\n")) + 1 if mark else 1  # libyaml may count a line after the last one
    words = ", ".join(str(part) for part in (error.context, error.problem) if part)
    if "nesting depth" in words:
        return _too_deep(line)
    remedy = "; indent with spaces" if "\t" in words or r"\t" in words or "tab " in words else ""
    return SettingsError(f"line {line}: not valid YAML ({words}){remedy}")


def _too_deep(line: int) -> SettingsError:
    return SettingsError(f"line {line}: more than {MAX_DEPTH} lists and mappings inside each other; write less")
