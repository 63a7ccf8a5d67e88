"""What signals do to a launch: they end it as Ctrl-C does, wherever it is, but for its cleaning up.

A terminal that is closed sends SIGHUP, a batch system SIGTERM, and an impatient person several of them. The hard case
is the second one, in the middle of giving back the workers and the lease: it would leave both behind.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sweep.runs.bounds import Deadline

PATIENCE = 60.0  # seconds that ending Ray may take
REPAIR_SECONDS = 0.002  # between two times that handlers are set again
LIKE_CTRL_C = (signal.SIGTERM, signal.SIGHUP)
_deadlines: list[Deadline] = []  # of the launch that this process runs, as its signals are


@contextmanager
def interruptible() -> Iterator[None]:
    """These signals and SIGINT raise KeyboardInterrupt, unless the launch was started to ignore them (`nohup`).

    From the first one on the end has a bound.
    """
    deadline = Deadline()

    deadline.start()
    _deadlines.append(deadline)
    try:
        with _handled(dict.fromkeys(_heard(), _interrupt)):
            yield
    finally:
        deadline.over()
        _deadlines.remove(deadline)


@contextmanager
def undisturbed() -> Iterator[list[int]]:
    """These signals and SIGINT are only listed: what is done here takes seconds, and others need it done."""
    came: list[int] = []
    for deadline in _deadlines:
        deadline.noticed = True
    # handlers of Python's own, so that processes that are started meanwhile do not inherit the deafness
    with _handled(dict.fromkeys(_heard(), lambda number, _frame: came.append(number))):
        yield came


def _heard() -> list[signal.Signals]:
    """The signals that this process was not started to ignore."""
    return [number for number in (signal.SIGINT, *LIKE_CTRL_C) if signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def _handled(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    earlier = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def keep_signals(*actions: Callable[[], object]) -> None:
    """Do what takes the handlers of signals away in native code and does not give them back, such as ending Ray.

    It runs in a thread of its own, while this one sets its handlers again and again: every few milliseconds, so that a
    signal ends this process only if it comes between. Actions that hang are left alone after a minute: what Ray has
    started ends with this process. Raises what an action raises.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *LIKE_CTRL_C)}
    done, failed = threading.Event(), list[BaseException]()

    def act() -> None:
        try:
            for action in actions:
                action()
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    threading.Thread(target=act, daemon=True).start()
    deadline = time.monotonic() + PATIENCE
    while not done.wait(REPAIR_SECONDS) and time.monotonic() < deadline:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if failed:
        raise failed[0]
    if not done.is_set():
        print(f"Ray has not ended within {PATIENCE:.0f} s; it ends with this process", file=sys.stderr)


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


@contextmanager
def own_signal(number: int) -> Iterator[None]:
    """What this process does with a signal is afterwards what it was, whatever is set meanwhile (Ray exits with it)."""
    before = signal.getsignal(number)
    try:
        yield
    except SystemExit as left:
        if left.code != number:
            raise
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():  # elsewhere nobody could have set another
            signal.signal(number, before)
