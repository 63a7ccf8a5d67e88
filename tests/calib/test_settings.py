"""Whatever people type has an end, and its error is one printable line."""

from __future__ import annotations

import pickle
from typing import Annotated, Any

import pytest
from pydantic import Field

from calib.settings import INT64_MAX, Label, SettingsError, one_line, parse, settings, shown, suggestion


@settings
class Example:
    number: int = 0
    share: float = 0.0
    path: str | list[str] = ""
    items: list[str | dict[str, Any]] = Field(default_factory=list)
    bits: Annotated[int, Field(ge=2, le=8)] = 4
    label: Label = "x"
    anything: Any = None


def fault(**values: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(Example, values, "here")
    assert len(caught.value.lines) == 1
    return caught.value.lines[0]


@pytest.mark.parametrize("number", [INT64_MAX, -INT64_MAX])
def test_numbers_of_64_bits_are_taken(number: int) -> None:
    assert parse(Example, {"number": number, "anything": [{"a": number}]}, "").number == number


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"number": 2**63},
            "here.number: expected a number of at most 64 bits (9223372036854775807), got 92233720368547",
        ),
        ({"anything": {"a": [0, 10**5000]}}, "here.anything.a[1]: expected a number of at most 64 bits"),
        ({"share": float("nan")}, "here.share: expected a finite number, got nan"),
        ({"anything": [float("-inf")]}, "here.anything[0]: expected a finite number, got -inf"),
        ({"path": "a\0b"}, "here.path: expected text that can be written down, got 'a\\x00b'; leave '\\x00' out"),
        ({"anything": {"\ud800": 1}}, "here.anything: expected text that can be written down, got '\\ud800'"),
        ({"anything": {1: 2}}, "here.anything: keys must be text, got 1"),
        ({"path": 5}, "here.path: expected text or a list, got 5"),
        ({"path": ["a", 5]}, "here.path[1]: expected text, got 5 (put it in quotes)"),
        ({"items": ["a", 5]}, "here.items[1]: expected text or a mapping, got 5"),
        ({"label": "a\nb"}, "here.label: expected one line of 1 to 200 printable characters, got 'a\\nb'"),
        ({"label": False}, "here.label: expected text, got False (YAML reads yes, no, on and off as true or false"),
        ({"bits": 9}, "here.bits: expected 2 to 8, got 9"),
        ({"bits": "x" * 10**6}, "here.bits: expected integer, got 'xxx"),
        ({"numbr": 1}, "here.numbr: unknown key 'numbr', did you mean 'number'?"),
    ],
)
def test_what_no_setting_can_be_is_named_with_its_path(values: dict[str, Any], message: str) -> None:
    found = fault(**values)
    assert found.startswith(message)
    assert len(found) < 400


def test_endless_nesting_is_refused() -> None:
    deep: list[Any] = []
    deep.append(deep)
    assert "more than 50 lists and mappings inside each other" in fault(anything=deep)


def test_a_key_with_a_typo_is_one_fault() -> None:
    @settings
    class Needs:
        wanted: int

    with pytest.raises(SettingsError) as caught:
        parse(Needs, {"wantde": 1}, "")
    assert caught.value.lines == ["wantde: unknown key 'wantde', did you mean 'wanted'?"]
    with pytest.raises(SettingsError) as caught:
        parse(Needs, {"other": 1}, "")
    assert caught.value.lines == ["wanted: required, but not given", "other: unknown key 'other'; choose from wanted"]


def test_several_faults_have_a_line_each_and_survive_a_process_border() -> None:
    error = SettingsError("one\nwith a break \ud800", "two")
    assert error.lines == ["one\\nwith a break \\ud800", "two"]
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, SettingsError) and again.lines == error.lines and str(again) == str(error)


def test_values_are_shown_in_one_short_line() -> None:
    assert shown("a\u2028b\x1b") == "'a\\u2028b\\x1b'"
    assert shown("数据 é") == "'数据 é'"
    assert len(shown(list(range(10**5)))) < 150
    assert shown(10**5000) == "a int with more digits than can be written"
    assert one_line("plain — text\u00a0") == "plain — text\u00a0"


def test_suggestions_are_short() -> None:
    assert suggestion("ab", ["x\ny" * 500, "abc"]) == ", did you mean 'abc'?"
    assert suggestion("zzz", [f"name{n}" for n in range(1000)]).endswith(", ...")
