"""A launch that is killed still has its last word; one that ends by itself has said it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sweep.runs.lastword import last_word

HELD = """
import sys, time
from sweep.runs.lastword import last_word
with last_word("the launch is gone") as number:
    print(number, flush=True)
    sys.stdin.readline()
"""


def started() -> tuple[subprocess.Popen[str], int]:
    """A process that waits for a line, and the number of the one that waits for its end."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", HELD], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_killed_process_has_its_last_word_said() -> None:
    process, _ = started()
    process.kill()
    assert process.communicate()[1] == "the launch is gone\n"


def test_a_process_that_ends_by_itself_is_not_spoken_for() -> None:
    process, _ = started()
    assert process.communicate("\n")[1] == ""
    assert process.returncode == 0


def test_signals_that_are_meant_for_the_launch_do_not_end_who_waits() -> None:
    process, number = started()
    ending = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    while not ending <= ignored_by(number):
        time.sleep(0.01)
    for one in ending:
        os.kill(number, one)
    process.kill()
    assert process.communicate()[1] == "the launch is gone\n"


def ignored_by(number: int) -> set[int]:
    """Signals that a process ignores."""
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))
    return {one for one in range(1, 64) if mask >> (one - 1) & 1}


def test_who_waits_may_be_killed() -> None:
    with last_word("the launch is gone") as number:
        os.kill(number, signal.SIGKILL)
