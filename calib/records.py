"""JSON records out of a stream of text, one after another, however they are laid out.

JSON lines, a list of records, and objects that are printed over several lines are the same to a reader: values with
blanks between them. Values are decoded out of a buffer that grows while the last one is cut off by its end, so a file
of any size is read with little memory. The hard case is a broken value: it is told from one that is cut off by where
the decoder stopped, and named with its line instead of reading the whole file in search of its end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from calib.settings import SettingsError

CHUNK = 1 << 18  # characters read at a time
MAX_RECORD = 1 << 26  # characters of one record; more is a file that is not what it seems
_BLANK = re.compile("[ \t\r\n\ufeff]*")
_CUT_OFF = 16  # characters before the end of the buffer where a value that is cut off stops the decoder


class Doubled(dict[str, Any]):
    """An object in which keys are given twice."""

    twice: frozenset[str]


def json_values(chunks: Iterator[str], column: str = "") -> Iterator[tuple[str, Any]]:
    """(`line 3` or, in a list, `item 3`, value) of each JSON value in a text that comes in chunks.

    An object that gives `column`, or a part of its dotted path, twice is a `Doubled`. Raises SettingsError that begins
    with the line of the first value that is broken.
    """
    text = _Text(chunks, column)
    if text.peek() == "[":
        yield from _items(text)
        return
    while text.peek():
        line = text.line
        yield f"line {line}", text.value()


def _items(text: _Text) -> Iterator[tuple[str, Any]]:
    """The items of a list that is the whole text."""
    text.skip(1)
    number = 0
    while (following := text.peek()) != "]":
        if number:
            if following != ",":
                raise _broken(text.line, "Expecting ',' delimiter" if following else "the list has no end")
            text.skip(1)
        if not text.peek():
            raise _broken(text.line, "the list has no end")
        number += 1
        yield f"item {number}", text.value()
    text.skip(1)
    if text.peek():
        raise _broken(text.line, "more text after the end of the list; put one list, or one object after another")


@dataclass
class _Text:
    """What is read and not yet decoded, and the line where it begins."""

    chunks: Iterator[str]
    column: str = ""
    buffer: str = ""
    place: int = 0  # in the buffer
    line: int = 1  # of the place
    ended: bool = False

    def peek(self) -> str:
        """The next character that is not blank, where the place is then; empty at the end."""
        while True:
            found = _BLANK.match(self.buffer, self.place)
            assert found is not None
            self.skip(found.end() - self.place)
            if self.place < len(self.buffer) or self.ended:
                return self.buffer[self.place : self.place + 1]
            self._read(CHUNK)

    def skip(self, characters: int) -> None:
        self.line += self.buffer.count("\n", self.place, self.place + characters)
        self.place += characters

    def value(self) -> Any:
        """The value that begins at the place."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.place)
            except json.JSONDecodeError as error:
                if not self._is_cut_off(error):
                    raise self._broken_value(error) from None
            except RecursionError:
                raise _broken(self.line, "lists and objects nested more deeply than can be read") from None
            except ValueError:  # Python reads integers of at most 4,300 digits
                raise _broken(self.line, "an integer of thousands of digits; write it as text") from None
            else:
                if end < len(self.buffer) or self.ended:
                    if self._may_be_doubled(end):
                        value = _STRICT.raw_decode(self.buffer, self.place)[0]
                    self.skip(end - self.place)
                    return value
            rest = len(self.buffer) - self.place
            if rest > MAX_RECORD:
                raise _broken(self.line, f"a record of more than {MAX_RECORD:,} characters; put one document in each")
            self._read(max(CHUNK, rest))

    def _may_be_doubled(self, end: int) -> bool:
        """Whether an object in the value up to `end` could have the column twice; quick, and never wrongly no."""
        if any(character in self.column for character in '"\\') or self.buffer.find("\\u", self.place, end) >= 0:
            return True
        keys = {self.column, *self.column.split(".")}
        return any(self.buffer.count(f'"{key}"', self.place, end) > 1 for key in keys)

    def _broken_value(self, error: json.JSONDecodeError) -> SettingsError:
        """The fault by the line where its record begins, and the place where the decoder stopped."""
        further = self.buffer.count("\n", self.place, error.pos)
        column = error.pos - self.buffer.rfind("\n", 0, error.pos)
        return _broken(self.line, f"{error.msg}, {f'line {self.line + further} ' if further else ''}column {column}")

    def _is_cut_off(self, error: json.JSONDecodeError) -> bool:
        return not self.ended and (
            error.pos >= len(self.buffer) - _CUT_OFF or error.msg.startswith("Unterminated string")
        )

    def _read(self, characters: int) -> None:
        """At least so many characters more, unless the text ends before."""
        parts = [self.buffer[self.place :]]
        while characters > 0 and not self.ended:
            chunk = next(self.chunks, None)
            if chunk is None:
                self.ended = True
            else:
                parts.append(chunk)
                characters -= len(chunk)
        self.buffer, self.place = "".join(parts), 0


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    doubled = Doubled(record)
    keys = [key for key, _ in pairs]
    doubled.twice = frozenset(key for key in record if keys.count(key) > 1)
    return doubled


_DECODER = json.JSONDecoder()
_STRICT = json.JSONDecoder(object_pairs_hook=_pairs)


def _broken(line: int, reason: str) -> SettingsError:
    return SettingsError(f"line {line}: not valid JSON ({reason})")
