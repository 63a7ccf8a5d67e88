"""An end that something would hold up for ever comes nevertheless, with the right exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HASTY = """
import atexit, ctypes, functools, os, signal, sys, threading, time
from sweep.runs import bounds, interrupts
interrupts.Deadline = functools.partial(bounds.Deadline, heard=0.2, seconds=SECONDS)

def send():
    os.kill(os.getpid(), signal.SIGTERM)

def launch():
    try:
        with interrupts.interruptible():
            act()
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(130)
"""
DEAF = """
def act():
    mutex = ctypes.create_string_buffer(64)
    lock = ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    threading.Timer(0.2, send).start()
    lock(mutex)  # native code that waits for ever and hears no signal
launch()
"""
SWALLOWS = """
class Destroyed:
    def __del__(self):
        send()
        time.sleep(0.1)  # Python prints the KeyboardInterrupt that comes here, and goes on

def act():
    Destroyed()
    while True:
        time.sleep(0.01)
launch()
"""
CLEANS_UP = """
def act():
    try:
        send()
        time.sleep(10)
    finally:
        with interrupts.undisturbed() as came:
            time.sleep(0.6)
        print(f"{len(came)} more signals")
launch()
"""
HELD = """
lock = threading.Lock()
lock.acquire()
atexit.register(lock.acquire)  # as Ray's end, which waits for a first try of itself
threading.Thread(target=lock.acquire).start()

def end():
    print("said")
    raise SystemExit(CODE)
bounds.bounded_exit(end, seconds=0.3)
"""


def ended(script: str, *, seconds: float = 30.0, code: int = 0) -> subprocess.CompletedProcess[str]:
    text = (HASTY + script).replace("SECONDS", str(seconds)).replace("CODE", str(code))
    return subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )


def test_launch_that_hears_no_signal_is_ended_and_says_where_it_was() -> None:
    found = ended(DEAF, seconds=0.5)
    assert found.returncode == 130, found.stderr
    assert found.stderr.startswith("interrupted, and not ended after 0.5 s (in <string>:")
    assert " act < <string>:" in found.stderr
    assert found.stderr.endswith("the same command goes on\n")


def test_interrupt_that_a_destructor_swallows_is_given_again() -> None:
    found = ended(SWALLOWS)
    assert found.returncode == 130, found.stderr
    assert "Exception ignored in" in found.stderr
    assert found.stdout == "interrupted\n"


def test_launch_that_cleans_up_is_not_signalled_again() -> None:
    found = ended(CLEANS_UP)
    assert found.returncode == 130, found.stderr
    assert found.stdout == "0 more signals\ninterrupted\n"


@pytest.mark.parametrize("code", [0, 130])
def test_exit_waits_for_nothing_for_ever_and_keeps_its_code(code: int) -> None:
    found = ended(HELD, code=code)
    assert found.returncode == code, found.stderr
    assert found.stdout == "said\n"


def test_commands_end_with_their_own_code() -> None:
    for module, arguments, code in (("sweep.launch", ["no_such_study"], 2), ("calibsweep", ["--version"], 0)):
        done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == code, done.stderr
