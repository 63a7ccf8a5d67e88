"""What is kept, said by another process when a launch ends before it can say so itself.

A launch may be killed, by the system for its memory, or by Ray, which ends a process whose node has lost its store.
Nothing of it runs after that. A small process that waits for the end of a pipe notices: the system closes the pipe
however the launch ends.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

OVER = b"over"  # the launch has said how it ended
WAIT = f"""
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # which are meant for the launch
    signal.signal(number, signal.SIG_IGN)
if sys.stdin.buffer.read() != {OVER!r}:
    print(sys.argv[1], file=sys.stderr, flush=True)
"""


@contextmanager
def last_word(text: str) -> Iterator[int]:
    """While open, the end of this process has `text` printed to its standard error. Yields the other's number."""
    command = [sys.executable, "-I", "-S", "-c", WAIT, text]  # neither packages nor the environment: 20 ms, 8 MB
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        with suppress(OSError):  # somebody has killed it
            process.communicate(OVER)


def gone(root: str) -> str:
    """What is true of a results folder however a launch has ended."""
    return f"the launch is gone: what is finished is kept in {root}, and the same command goes on"
