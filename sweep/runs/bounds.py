"""Every end of a launch has a bound: after a signal, and after its last word.

What may take for ever is not ours: a call of Ray that waits in native code and hears no signal, Ray's own end (at the
interpreter's exit once more, where it waits for a first try that hangs), threads that the interpreter joins. The hard
case is an interrupt that comes while a destructor runs: Python prints it and goes on as if nothing had been asked. What
this process leaves behind is what a killed one does, and the next launch takes that over.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from sweep.runs.errors import stack

HEARD_SECONDS = 15.0  # after which a signal that nothing came of is given again
SIGNAL_SECONDS = 90.0  # that the end may take after a signal: batch systems give two minutes, Ray's end may take one
EXIT_SECONDS = 30.0  # that the interpreter's end may take
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # what ends a launch
INTERRUPTED = 130


class Deadline:
    """A thread that learns of signals from the system, whatever the launch does, and ends this process by `leave` when
    the launch does not.

    `noticed` says that the launch has heard and cleans up; until then the signal is given again.
    """

    def __init__(
        self,
        heard: float = HEARD_SECONDS,
        seconds: float = SIGNAL_SECONDS,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self.noticed = False
        self._heard, self._seconds, self._leave = heard, seconds, leave
        self._read, self._write = os.pipe()
        self._before = -1
        self._thread = threading.Thread(target=self._run, name="deadline", daemon=True)

    def start(self) -> None:
        """From now on numbers of signals that have a handler are heard; in the main thread alone."""
        os.set_blocking(self._write, False)
        # Python's own handlers wait for the main thread to leave native code
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread.start()

    def over(self) -> None:
        """The launch has ended."""
        signal.set_wakeup_fd(self._before)
        os.close(self._write)

    def _run(self) -> None:
        main = threading.main_thread().ident or 0
        number = until = None
        while True:
            left = self._seconds if until is None else until - time.monotonic()
            if left <= 0:
                print(
                    f"interrupted, and not ended after {self._seconds:g} s ({stack(main)}); what is finished is kept, "
                    "and the same command goes on",
                    file=sys.stderr,
                    flush=True,
                )
                self._leave(INTERRUPTED)
            elif select.select([self._read], [], [], None if until is None else min(left, self._heard))[0]:
                told = os.read(self._read, 1)
                if not told:
                    break
                if told[0] in ENDING:
                    number, until = told[0], until or time.monotonic() + self._seconds
            elif number is not None and not self.noticed:
                signal.pthread_kill(main, number)
        os.close(self._read)


def bounded_exit(command: Callable[[], object], seconds: float = EXIT_SECONDS) -> None:
    """Run a command; this process then ends with its exit code within so many seconds, whatever would hold it.

    Signals are ignored from then on: the command has said how it ended.
    """
    code = 1
    try:
        command()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        raise
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)  # Python takes back handlers of its own before it ends
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        threading.Thread(target=_leave_later, args=(seconds, code), daemon=True).start()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(2 * seconds) + 1)  # the system's, for when no thread of Python's runs any more


def _leave_later(seconds: float, code: int) -> None:
    time.sleep(seconds)
    os._exit(code)
