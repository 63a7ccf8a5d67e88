"""Packing while a sweep runs: once some hundreds of trials have files of their own, a thread of the driver packs them.

Opening four small files a trial is most of what reading a study costs, and who reads a study has rarely been told to
pack it. Readers that listed the own files before are not disturbed: those stay for some minutes after they were packed.
The hard case is the end: GPUs are given back before the rest is packed, and an interrupted launch leaves it to the
next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import polars as pl

from sweep.results import Results, ResultsError
from sweep.storage.compact import compact
from sweep.storage.packs import is_packed

PACK_AT = 250  # trials with files of their own; as many are read in a second
KEEP_SECONDS = 600.0  # a report reads for minutes what it has listed


class Packer:
    """Counts trials that have ended and packs when there are `pack_at`. `check` raises when the lease is lost."""

    def __init__(
        self, results: Results, check: Callable[[], None], notify: Callable[[str], None], pack_at: int
    ) -> None:
        self.results = results  # its own, since a thread uses it
        self.pack_at = pack_at
        self._check = check
        self._notify = notify
        # Not a condition: a signal that interrupts its owner as it takes the lock would leave it taken for ever.
        self._told = SimpleQueue[int]()  # trials that have ended
        self._loose = 0  # trials that have files of their own and were not looked at; the thread's own
        self._packed = False  # something in this folder is
        self._over: bool | None = None  # True: pack the rest; False: stop as soon as can be
        self._thread = threading.Thread(target=self._run, name="packing")

    def start(self) -> None:
        self._thread.start()

    def finished(self) -> None:
        """A trial has ended and has its row."""
        self._told.put(1)

    def close(self, *, rest: bool) -> None:
        """End the thread; with `rest` after it has packed what is left, where there is much or anything was packed."""
        self._over = rest
        self._told.put(0)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._count()
            while self._wait():
                self._pack()
        except _Stopped:
            return
        except (OSError, ValueError, ResultsError, pl.exceptions.PolarsError) as error:
            reason = " ".join(str(error).split())
            self._notify(f"files are not packed any more ({reason}); `python -m sweep.results compact` does it later")

    def _count(self) -> None:
        paths = self.results.files("trials")
        self._packed = any(is_packed(path) for path in paths)
        self._loose += sum(not is_packed(path) for path in paths)

    def _wait(self) -> bool:
        """Until there is something to pack (True), or nothing any more."""
        while self._over is None and self._loose < self.pack_at:
            self._loose += self._told.get()
        while not self._told.empty():
            self._loose += self._told.get()
        if self._over is False:
            return False
        return self._loose >= self.pack_at or (self._packed and self._loose > 0)

    def _pack(self) -> None:
        self._loose = 0
        compact(self.results, self._still_ours, keep_seconds=KEEP_SECONDS)
        self._packed = True

    def _still_ours(self) -> None:
        if self._over is False:
            raise _Stopped
        self._check()


class _Stopped(Exception):
    """The launch has ended, and what is not packed stays as it is."""


@contextmanager
def packing(results: Results, check: Callable[[], None], notify: Callable[[str], None]) -> Iterator[Packer]:
    """Pack beside what is done here, and the rest when that has ended without an exception."""
    packer = Packer(results, check, notify, PACK_AT)
    packer.start()
    try:
        yield packer
        packer.close(rest=True)
    finally:
        packer.close(rest=False)
