"""What the terminal shows at the end of a sweep."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from analysis.evidence import Evidence
from analysis.frames import load
from analysis.summary import show


def test_summary_shows_every_model_and_method_and_the_findings(simulated: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    show(Evidence(load(str(simulated))), Console(width=120))
    printed = capsys.readouterr().out
    for word in ("small", "large", "dense", "RTN 3-bit g32", "SparseGPT 2:4", "Perplexity increase", "Calibrating on"):
        assert word in printed


def test_a_narrow_terminal_cuts_no_name(simulated: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    show(Evidence(load(str(simulated))), Console(width=60))
    assert "…" not in capsys.readouterr().out
