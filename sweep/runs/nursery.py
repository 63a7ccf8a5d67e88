"""A process that has imported what preparation needs most, and forks as many as it is asked for.

Importing torch, transformers and lm-eval takes seconds of CPU, which every fresh process would pay again. `hands.py`
starts the nursery with one end of a socket, and sends it a socket for each process that it wants, over which functions
come and what they return goes back. When the other end is closed, because the launch has ended or was killed, all of
it ends. The hard case is a process with threads, which its forks lack while they keep the locks of these: nothing is
computed here, and polars, which starts one while it is imported, is left to the forks.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler

from sweep.runs.errors import short_line

IMPORTS = (
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "lm_eval.tasks",
    "lm_eval.evaluator_utils",
)
PARENT_DEATH = 1  # PR_SET_PDEATHSIG of Linux's prctl


def main(number: int, imports: Sequence[str]) -> None:
    """Fork for each socket that comes, until none can; `number` is the descriptor of the end over which they come."""
    end_with_parent()
    control = socket.socket(fileno=number)
    for name in imports:
        importlib.import_module(name)
    gc.freeze()  # what is here is not written to by the collector of each fork
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets them when they end
    while descriptors := socket.recv_fds(control, 1, 1)[1]:
        if os.fork() == 0:
            control.close()
            end_with_parent()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            serve(Connection(descriptors[0]))
            os._exit(0)
        os.close(descriptors[0])
    os.killpg(0, signal.SIGKILL)  # a session of its own: those that it has forked, and itself


def serve(line: Connection) -> None:
    """Run the functions that come over the line, one after the other, and send back what they returned, or raised and
    where, until there is nobody to send it to."""
    with suppress(EOFError, ConnectionError):
        while True:
            line.send_bytes(answer(line.recv_bytes()))


def answer(question: bytes) -> bytes:
    try:
        function, arguments = pickle.loads(question)
        return pickled(True, function(*arguments), "")
    except Exception as error:
        where = traceback.format_exc()
        try:
            told = pickled(False, error, where)
            pickle.loads(told)
        except Exception:  # an error that cannot travel
            told = pickled(False, RuntimeError(short_line(error)), where)
        return told


def pickled(*values: object) -> bytes:
    return bytes(ForkingPickler.dumps(values))


def end_with_parent() -> None:
    """Have the system kill this process when the one that started it is gone, where it can; noticed late otherwise."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)
