"""A process that has imported what preparation needs, and forks one for each function that it is asked to run.

Importing torch, transformers and lm-eval takes seconds of CPU, which every fresh process would pay again. `hands.py`
starts the nursery with one end of a socket, and sends it a socket for each function, over which the function comes and
what it returns goes back. The hard case is a fork of a process with threads, which the new one would lack: nothing is
computed here. When the other end is closed, because the launch has ended or was killed, all of it ends.
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
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler

from sweep.runs.errors import short_line

IMPORTS = (
    "sweep.runs.prepare",
    "sweep.runs.model_check",
    "sweep.runs.first_look",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "lm_eval.tasks",
    "lm_eval.evaluator_utils",
)
PARENT_DEATH = 1  # PR_SET_PDEATHSIG of Linux's prctl


def main(number: int) -> None:
    """Fork for each socket that comes, until none can; `number` is the descriptor of the end over which they come."""
    end_with_parent()
    control = socket.socket(fileno=number)
    for name in IMPORTS:
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
    """Run the function that comes over the line, and send back what it returned, or raised and where."""
    function, arguments = line.recv()
    try:
        answer = pickled(True, function(*arguments), "")
    except Exception as error:
        where = traceback.format_exc()
        try:
            answer = pickled(False, error, where)
            pickle.loads(answer)
        except Exception:  # an error that cannot travel
            answer = pickled(False, RuntimeError(short_line(error)), where)
    line.send_bytes(answer)


def pickled(*values: object) -> bytes:
    return bytes(ForkingPickler.dumps(values))


def end_with_parent() -> None:
    """Have the system kill this process when the one that started it is gone, where it can; noticed late otherwise."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)
