"""YAML is read as people mean it, and what it costs has an end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from calib import yamltext
from calib.settings import SettingsError
from calib.yamltext import MAX_DEPTH, MAX_VALUES, read_yaml, read_yaml_file


@pytest.fixture(params=["libyaml", "plain Python"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers: an installation may lack libyaml."""
    if request.param == "libyaml":
        pytest.importorskip("yaml._yaml")
    else:
        monkeypatch.setattr(yamltext, "PARSER", yaml.Loader)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2:4", "2:4"),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1_000", -1000),
        ("010", "010"),
        ("0x1f", "0x1f"),
        ("2024-01-01", "2024-01-01"),
        (".inf", ".inf"),
        ("yes", True),
        ("Off", False),
        ("yEs", "yEs"),
        ("~", None),
        ("", None),
        ("# nothing", None),
        ("'7'", "7"),
        ('"null"', "null"),
        ("!!str 7", "7"),
        ("!!int 7", 7),
        ("a: |\n  7\n", {"a": "7\n"}),
        ("a: [1, {b: c}]\n", {"a": [1, {"b": "c"}]}),
        ("a: 1\r\nb:\r\n  - c\r\n", {"a": 1, "b": ["c"]}),
        ("--- {a: 1}\n...\n", {"a": 1}),
        ("a: {}\nb: []\nc:\n", {"a": {}, "b": [], "c": None}),
    ],
)
def test_words_mean_what_people_mean(text: str, value: Any) -> None:
    found = read_yaml(text)
    assert found == value and type(found) is type(value)


def test_an_alias_is_a_copy() -> None:
    found = read_yaml("a: &x {b: [1]}\nc: *x\nd: [*x]\n")
    assert found == {"a": {"b": [1]}, "c": {"b": [1]}, "d": [{"b": [1]}]}
    found["c"]["b"].append(2)
    assert found["a"] == found["d"][0] == {"b": [1]}


def test_merged_keys_give_way_to_those_that_are_written_and_to_earlier_ones() -> None:
    text = "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz: {<<: [*x, *y], c: 3}\nw:\n  a: 4\n  <<: *x\n"
    found = read_yaml(text)
    assert found["z"] == {"a": 1, "b": 1, "c": 3}
    assert found["w"] == {"a": 4, "b": 1}
    assert found == yaml.safe_load(text)


def test_limits_are_met_and_not_passed() -> None:
    assert len(read_yaml(f"[{'1,' * (MAX_VALUES - 1)}]")) == MAX_VALUES - 1
    with pytest.raises(SettingsError, match="line 1: more than 100,000 values"):
        read_yaml(f"[{'1,' * MAX_VALUES}]")
    read_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(SettingsError, match="more than 50 lists and mappings inside each other"):
        read_yaml("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_values_of_aliases_are_counted_each_time() -> None:
    inner = f"&a [{', '.join(['1'] * 99)}]"  # 100 values
    assert len(read_yaml(f"[{inner}, {', '.join(['*a'] * 998)}]")) == 999
    with pytest.raises(SettingsError, match="more than 100,000 values"):
        read_yaml(f"[{inner}, {', '.join(['*a'] * 1000)}]")


def test_a_file_is_named_and_has_a_size(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml_file(path) == {"a": 1}
    with pytest.raises(SettingsError, match=r"a\.yaml: 8 bytes; a study file has at most 7"):
        read_yaml_file(path, max_bytes=7)
    path.write_text("a: [1\nb: 2\n")
    with pytest.raises(SettingsError, match=r"a\.yaml, line \d: not valid YAML"):
        read_yaml_file(path)
    with pytest.raises(SettingsError, match=r"b\.yaml: cannot be read"):
        read_yaml_file(tmp_path / "b.yaml")
