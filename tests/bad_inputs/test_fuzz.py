"""Studies with something random at a random place: a plan, or one line for each fault; never a traceback.

The values are those that break programs: numbers at the ends, text that cannot be printed, types in each other's place.
Every study that ships is spoilt, in its file and by `--set`, with a fixed seed.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from calib.yamltext import read_yaml
from sweep.config import STUDIES, study_names
from sweep.launch import app

ROUNDS = 12  # of each study
NUMBERS = [0, 1, -1, 2, 7, 10**4, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63), 10**30, 0.0, -0.5, 1e-300, 1e308, 0.5]
TEXTS = [
    "",
    " ",
    "\n",
    "a\nb",
    "\u0000",
    "\u2028",
    "é",
    "-",
    "--local",
    "~",
    "~nobody-x/y",
    "/",
    ".",
    "..",
    "*",
    "[",
    "a/b",
    "a/b@c",
    "@",
    "x" * 300,
    "2:4",
    "0:0",
    "9:9",
    "-1:4",
    "reference",
    "books",
    "gptq",
    "dense",
    "{{",
    "%s",
    "null",
    "1e3",
]
WORDS = [
    "yes",
    "no",
    "~",
    "2024-01-01",
    "010",
    "0x1f",
    "1_000",
    ".inf",
    ".nan",
    "1e400",
    "&a [*a]",
    "*a",
    "!!python/name:os",
    "!x y",
    "[",
    "{",
    "'",
    "- a",
    "a: b: c",
    "? [a]",
    "---",
    "\t",
    "%YAML 9",
    "|",
    ">",
    "`",
    "@",
    "<<: *a",
    "{<<: 1}",
]
NESTED: list[Any] = [
    None,
    True,
    False,
    [],
    {},
    [[]],
    [{}],
    [None],
    {"a": None},
    {"source": "file"},
    {"source": "file", "path": "/"},
    {"source": "mixture", "parts": {}},
    {"source": "heldout", "domain": ["books"]},
    {"method": "gptq"},
    {"source": "c4", "path": "nowhere"},
    {"source": "hub", "repository": "a", "files": [""]},
    ["rtn", "gptq"],
    {"model": "reference-2m", "revision": "x"},
    {"perturbation": "typos", "strength": 2},
]


def places(value: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:
    """(container, key, path) of everything inside a document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        where = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}".lstrip(".")
        yield value, key, where
        yield from places(inner, where)


def spoil(document: dict[str, Any], chance: random.Random) -> None:
    """Put something else at one place of the document, or take it away, or give it another name."""
    container, key, _ = chance.choice(list(places(document)))
    what = chance.random()
    if what < 0.1:
        del container[key]
    elif what < 0.2 and isinstance(container, dict):
        container[chance.choice(TEXTS)] = container.pop(key)
    elif what < 0.3:
        container[key] = [container[key], copy.deepcopy(container[key])]
    else:
        container[key] = copy.deepcopy(chance.choice(chance.choice([NUMBERS, TEXTS, NESTED])))


def launch(arguments: list[str]) -> None:
    """Plan, and assert that it ends as it should."""
    result = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert result.exception is None or isinstance(result.exception, SystemExit), f"{arguments}: {result.exception!r}"
    assert result.exit_code in (0, 2), f"{arguments}: {result.output}"
    lines = [line for line in result.stderr.splitlines() if line]
    assert all(line.startswith("error: ") for line in lines), f"{arguments}: {lines}"
    assert bool(lines) == (result.exit_code == 2), f"{arguments}: {lines}"


@pytest.mark.parametrize("name", study_names())
def test_spoilt_study_is_planned_or_explained(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chance = random.Random(f"study {name}")
    whole = read_yaml((STUDIES / f"{name}.yaml").read_text())
    for _ in range(ROUNDS):
        document = copy.deepcopy(whole)
        for _ in range(chance.choice([1, 1, 2, 4])):
            spoil(document, chance)
        Path("spoilt.yaml").write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=chance.random() < 0.5))
        launch(["spoilt.yaml"])


@pytest.mark.parametrize("name", study_names())
def test_spoilt_override_is_applied_or_explained(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chance = random.Random(f"override {name}")
    whole = read_yaml((STUDIES / f"{name}.yaml").read_text())
    paths = [path for _, _, path in places(whole)]
    for _ in range(ROUNDS):
        path = chance.choice([chance.choice(paths), chance.choice(TEXTS), "calibration.sets", "evaluation.heldout"])
        value = chance.choice([str(chance.choice(NUMBERS)), chance.choice(WORDS), chance.choice(TEXTS)])
        launch([name, "--set", f"{path}={value}"])


@pytest.mark.parametrize("name", study_names())
def test_spoilt_text_of_a_study_is_planned_or_explained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chance = random.Random(f"text {name}")
    whole = (STUDIES / f"{name}.yaml").read_bytes()
    for _ in range(ROUNDS):
        start = chance.randrange(len(whole))
        end = start + chance.choice([0, 0, 1, 5, 50])
        piece = chance.choice(
            [*(word.encode() for word in WORDS), b"\xff", b"\r", b"\0", b"\n", b" ", b":", b"\xef\xbb\xbf"]
        )
        Path("spoilt.yaml").write_bytes(whole[:start] + piece + whole[end:])
        launch(["spoilt.yaml"])
