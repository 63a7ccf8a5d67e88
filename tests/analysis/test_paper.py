"""Figures of a study for a paper: every format, those that are asked for, and specifications that stand alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from analysis.page import vega
from analysis.paper import FORMATS, uncut
from calibsweep.console import BAD_INPUT, OK, main


def figures(*arguments: str) -> int:
    return main(["figures", *arguments])


def test_the_figures_that_are_asked_for_come_in_every_format(simulated: Path, tmp_path: Path) -> None:
    assert figures(str(simulated), "--out", str(tmp_path), "--only", "answer,domains-small") == OK
    names = {path.name.partition(".")[0] for path in tmp_path.iterdir()}
    assert {"answer-small", "answer-large"} < names
    assert all(name.startswith(("answer", "domains-small")) for name in names)
    for name in names:
        assert {path.name.partition(".")[2] for path in tmp_path.glob(f"{name}.*")} == set(FORMATS)
    assert next(tmp_path.glob("*.pdf")).read_bytes().startswith(b"%PDF")
    media = re.search(rb"MediaBox \[0 0 (\d+)", (tmp_path / "answer-small.pdf").read_bytes())
    assert media is not None
    assert abs(int(media.group(1)) - 252) < 3


def test_a_specification_draws_by_itself(simulated: Path, tmp_path: Path) -> None:
    assert figures(str(simulated), "--out", str(tmp_path), "--only", "answer-small", "--formats", "vl.json,svg") == OK
    spec = json.loads((tmp_path / "answer-small.vl.json").read_text())
    strip = re.compile(r"(clip|gradient)_?\d+")
    assert strip.sub("", vega.svg(spec)) == strip.sub("", (tmp_path / "answer-small.svg").read_text())


def test_a_title_can_be_left_to_the_caption(simulated: Path, tmp_path: Path) -> None:
    arguments = [str(simulated), "--only", "answer-small", "--formats", "svg"]
    assert figures(*arguments, "--out", str(tmp_path / "with")) == OK
    assert figures(*arguments, "--out", str(tmp_path / "without"), "--no-title", "--columns", "2") == OK
    texts = {name: (tmp_path / name / "answer-small.svg").read_text() for name in ("with", "without")}
    assert "What choosing a source costs" in texts["with"]
    assert "What choosing a source costs" not in texts["without"]


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--only", "nothing", "no figure 'nothing'"),
        ("--columns", "3", "expected 1 or 2"),
        ("--formats", "gif", "unknown format 'gif'"),
    ],
)
def test_what_there_is_not_is_refused(
    simulated: Path, tmp_path: Path, flag: str, value: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert figures(str(simulated), "--out", str(tmp_path), flag, value) == BAD_INPUT
    assert told in capsys.readouterr().err


def test_names_of_figures_are_not_cut_by_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "24")
    assert uncut("in out: tasks-reference-2m, layers-reference-2m").splitlines() == [
        "in out:",
        "tasks-reference-2m,",
        "layers-reference-2m",
    ]
