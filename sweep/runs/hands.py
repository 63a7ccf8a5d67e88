"""Runs what prepares a study in processes of this machine, forked from one that has imported what they need most.

They are at work while Ray starts, which takes as long as these imports (`nursery.py`), and end when nothing is left to
do. Each thread of a pool here has a process there while it runs a function. What that returns is put where workers can
fetch it, as soon as there is such a place: until then, and for no longer, it is kept here, unless it is small. The hard
case is a process that dies, out of memory perhaps: its function is run again by another, twice.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, cast

from calib.settings import one_line
from sweep.runs.nursery import IMPORTS
from sweep.runs.runner import RunnerError

TRIES = 3  # of a function whose process dies
SMALL = 100_000  # bytes that are sent with a call, as Ray does with what its tasks return
TOLD = 2000  # bytes at the end of what the processes say
MOMENT = 0.05  # seconds between two looks at promises, where other things are waited for as well
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}  # as Ray gives its tasks: sums of more threads may differ in their last bits
START = """
import sys
number, imports, *sys.path = sys.argv[1:]
from sweep.runs.nursery import main
main(int(number), imports.split())
"""


@dataclass(frozen=True)
class Small:
    """A value that is sent as it is: Ray ends a launch whose node has lost its store, where that held something."""

    value: Any


@dataclass(frozen=True, eq=False)
class Promise:
    """One of the values that a function will return in another process."""

    values: Future[list[Any]]
    number: int

    @property
    def there(self) -> bool:
        """Whether it has been kept, or cannot be."""
        return self.values.done()

    def reference(self) -> Any:
        """Ray's reference to the value, or the `Small` value. Waits for it, and raises what the function raised."""
        return self.values.result()[self.number]


def shared(reference: Any) -> Any:
    """The reference, or the `Small` value, that a promise stands for; any other reference as it is."""
    return reference.reference() if isinstance(reference, Promise) else reference


def argument(given: Any) -> Any:
    """What a call of Ray is given in place of a promise: the reference, which Ray fetches, or the small value."""
    found = shared(given)
    return found.value if isinstance(found, Small) else found


def fetched(found: Any, get: Callable[[Any], Any]) -> Any:
    """The value behind what is `shared`, of a reference by `get`."""
    return found.value if isinstance(found, Small) else get(found)


class Elsewhere(RuntimeError):
    """The traceback of an error in another process."""


class Hands:
    """As many processes at a time as `count`. `store` has Ray's `put`, which returns a reference, and `get`."""

    def __init__(self, count: int, store: Any, imports: Sequence[str] = IMPORTS) -> None:
        self._store = store
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # what these processes say, told of those that die
        self._home = tempfile.TemporaryDirectory()  # of their files: killed, they remove none themselves
        self._control, others = socket.socketpair()
        with others:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, str(others.fileno()), " ".join(imports), *sys.path],
                env={**ENVIRONMENT, **os.environ, "TMPDIR": self._home.name},
                pass_fds=[others.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                start_new_session=True,  # signals of the terminal are for the launch
            )
        self._threads = ThreadPoolExecutor(count, "hand")
        self._idle: deque[Connection] = deque()  # lines to processes that wait for a function
        self._outstanding, self._counting = 0, threading.Lock()  # promises that are neither kept nor broken
        self._sharing = threading.Event()
        self._closed = False

    def task(self, function: Callable[..., Any], arguments: Sequence[Any], returns: int) -> list[Promise]:
        """Begin a function that returns so many values. Arguments may be promises of earlier ones."""
        values: Future[list[Any]] = Future()
        with self._counting:
            self._outstanding += 1
        values.add_done_callback(self._rest)
        awaited = list(dict.fromkeys(one.values for one in arguments if isinstance(one, Promise)))
        _after(awaited, lambda: self._begin(values, function, arguments, returns))
        return [Promise(values, number) for number in range(returns)]

    def share_from_now(self) -> None:
        """There is a place for what functions return."""
        self._sharing.set()

    def close(self) -> None:
        """End all processes; what was promised is not kept."""
        self._closed = True
        self._control.close()
        self._sharing.set()
        with suppress(ProcessLookupError, PermissionError):  # some systems refuse where all of a group have ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._threads.shutdown(cancel_futures=True)  # when those that were at work are gone, and write no more
        self._home.cleanup()
        self._said.close()

    def _rest(self, _: Future[list[Any]]) -> None:
        """Let the processes end when nothing is left to do: each holds torch, lm-eval and what these keep."""
        with self._counting:
            self._outstanding -= 1
            while self._idle and not self._outstanding:
                self._idle.pop().close()

    def _begin(
        self, values: Future[list[Any]], function: Callable[..., Any], arguments: Sequence[Any], returns: int
    ) -> None:
        if self._closed:  # perhaps told by the pool while it shuts down, which lets nobody submit then
            values.set_exception(_ended())
            return
        try:
            run = self._threads.submit(self._run, function, arguments, returns)
        except RuntimeError:  # of a pool that was shut down meanwhile
            values.set_exception(_ended())
        else:
            run.add_done_callback(partial(_hand_on, values))

    def _run(self, function: Callable[..., Any], arguments: Sequence[Any], returns: int) -> list[Any]:
        given = [fetched(shared(one), self._get) if isinstance(one, Promise) else one for one in arguments]
        made = self._made(function, given)
        self._sharing.wait()
        if self._closed:
            raise _ended()
        return [self._kept(value) for value in (made if returns > 1 else [made])]

    def _get(self, reference: Any) -> Any:
        return self._store.get(reference)  # not before a reference is there: looking for `get` imports Ray

    def _kept(self, value: Any) -> Any:
        return Small(value) if len(ForkingPickler.dumps(value)) <= SMALL else self._store.put(value)

    def _made(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        for _ in range(TRIES):
            try:
                worked, made, where = self._call(function, arguments)
            except (EOFError, OSError):  # the process died, or this side was closed
                continue
            if worked:
                return made
            raise made from Elsewhere(where)
        raise RunnerError(
            f"calibration sets and requests could not be made: a process died {TRIES} times{self._last_words()}"
        )

    def _call(self, function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[bool, Any, str]:
        """Whether a function worked; what it returned, or the error; and the traceback of that."""
        try:
            line = self._idle.pop()
        except IndexError:
            line = self._forked()
        line.send((function, arguments))
        answer = cast("tuple[bool, Any, str]", pickle.loads(line.recv_bytes()))
        self._idle.append(line)  # it is known to have lived
        return answer

    def _forked(self) -> Connection:
        """The line to a new process."""
        mine, others = socket.socketpair()
        with mine, others:
            socket.send_fds(self._control, [b"f"], [others.fileno()])
            return Connection(mine.detach())

    def _last_words(self) -> str:
        size = os.fstat(self._said.fileno()).st_size
        said = os.pread(self._said.fileno(), TOLD, max(0, size - TOLD)).decode(errors="replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "")
        return f": {one_line(last)}" if last else " (out of memory?)"


def _after(futures: Sequence[Future[Any]], then: Callable[[], None]) -> None:
    """Call when all have ended, in the thread that ends the last: who waited would be a hand that does nothing."""
    if futures:
        futures[0].add_done_callback(lambda _: _after(futures[1:], then))
    else:
        then()


def _hand_on(values: Future[list[Any]], run: Future[list[Any]]) -> None:
    if run.cancelled():
        values.set_exception(_ended())
    elif error := run.exception():
        values.set_exception(error)
    else:
        values.set_result(run.result())


def _ended() -> RunnerError:
    return RunnerError("the launch has ended")


def hands_here(store: Any) -> Hands | None:
    """As many as this process may use CPUs; None where a fork may not live: macOS, whose libraries start threads."""
    return Hands(len(os.sched_getaffinity(0)), store) if sys.platform == "linux" else None


def first_there(
    references: Sequence[Any], seconds: float, wait: Callable[..., tuple[list[Any], list[Any]]]
) -> list[Any]:
    """One of these that is there, or none after so long. `wait` is Ray's, for those that are no promises."""
    until = time.monotonic() + seconds
    promises = [reference for reference in references if isinstance(reference, Promise)]
    others = [reference for reference in references if not isinstance(reference, Promise)]
    while True:
        if there := [promise for promise in promises if promise.there]:
            return there[:1]
        left = max(0.0, until - time.monotonic())
        if others and (found := wait(others, num_returns=1, timeout=min(left, MOMENT) if promises else left)[0]):
            return found
        if not others and promises:
            wait_for({promise.values for promise in promises}, left, FIRST_COMPLETED)
        if not promises or not left:
            return []
