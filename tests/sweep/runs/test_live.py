"""The table of what runs: counts, time left, cost, and the workers."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sweep.runs.live import Live, Price
from sweep.storage.status import Busy


def shown(live: Live) -> str:
    stream = io.StringIO()
    Console(file=stream, width=120).print(live)
    return stream.getvalue()


def test_table_shows_workers_time_left_and_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Busy("host-1", "tiny · RTN 3-bit [x]", "evaluate", 12.4, 3 * 2**30)
    busy = [first, Busy("host-2", "other", "load", 0.2, None)]
    live = Live(10, lambda: busy, Price(2.0), lambda: 2.0, expected=1000.0, since=0.0)
    monkeypatch.setattr("sweep.runs.live.time.monotonic", lambda: 3600.0)
    live.done, live.failed, live.ended = 8, 1, 400.0
    text = shown(live)
    assert "8 of 10 done, 1 failed, about 1 h 30 min left, 2.0 GPU hours, cost 4.00" in text
    assert all(part in text for part in ("host-1", "tiny · RTN 3-bit [x]", "evaluate", " 12 ", "3.0 GiB", "load"))
    titles, *rows = [line.rstrip() for line in text.splitlines()[-3:]]
    end = titles.index("seconds") + len("seconds")
    assert [row[:end].split()[-1] for row in rows] == ["12", "0"]
    assert rows[0].endswith(" 3.0 GiB") and len(rows[0]) == len(titles)


def test_memory_of_gpus_is_no_column_where_there_are_none() -> None:
    live = Live(10, lambda: [Busy("host-1", "tiny", "evaluate", 12.4, None)] * 20)
    assert "and" in shown(live) and "GPU memory" not in shown(live)


def test_time_left_knows_the_workers_before_their_first_trials_end() -> None:
    busy = [Busy(f"host-{number}", "trial", "compress", 10.0, None) for number in range(4)]
    live = Live(40, workers=lambda: 4, expected=400.0)
    assert live.left() == 100.0  # as expected, on four workers
    assert live.left([Busy("host-0", "trial", "load", 60.0, None)]) == 100.0  # which has not begun
    live.done, live.ended, live.spent = 1, 10.0, 20.0
    assert live.left(busy) == (2.0 * 390.0 - 40.0) / 4  # trials take twice as long as expected, and four have begun
    live.done, live.ended, live.spent = 38, 380.0, 760.0
    live.since -= 190.0
    assert live.left(busy) == pytest.approx(10.0, abs=1.0)  # as fast as until now


def test_the_last_trials_do_not_share_idle_workers() -> None:
    assert Live(2, workers=lambda: 16, expected=20.0).left() == 10.0


def test_nothing_is_said_of_what_is_not_known() -> None:
    text = shown(Live(2))
    assert "0 of 2 done, 0 failed" in text
    assert not any(part in text for part in ("left", "cost", "worker"))


def test_many_workers_are_cut() -> None:
    text = shown(Live(2, lambda: [Busy(f"host-{number}", "trial", "load", 1.0, None) for number in range(40)]))
    assert "host-15" in text
    assert "host-16" not in text
    assert "and 24 more" in text


def test_hours_without_a_price_have_no_cost() -> None:
    assert Price(None).said(8.0, 1800.0) == "4.0 GPU hours"
    assert Price(2.0).said(1.0, 169.0) == "2.8 GPU minutes, cost 0.09"
