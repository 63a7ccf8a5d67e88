"""A lease on a results folder: one launch at a time writes into it, and says so in the file `lease.json` there.

It works alike on local and shared disks and in object stores, which know no locks. A launch that was killed must not
keep its successor out: the lease of a process that is gone from this machine is taken over at once, and that of another
machine when its heartbeat stops, both by the clock of the store: the clocks of two machines may be minutes apart. The
hard case is two launches that find no lease, or an old one, at the same moment: each writes its own, waits, and reads
which of them is there.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sweep.storage.store import ResultsError
from sweep.storage.tables import Results

FILE = "lease.json"
HEARTBEAT = 20.0  # seconds between two signs of life
EXPIRES = 120.0  # seconds without one, until a lease of another machine is taken over: six heartbeats
SETTLE = (0.2, 1.0)  # seconds until a launch reads what it wrote: on a disk, in an object store


class Lease:
    """Between `acquire` and `release` a thread renews it."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.lost = False  # another launch took the folder over, for want of a heartbeat
        self._token = uuid.uuid4().hex
        self._since = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def acquire(self) -> None:
        """Raises ResultsError when another launch holds the folder, OSError when it cannot be written."""
        there = self._read()
        if there is not None and _is_held(self.results, there):
            raise self._refusal(there)
        try:
            self.claim()
            time.sleep(SETTLE[0] if self.results.is_local else SETTLE[1])
            there = self._read()
            if not self._is_mine(there):
                raise self._refusal(there or {})
            self._thread.start()
        except KeyboardInterrupt:
            self.release()
            raise

    def release(self) -> None:
        """Remove the lease, unless it is another's by now."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            if self._is_mine(self._read()):
                self.results.delete(FILE)
        except (OSError, ResultsError):
            return  # a store that cannot be reached: it expires, and nothing that is finished depends on it

    def check(self) -> None:
        """Raise ResultsError when another launch has taken the folder over."""
        if self.lost:
            raise ResultsError(
                f"{self.results.root}: another launch took the folder over, since this one gave no sign of life for "
                f"{EXPIRES:.0f} s; what is finished is kept, and the other launch goes on"
            )

    def _renew(self) -> None:
        while not self._over.wait(HEARTBEAT):
            try:
                if self._is_anothers():
                    self.lost = True
                    return
                self.claim()
            except OSError:
                continue  # the next heartbeat may get through; when none does, the lease expires as it should

    def _read(self) -> dict[str, Any] | None:
        """What the file says. Raises ResultsError when it is no lease: files of ours appear whole."""
        try:
            text = self.results.read_text(FILE)
            found = json.loads(text) if text is not None else None
        except (ValueError, RecursionError):
            found = ()
        if found is None or isinstance(found, dict):
            return found
        raise ResultsError(
            f"--results {self.results.root}: {FILE} there says nothing of who writes; delete it if no launch does, or "
            "choose another folder"
        )

    def _is_anothers(self) -> bool:
        try:
            there = self._read()
        except ResultsError:
            return False  # somebody damaged ours
        return there is not None and not self._is_mine(there)

    def _is_mine(self, lease: Mapping[str, Any] | None) -> bool:
        return lease is not None and lease.get("token") == self._token

    def claim(self) -> None:
        """Write that the folder is ours, with the heartbeat of now."""
        content = {"token": self._token, **_this_process(), "since": self._since, "heartbeat": time.time_ns() / 1e9}
        self.results.write_text(FILE, json.dumps(content, indent=1))

    def _refusal(self, holder: Mapping[str, Any]) -> ResultsError:
        return ResultsError(
            f"--results {self.results.root}: another launch writes there: process {holder.get('pid', '?')} on "
            f"{holder.get('host', '?')}, since {holder.get('since', '?')}; wait until it ends, or choose another "
            f"folder (or delete {FILE} there, if that machine is surely gone)"
        )


def holder(results: Results) -> Mapping[str, Any] | None:
    """What the launch that holds a folder says of itself; None when none does: it ended, or was killed."""
    try:
        found = json.loads(results.read_text(FILE) or "null")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and _is_held(results, found) else None


def _is_held(results: Results, lease: Mapping[str, Any]) -> bool:
    """Whether the launch that wrote this is still there: by its process here, by its last write elsewhere."""
    mine = _this_process()
    if lease.get("machine") == mine["machine"] and isinstance(pid := lease.get("pid"), int):
        return _started(pid) is not None and _started(pid) == lease.get("started")
    written = results.written(FILE)
    return written is not None and _now(results) - written < EXPIRES


def _now(results: Results) -> float:
    """By the clock of the store; by that of this machine where nothing can be written."""
    try:
        return results.now()
    except OSError:
        return time.time()


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "machine": _machine(), "pid": pid, "started": _started(pid)}


def _machine() -> str:
    """Where a process number means the same process: a host since it was booted, or a container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux: no containers either
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process of this machine started, in the system's own words; None when it is gone.

    It tells a process from a later one that was given the same number.
    """
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _started_by_ps(pid)
    return None if state == "Z" else rest[18]  # a zombie has ended; field 22 of proc(5): clock ticks since boot


def _started_by_ps(pid: int) -> str | None:
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return result.stdout.strip() or None
