"""What a study may name, listed with a line each."""

from __future__ import annotations

import pytest

from calib.source import SOURCES
from calibsweep.console import OK, main
from calibsweep.listing import first_sentence, in_column, row
from methods.base import METHODS
from sweep.config import study_names
from sweep.evaluation.tasks.presets import PRESETS
from sweep.models import bundled_models

NAMES = {"methods": METHODS.names(), "sources": SOURCES.names(), "studies": study_names(), "models": bundled_models()}


@pytest.mark.parametrize("kind", NAMES)
def test_every_name_is_listed_with_what_it_is(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", kind]) == OK
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert set(NAMES[kind]) <= set(lines)
    assert all(lines[name] for name in NAMES[kind])


def test_tasks_are_presets_and_bundled_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "tasks"]) == OK
    printed = capsys.readouterr().out
    for name in ("paper_a", "reference", "reference_piqa"):
        assert f"{name} " in printed


def test_the_long_names_of_bundled_tasks_do_not_squeeze_what_presets_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "tasks"]) == OK
    lines = capsys.readouterr().out.splitlines()
    preset, bundled = (next(line for line in lines if line.startswith(f"{name} ")) for name in ("paper_a", "reference"))
    assert preset.index("11 tasks") == len(max(PRESETS, key=len)) + 2 < bundled.index("bundled")


def test_a_closing_remark_is_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    assert in_column("Any other task of lm-eval goes as well.", 0).splitlines() == [
        "Any other task of lm-eval goes",
        "as well.",
    ]


def test_a_sentence_does_not_end_after_et_al() -> None:
    assert first_sentence("AWQ (Lin et al. 2023): scales.\nMore.") == "AWQ (Lin et al. 2023)"
    assert first_sentence(None) == ""


def test_in_a_terminal_what_a_name_is_stays_in_its_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    assert row("books", "novels and memoirs that nobody owns any more", 8).splitlines() == [
        "books     novels and memoirs that nobody",
        "          owns any more",
    ]
