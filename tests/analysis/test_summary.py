"""What the terminal shows at the end of a sweep."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from analysis.estimates.equivalence import ANY, UNCLEAR
from analysis.evidence import Evidence
from analysis.frames import load
from analysis.summary import SCREEN, _box, _print, main, show, show_answer
from analysis.verdicts import Verdict, verdicts


def test_summary_shows_every_model_and_method_and_the_findings(simulated: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    show(Evidence(load(str(simulated))), Console(width=120))
    printed = capsys.readouterr().out
    for word in ("small", "large", "dense", "RTN 3-bit g32", "SparseGPT 2:4", "Perplexity increase", "Calibrating on"):
        assert word in printed


def test_a_narrow_terminal_cuts_no_name(simulated: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    show(Evidence(load(str(simulated))), Console(width=60))
    assert "…" not in capsys.readouterr().out


def answer(root: Path, width: int) -> str:
    shown = io.StringIO()
    show_answer(Evidence(load(str(root))), Console(file=shown, width=width), str(root))
    return shown.getvalue()


def test_the_answer_is_one_screen_that_cuts_no_name_and_names_the_next_command(simulated: Path) -> None:
    found = verdicts(Evidence(load(str(simulated))))
    for width in (80, 120):
        lines = answer(simulated, width).splitlines()
        assert len(lines) < SCREEN
        assert max(map(len, lines)) <= width or str(simulated) in max(lines, key=len)
        assert not any("…" in line for line in lines)
        assert any("calibsweep recommend" in line for line in lines)
    for verdict in found[:2]:
        assert verdict.model in answer(simulated, 120)
        assert f"{verdict.use} " in answer(simulated, 120)


def test_pairs_without_room_are_counted(simulated: Path) -> None:
    shown = answer(simulated, 34)
    pairs = len(verdicts(Evidence(load(str(simulated)))))
    told = shown.count("%  ")
    assert f"... and {pairs - told} more" in shown


def test_the_trial_to_export_is_of_the_source_that_is_named_first(simulated: Path) -> None:
    study = load(str(simulated))
    first = verdicts(Evidence(study))[0]
    told = answer(simulated, 120).partition("calibsweep export ")[2].split()[0]
    row = study.trials.filter(trial_id=told).row(0, named=True)
    assert (row["model"], row["method_label"]) == (first.model, first.method)
    assert row["source"] == (*first.named, *first.others)[0]


def test_a_command_to_copy_is_broken_by_the_terminal_alone() -> None:
    stream = io.StringIO()
    line = "Next: calibsweep export 0123 --results " + "results/" * 5 + "mine --out model"
    _print(Console(file=stream, width=60), [Text(line, no_wrap=True), Text("words " * 20)])
    assert stream.getvalue().splitlines()[0] == line
    assert len(stream.getvalue().splitlines()) == 3


def test_a_long_name_of_a_method_stands_under_itself() -> None:
    stream = io.StringIO()
    name = "GPTQ 2-bit g32 true-sequential on *attn* alone"
    verdict = Verdict("m", name, "accuracy", UNCLEAR, ("a",), ("b",), (), 0.9, 1.0, ("b", 1.0), None, 3, 6.0, False, "")
    Console(file=stream, width=70).print(_box([verdict]))
    below = stream.getvalue().partition("\nm ")[2]  # the line of the model
    rows = below.splitlines()[1:]
    assert len(rows) > 1 and all(row.startswith(" ") for row in rows)


def test_the_names_of_four_sources_take_two_lines_of_eighty_columns() -> None:
    named = ("legal", "news_blogs", "encyclopedia", "dialogue_qa")
    others = ("books", "code", "tech_proposals", "web_docs")
    most = (0.9, 1.0, ("code", 1.5), None, None, None, False, "")
    several = Verdict("m", "GPTQ 3-bit g32", "loglikelihood_change", ANY, named, others, (), *most)
    least = (0.9, 1.0, ("b", 1.0), None, 3, 60.0, False, "")
    open_ = Verdict("m", "SparseGPT 2:4", "loglikelihood_change", UNCLEAR, ("a",), ("b",), (), *least)
    stream = io.StringIO()
    Console(file=stream, width=80).print(_box([several, open_]))
    told = stream.getvalue().partition("\nm ")[2].splitlines()[1:]
    assert [line[17:46].strip() for line in told[:2]] == ["any of legal, news_blogs,", "encyclopedia, dialogue_qa"]
    assert "SparseGPT" in told[2]


def test_a_folder_that_cannot_be_written_to_gets_its_answer_and_no_report(
    simulated: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    main(str(simulated))
    out, err = capsys.readouterr()
    assert "Which calibration data?" in out
    assert "Report:" not in out
    assert err.startswith(f"no report: cannot write to {simulated}; `calibsweep report {simulated} --output FILE`")
