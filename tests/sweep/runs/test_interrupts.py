"""Signals end a launch wherever it is, and never its cleaning up."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator

import pytest

from sweep.runs.interrupts import LIKE_CTRL_C, interruptible, keep_signals, undisturbed

ALL = (signal.SIGINT, *LIKE_CTRL_C)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers of this process, as they were; in between as in a terminal, whatever the tests were started from."""
    before = {number: signal.getsignal(number) for number in ALL}
    for number in ALL:  # `nohup` has some ignored
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ALL)
def test_every_signal_interrupts_as_ctrl_c_does(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        send(number)
    assert signal.getsignal(number) == before


def test_signal_that_the_launch_was_started_to_ignore_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    with interruptible():
        send(signal.SIGHUP)


@pytest.mark.parametrize("number", ALL)
def test_cleaning_up_goes_on_after_a_signal(number: signal.Signals) -> None:
    done = []
    with interruptible():
        with undisturbed():
            send(number)
            done.append("the lease is given back")
        assert done
        with pytest.raises(KeyboardInterrupt):
            send(number)


def test_handlers_that_native_code_takes_away_are_given_back() -> None:
    """Python's handler stays in Python's table while the system's is the default, as after the end of Ray."""
    libc = ctypes.CDLL(None)
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))

    def take_away_and_be_signalled() -> None:
        libc.signal(int(signal.SIGTERM), None)
        time.sleep(0.2)  # the thread that repairs needs its turn
        send(signal.SIGTERM)

    keep_signals(take_away_and_be_signalled)
    send(signal.SIGTERM)
    assert came == [signal.SIGTERM] * 2


def test_error_of_what_keeps_signals_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        keep_signals(lambda: 1 / 0)


def test_signals_that_came_while_nothing_may_disturb_are_listed() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    with undisturbed() as came:
        for number in ALL:
            send(number)
    assert came == [signal.SIGINT, signal.SIGTERM]
