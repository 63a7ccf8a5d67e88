"""What signals do to a launch: they end it as Ctrl-C does, wherever it is, but for its cleaning up.

A terminal that is closed sends SIGHUP, a batch system SIGTERM, and an impatient person several of them. The hard case
is the second one, in the middle of giving back the workers and the lease: it would leave both behind.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LIKE_CTRL_C = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """These signals raise KeyboardInterrupt, unless the launch was started to ignore them (`nohup`)."""
    with _handled({number: _interrupt for number in LIKE_CTRL_C if signal.getsignal(number) != signal.SIG_IGN}):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """These signals and SIGINT do nothing: what is done here takes seconds, and others need it done."""
    with _handled(dict.fromkeys((signal.SIGINT, *LIKE_CTRL_C), _ignore)):
        yield


def undisturbed_from_now_on() -> None:
    """The same for the rest of this process: a launch has said how it ended, and its exit code says the same."""
    for number in (signal.SIGINT, *LIKE_CTRL_C):
        signal.signal(number, signal.SIG_IGN)  # Python takes back handlers of its own before it ends


@contextmanager
def _handled(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    earlier = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _ignore(_signal: int, _frame: Any) -> None:
    """A handler of Python's own, so that processes that are started meanwhile do not inherit the deafness."""
