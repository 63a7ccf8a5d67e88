"""Figures drawn beside the analysis are the figures drawn in it, and a worker that fails says which one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analysis.page import vega

BARS = {
    "data": {"values": [{"a": "x", "b": 1}, {"a": "y", "b": 2}]},
    "mark": "bar",
    "encoding": {"x": {"field": "a", "type": "nominal"}, "y": {"field": "b", "type": "quantitative"}},
}


def without_counters(svg: str) -> str:
    """Vega numbers its clip paths and gradients through the life of a process."""
    return re.sub(r"(clip|gradient)_?\d+", r"\1", svg)


def test_workers_draw_what_this_process_draws(tmp_path: Path) -> None:
    here = vega.write(BARS, tmp_path / "here")
    with vega.Drawing(workers=2) as drawing:
        for number in range(5):
            drawing.add({**BARS, "width": 100 + number}, tmp_path / "there" / str(number))
        drawing.add(BARS, tmp_path / "there" / "same")
    written = drawing.wait()
    assert written == [tmp_path / "there" / f"{name}.{kind}" for name in (*"01234", "same") for kind in ("png", "svg")]
    assert written[-2].read_bytes() == here[0].read_bytes()
    assert without_counters(written[-1].read_text()) == without_counters(here[1].read_text())
    assert len({path.read_bytes() for path in written[::2]}) == 6


def test_no_figure_starts_no_process() -> None:
    with vega.Drawing() as drawing:
        pass
    assert drawing.wait() == []
    assert drawing.processes == ()


def test_a_figure_that_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"odd: Vega-Lite to SVG conversion failed"), vega.Drawing() as drawing:
        drawing.add(BARS, tmp_path / "good")
        drawing.add({"mark": "nonsense", "data": {"values": []}}, tmp_path / "odd")
    assert (tmp_path / "good.png").exists()


def test_a_worker_that_dies_is_said_and_none_is_left(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"second: the process that draws figures ended"), vega.Drawing(1) as drawing:
        drawing.add(BARS, tmp_path / "first")
        drawing.wait()
        drawing.processes[0].kill()
        drawing.add(BARS, tmp_path / "second")
    assert all(process.poll() is not None for process in drawing.processes)


def test_an_error_in_the_analysis_ends_the_workers(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), vega.Drawing(1) as drawing:
        for number in range(50):
            drawing.add(BARS, tmp_path / str(number))
        raise ZeroDivisionError
    assert drawing.processes[0].poll() is not None
    assert len(list(tmp_path.iterdir())) < 100
