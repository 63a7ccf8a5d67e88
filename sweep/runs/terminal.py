"""Who may write into the terminal while trials run: the sweep alone. What Ray prints belongs into Ray's logs.

Ray prints from native code and from threads of this process, a screen full of both when one of its processes dies.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

STDERR = 2


@contextmanager
def others_print_to(path: Path, logger: str) -> Iterator[None]:
    """What native code prints, `print` in any thread and the logger of that name go to the end of this file.

    `sys.stderr` still reaches the terminal, as does what holds on to an earlier `sys.stdout` (a `Console`).
    """
    with ExitStack() as held:
        log = held.enter_context(open(path, "a", buffering=1))
        handler = logging.StreamHandler(log)
        logging.getLogger(logger).addHandler(handler)
        held.callback(logging.getLogger(logger).removeHandler, handler)
        terminal = os.dup(STDERR)
        held.callback(os.close, terminal)
        if _is_stderr(sys.stderr):
            sys.stderr.flush()
            ours = held.enter_context(open(terminal, "w", buffering=1, closefd=False))
            held.enter_context(redirect_stderr(ours))
        held.enter_context(redirect_stdout(log))
        held.callback(os.dup2, terminal, STDERR)
        os.dup2(log.fileno(), STDERR)
        yield


def _is_stderr(stream: TextIO) -> bool:
    try:
        return stream.fileno() == STDERR
    except (OSError, ValueError):  # not a file: somebody listens to what this process says
        return False
