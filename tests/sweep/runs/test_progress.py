from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from sweep import plan
from sweep.config import parse_study
from sweep.runs.outcome import Outcome
from sweep.runs.progress import Account, Live, Reporter, duration, overhead
from sweep.storage.status import Busy


@pytest.fixture
def outcomes(document: dict[str, Any]) -> list[Outcome]:
    trials = plan.expand(parse_study(document))
    seconds = {
        "load": 2.0,
        "restore": 0.5,
        "compress": 4.0,
        "evaluate": 3.5,
        "write": 0.5,
        "tasks": 2.0,
        "windows": 1.0,
    }
    failed = Outcome(
        trials[1], "failed", 2, {"compress": 1.0}, error="CompressionError: [block 0] no", phase="compress"
    )
    return [Outcome(trials[0], "ok", 1, seconds, "acc 0.500"), failed]


def test_each_finished_trial_is_one_plain_line(outcomes: list[Outcome]) -> None:
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream, highlight=False, soft_wrap=True))
    with reporter.trials(Live(2)):
        for outcome in outcomes:
            reporter.finished(outcome)
    assert stream.getvalue().splitlines() == [
        "[1/2] tiny · dense · acc 0.500 · 8.5 s",
        "[2/2] tiny · RTN 3-bit g16 · FAILED in compress: CompressionError: [block 0] no",
    ]


def test_a_terminal_shows_a_bar_under_the_lines(outcomes: list[Outcome]) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, soft_wrap=True, highlight=False)
    reporter = Reporter(console)
    with reporter.trials(Live(2)):
        reporter.finished(outcomes[0])
    assert "tiny · dense · acc 0.500" in stream.getvalue()
    assert "1/2" in stream.getvalue()


def test_a_narrow_terminal_breaks_a_line_behind_the_name(outcomes: list[Outcome]) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=30, soft_wrap=True, highlight=False)
    reporter = Reporter(console)
    with reporter.trials(Live(10)):
        reporter.finished(outcomes[0])
    assert "[1/10] tiny · dense\n       acc 0.500 · 8.5 s\n" in stream.getvalue()


def test_a_narrow_terminal_breaks_what_is_said_between_words() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=20, soft_wrap=True, highlight=False)
    Reporter(console).say("calibration: four sources of text")
    assert stream.getvalue() == "calibration: four \nsources of text\n"


def test_the_bar_has_a_line_of_its_own_above_the_workers() -> None:
    stream = io.StringIO()
    live = Live(2, lambda: [Busy("host-1", "tiny · dense", "load", 1.0, None)], done=1)
    Console(file=stream, width=80).print(live)
    bar, head = stream.getvalue().splitlines()[1:3]
    assert bar.strip() and set(bar.strip()) <= {"━", "╸"} and head.split() == ["worker", "trial", "phase", "seconds"]


def test_account_of_time_adds_up_to_the_whole(outcomes: list[Outcome]) -> None:
    account = Account()
    account.phases = {"planning": 1.0, "starting up": 5.0, "calibration sets and requests": 3.0, "trials": 12.0}
    for outcome in outcomes:
        account.add(outcome)
    lines = account.lines(workers=1)
    assert sum(lines.values()) == pytest.approx(21.0)
    assert (lines["compress"], lines["tasks"], lines["held-out windows"]) == (5.0, 2.0, 1.0)
    assert lines["starting workers and waiting"] == pytest.approx(12.0 - 11.5)
    assert overhead(lines) == pytest.approx(1.0 + 5.0 + 0.5 + 0.5)
    assert (account.done, account.failed) == (1, 1)


def test_seconds_of_several_workers_count_as_wall_time(outcomes: list[Outcome]) -> None:
    account = Account()
    account.phases = {"trials": 8.0}
    account.add(outcomes[0])
    account.add(outcomes[0])
    assert account.lines(workers=2)["compress"] == 4.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (42, "42 s"), (200, "3 min 20 s"), (18720, "5 h 12 min"), (792000, "9 d 4 h")]
)
def test_durations_read_easily(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_log_shows_each_phase_before_the_first_trial_once() -> None:
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream, highlight=False, soft_wrap=True))
    with reporter.preparing():
        for heading, detail in [("reading", "books"), ("reading", "code"), ("writing", ""), ("reading", "web")]:
            reporter.phase(heading, detail)
    assert stream.getvalue().splitlines() == ["reading (books)", "writing"]


def test_a_terminal_shows_the_phase_with_every_name_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream, force_terminal=True, width=40, soft_wrap=True, highlight=False))
    with reporter.preparing():
        reporter.phase("reading", "a source with a very long name, another one, 3 sets")
    shown = stream.getvalue()
    assert "reading, 0 s: a source with a very long \nname, another one, 3 sets" in shown
    assert shown.rstrip().endswith("\x1b[2K")  # erased: the trials' lines follow
