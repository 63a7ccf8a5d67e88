"""One launch at a time in a results folder, and no waiting for one that was killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.results import Results, ResultsError
from sweep.storage import lease as module
from sweep.storage.lease import EXPIRES, FILE, Lease

TAKE = (
    "import sys; from sweep.storage.lease import Lease; from sweep.results import Results; "
    "Lease(Results(sys.argv[1])).acquire()"
)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "r")


def read(results: Results) -> dict[str, Any]:
    return dict(json.loads(results.read_text(FILE) or "{}"))


def change(results: Results, **values: Any) -> None:
    results.write_text(FILE, json.dumps({**read(results), **values}))


def leave_behind(results: Results, *more: str) -> int:
    """A lease of a process that ended without releasing it; returns the process's number."""
    process = subprocess.Popen([sys.executable, "-c", "; ".join([TAKE, *more]), results.path], cwd=Path.cwd())
    process.wait()
    return process.pid


def test_second_launch_is_refused_and_told_who_writes(
    launch: Callable[..., Any], write_study: Any, document: dict[str, Any]
) -> None:
    document["methods"] = ["rtn"]
    study = write_study(document)
    first = Lease(Results("results/tiny"))
    first.acquire()
    result = launch(study, "--local")
    assert result.exit_code == 2
    message = f"error: --results results/tiny: another launch writes there: process {os.getpid()} on "
    assert result.stderr.startswith(message)
    assert read(first.results)["since"] in result.stderr
    assert not Path("results/tiny/trials").exists()
    assert launch(study, "--dry-run").exit_code == 0
    first.release()
    result = launch(study, "--local")
    assert result.exit_code == 0, result.output
    assert Results("results/tiny").read_text(FILE) is None


def test_lease_of_a_process_that_is_gone_is_taken_over_at_once(results: Results) -> None:
    gone = leave_behind(results)
    assert read(results)["pid"] == gone
    lease = Lease(results)
    lease.acquire()
    assert read(results)["pid"] == os.getpid()
    lease.release()
    assert results.read_text(FILE) is None


def test_process_that_ended_and_was_not_waited_for_is_gone(results: Results) -> None:
    process = subprocess.Popen([sys.executable, "-c", TAKE, results.path], cwd=Path.cwd())
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.05)
    assert read(results)["pid"] == process.pid
    Lease(results).acquire()
    process.wait()


def test_number_of_a_later_process_is_not_mistaken(results: Results) -> None:
    leave_behind(results)
    change(results, pid=os.getpid())  # which did not start when the lease's process did
    Lease(results).acquire()


def age(results: Results, seconds: float) -> None:
    """Date the lease back by the store's clock, here the disk's."""
    now = time.time()
    os.utime(Path(results.path) / FILE, (now - seconds, now - seconds))


def test_lease_of_another_machine_counts_until_its_heartbeat_stops(results: Results) -> None:
    leave_behind(results)
    change(results, machine="elsewhere", host="elsewhere")
    age(results, 0)
    refusal = r"process \d+ on elsewhere, since 20\d\d-.* UTC; wait until it ends, .*delete lease.json there"
    with pytest.raises(ResultsError, match=refusal):
        Lease(results).acquire()
    age(results, EXPIRES + 1)
    Lease(results).acquire()
    assert read(results)["pid"] == os.getpid()


@pytest.mark.parametrize("minutes", [-300, -5, 5, 300])
def test_clock_of_the_other_machine_does_not_matter(results: Results, minutes: float) -> None:
    leave_behind(results)
    change(results, machine="elsewhere", heartbeat=time.time() + minutes * 60)
    with pytest.raises(ResultsError, match="another launch writes there"):
        Lease(results).acquire()
    age(results, EXPIRES + 1)
    Lease(results).acquire()
    assert not list(Path(results.path).glob(".clock*"))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1]", b"{", b"", b"[" * 100_000])
def test_file_that_is_no_lease_is_named(results: Results, content: bytes) -> None:
    Path(results.path).mkdir()
    (Path(results.path) / FILE).write_bytes(content)
    with pytest.raises(ResultsError, match=r"lease.json there says nothing of who writes; delete it"):
        Lease(results).acquire()


def test_interrupted_launch_leaves_no_lease(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_seconds: float) -> None:
        assert (Path(results.path) / FILE).exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("sweep.storage.lease.time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Lease(results).acquire()
    assert not (Path(results.path) / FILE).exists()


def test_of_several_at_the_same_moment_one_gets_it(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """All have seen nobody before the first of them writes, and all have written before the first reads."""
    seen, written, got = threading.Barrier(6), threading.Barrier(6), []
    write = Lease.claim

    def write_together(lease: Lease) -> None:
        seen.wait()
        write(lease)
        written.wait()

    monkeypatch.setattr(Lease, "claim", write_together)
    monkeypatch.setattr(module, "SETTLE", (0.0, 0.0))
    monkeypatch.setattr(module, "HEARTBEAT", 1e6)

    def take() -> None:
        lease = Lease(results)
        try:
            lease.acquire()
        except ResultsError:
            return
        got.append(lease)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    got[0].release()


def test_heartbeat_goes_on_while_it_is_held_and_outlives_an_error(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 0.01)
    write, failed = results.write_text, []

    def write_or_fail(name: str, text: str) -> None:
        if len(failed) < 3 and results.read_text(FILE) is not None:
            failed.append(1)
            raise OSError("no network")
        write(name, text)

    monkeypatch.setattr(results, "write_text", write_or_fail)
    lease = Lease(results)
    lease.acquire()
    first = read(results)
    while read(results)["heartbeat"] == first["heartbeat"]:
        time.sleep(0.01)
    assert len(failed) == 3
    lease.check()
    lease.release()


def test_launch_that_lost_its_lease_stops_and_leaves_the_other_one(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 0.01)
    lease = Lease(results)
    lease.acquire()
    with pytest.raises(ResultsError, match="another launch took the folder over"):
        while True:  # a heartbeat that is being written may come after the other launch's
            results.write_text(FILE, json.dumps({"token": "other"}))
            time.sleep(0.02)
            lease.check()
    lease.release()
    assert read(results) == {"token": "other"}
