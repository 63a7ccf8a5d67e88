"""The adviser as a person meets it: one command, and what it leaves."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from calib.settings import SettingsError
from sweep import export
from sweep.advise import advise, app, said, spread, typed_mixture, typed_source
from sweep.results import Results
from sweep.runs.progress import Reporter
from tests.sweep.conftest import write_documents


def test_a_flag_takes_everything_up_to_the_next_one() -> None:
    given = ["m", "--candidates", "a", "b", "c", "--bits", "4", "--target", "t", "--local"]
    expected = ["m", "--candidates", "a", "--candidates", "b", "--candidates", "c", "--bits", "4", "--target", "t"]
    assert spread(given) == [*expected, "--local"]
    assert spread(["m", "--candidates", "--bits", "4"]) == ["m", "--candidates", "--bits", "4"]


def test_entries_and_mixtures_are_read() -> None:
    assert typed_source("{source: file, path: a.jsonl}") == {"source": "file", "path": "a.jsonl"}
    assert typed_source("books") == "books"
    assert typed_mixture("books=0.7, my=file.jsonl=.3") == {"books": 0.7, "my=file.jsonl": 0.3}
    with pytest.raises(SettingsError, match="expected shares by name"):
        typed_mixture("books:0.7")


def test_lines_are_said_as_they_are() -> None:
    heard = io.StringIO()
    reporter = Reporter(Console(file=heard, width=80, highlight=False, soft_wrap=True))
    lines = ["python -m sweep.export 1 --results [bold]a[/bold] \\", "--out exported"]
    assert said(lambda: lines, reporter) == 0
    assert heard.getvalue().splitlines() == lines


def test_a_question_is_answered_and_its_export_command_works(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [str(write_documents(tmp_path / f"{seed}.jsonl", seed=seed)) for seed in range(2)]
    target = str(write_documents(tmp_path / "target.jsonl", seed=9))
    common: dict[str, Any] = {"nsamples": 8, "seqlen": 32, "sets": 2, "windows": 2, "share": 1.0, "local": True}

    def ask() -> Any:
        reporter = Reporter(Console(quiet=True))
        method = {"method": "gptq", "bits": 3, "group_size": 16}
        return advise(str(tiny_model), method, paths, targets=[target], results="out", reporter=reporter, **common)

    advice = ask()
    assert advice.verdict.arm in {"0", "1", "uniform mixture"}
    assert all(len(line) <= 80 for line in advice.lines) and len(advice.lines) <= 24
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    assert ask().lines == advice.lines
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")} == before
    record = json.loads((tmp_path / "out" / "adviser.json").read_text())
    assert record["lines"] == list(advice.lines)
    assert not (tmp_path / "out" / "lease.json").exists()
    assert Results("out").read("trials")["study"].unique().to_list() == [record["study"]]
    whole = "\n".join(advice.lines).replace("\\\n", "")
    words = shlex.split(whole[whole.index("python -m sweep.export") : whole.index("\npython -m analysis.report")])
    assert export.main(words[3:]) == 0
    assert (tmp_path / "exported" / "config.json").exists()


def test_a_disk_that_fails_in_the_middle_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def lines() -> list[str]:
        raise OSError(28, "No space left on device", "r/adviser.json")

    assert said(lines, Reporter(Console(quiet=True))) == 1
    assert capsys.readouterr().err.startswith("stopped: [Errno 28] No space left on device")


@pytest.mark.parametrize(("arm", "code"), [("a", 0), (None, 1)])
def test_no_answer_is_no_success(arm: str | None, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(verdict=SimpleNamespace(arm=arm), lines=("told",))
    monkeypatch.setattr("sweep.advise.prepare", lambda *_: None)
    monkeypatch.setattr("sweep.advise.answer", lambda *_, **__: found)
    ended = CliRunner().invoke(app, ["m", "--method", "gptq", "--candidates", "a", "b"])
    assert (ended.exit_code, ended.output) == (code, "told\n")
