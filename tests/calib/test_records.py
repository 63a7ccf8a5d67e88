"""JSON values out of a stream: the same records however they are laid out and wherever the chunks end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from calib.records import Doubled, json_values
from calib.settings import SettingsError

RECORDS = [
    {"text": 'one "quoted" \\ ü \n', "meta": {"n": [1, 2.5e-3, True]}},
    {"text": "数据"},
    "alone",
    None,
    17,
    ["x", {}],
]
LAYOUTS = {
    "lines": "\n".join(json.dumps(record) for record in RECORDS),
    "lines with blank ones between": "\n \n\n".join(json.dumps(record) for record in RECORDS) + "\n\n",
    "printed objects": "\n".join(json.dumps(record, indent=2, ensure_ascii=False) for record in RECORDS),
    "a list": json.dumps(RECORDS),
    "a printed list": json.dumps(RECORDS, indent=4) + "\n",
    "marks between": "\ufeff" + "\n\ufeff".join(json.dumps(record) for record in RECORDS),
}


def chunks(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


def values(text: str, size: int = 1 << 16, column: str = "text") -> list[Any]:
    return [value for _, value in json_values(chunks(text, size), column)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
def test_every_layout_gives_the_same_records(layout: str, size: int) -> None:
    assert values(LAYOUTS[layout], size) == RECORDS


def test_places_are_lines_and_items() -> None:
    text = '{"a": 1}\n\n{\n "a": 2\n}\n{"a": 3}'
    assert [place for place, _ in json_values(chunks(text, 3))] == ["line 1", "line 3", "line 6"]
    assert [place for place, _ in json_values(chunks("[1,\n 2]", 2))] == ["item 1", "item 2"]


def test_a_list_without_items_and_a_text_without_values_are_empty() -> None:
    assert values("[]") == values(" [ \n] ") == values("") == values(" \n") == []


@pytest.mark.parametrize("size", [1, 5, 10_000])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": }', "line 2: not valid JSON (Expecting value, column 7)"),
        ('{"a": 1}\n{"a": \n\n]}', "line 2: not valid JSON (Expecting value, line 4 column 1)"),
        ('{"a": 1}\n{"a": "cut', "line 2: not valid JSON (Unterminated string"),
        ("[1,\n2\n3]", "line 3: not valid JSON (Expecting ',' delimiter"),
        ("[1, 2", "line 1: not valid JSON (the list has no end)"),
        ("[1] 2", "line 1: not valid JSON (more text after the end of the list"),
        ('{"a": "\\x"}', "line 1: not valid JSON (Invalid \\escape"),
        ("nul", "line 1: not valid JSON (Expecting value"),
    ],
)
def test_the_first_broken_value_is_named_with_its_line(text: str, message: str, size: int) -> None:
    with pytest.raises(SettingsError) as caught:
        values(text, size)
    assert str(caught.value).startswith(message)


def test_a_broken_value_is_named_before_the_rest_is_read() -> None:
    def endless() -> Iterator[str]:
        yield '{"a": nonsense}\n'
        yield " " * (1 << 18)
        while True:
            yield '{"a": 1}\n' * 1000

    with pytest.raises(SettingsError, match="line 1: not valid JSON"):
        list(json_values(endless()))


def test_a_record_without_end_is_given_up() -> None:
    def endless() -> Iterator[str]:
        yield '{"a": "'
        while True:
            yield "x" * (1 << 20)

    with pytest.raises(SettingsError, match="line 1: .*a record of more than 67,108,864 characters"):
        list(json_values(endless()))


def test_doubled_keys_of_the_column_are_marked_and_others_are_not() -> None:
    plain, doubled, deep = values(
        '{"meta": {"a": 1, "a": 2}, "text": "x"}\n{"text": 1, "text": 2}\n{"m": {"b": 1, "b": 2}}', column="text"
    )
    assert not isinstance(plain, Doubled)
    assert isinstance(doubled, Doubled) and doubled.twice == {"text"}
    assert not isinstance(deep, Doubled)
    (deep,) = values('{"m": {"b": 1, "b": 2}}', column="m.b")
    assert isinstance(deep["m"], Doubled)
    (hidden,) = values('{"text": 1, "te\\u0078t": 2}')
    assert isinstance(hidden, Doubled)
