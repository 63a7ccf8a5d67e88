"""How to reach Ray: what it is started with, whether it answers, and what to do when it does not.

Plain sockets ask whether it answers, since Ray itself would try for minutes.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from calib.settings import SettingsError
from sweep.runs.runner import RunnerError, RunOptions

T = TypeVar("T")

LOOPBACK = "127.0.0.1"

HEAD_SECONDS = 30.0  # a head may leave a question, and a cluster's a knock, unanswered so long; Ray ends us after 60
LOCAL_HEAD_SECONDS = 3.0  # of a Ray that was started here, which nobody starts again
STARTS = 2  # a slow machine may need more than Ray's half minute to start it once, rarely twice
ENVIRONMENT = {  # unless it is set otherwise; Ray reads some of it when it is imported
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # keep CUDA_VISIBLE_DEVICES in CPU tasks as it is
    "RAY_USAGE_STATS_ENABLED": "0",
}
ENVIRONMENT_HERE = {  # of a Ray that is started here
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # all ports: loopback
    "RAY_prestart_worker_first_driver": "0",  # or a launch waits for a process of each core, most of them for nothing
}
TEMPORARY = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # where Ray puts its folder
LOGS = Path(TEMPORARY, "ray", "session_latest", "logs")  # of a Ray that was started here


def set_environment(options: RunOptions) -> None:
    """What Ray reads of the environment, for this process and those that it starts."""
    for name, value in {**ENVIRONMENT, **({} if options.address else ENVIRONMENT_HERE)}.items():
        os.environ.setdefault(name, value)
    if not options.address:  # what it says of tokens is for clusters that others can reach
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


def arguments(options: RunOptions) -> dict[str, Any]:
    """Of `ray.init`: connect to a cluster, or start Ray here; quietly."""
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
    if options.address:
        return {"address": options.address, **quiet}
    cpus = max(options.workers or 1, os.cpu_count() or 1)
    here = {"address": "local", "num_cpus": cpus, **quiet}
    if options.dashboard is None:
        return {**here, "include_dashboard": False}
    return {**here, "include_dashboard": True, "dashboard_host": LOOPBACK, "dashboard_port": options.dashboard}


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.create_server((LOOPBACK, 0)) as server:
        return int(server.getsockname()[1])


def dashboard_line(port: int) -> str:
    """Where to look. Ray asks for its token, since who can use the dashboard can run code."""
    return f"Ray's dashboard: http://{LOOPBACK}:{port} while it runs; it asks for the token of `ray get-auth-token`"


def establish(options: RunOptions, start: Callable[[], object], end: Callable[[], object]) -> None:
    """Connect by `start`; after a failure `end` clears up. Raises SettingsError with what to do instead."""
    for number in range(1, STARTS + 1):
        try:
            if options.address:
                knock(options.address)
            start()
            return
        except Exception as error:  # Ray raises a bare one when its processes take too long to start
            end()
            if options.address or number == STARTS:
                raise SettingsError(hint(options.address, error, STARTS)) from None


def knock(address: str) -> None:
    """Raise OSError when nobody listens at host:port (an address of another form is taken to answer)."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=10).close()


def answers(head: str, seconds: float) -> bool:
    """Whether somebody listens at host:port, asked again and again for so long."""
    since = time.monotonic()
    while True:
        try:
            knock(head)
            return True
        except OSError:
            if time.monotonic() - since > seconds:
                return False
        time.sleep(1)


def within(question: Callable[[], T], seconds: float = HEAD_SECONDS) -> T:
    """What the head answers. Raises RunnerError when it does not: Ray would wait for ever, and hear no signal.

    Raises what `question` raises.
    """
    answer = SimpleQueue[tuple[T | None, Exception | None]]()

    def ask() -> None:
        try:
            answer.put((question(), None))
        except Exception as error:
            answer.put((None, error))

    threading.Thread(target=ask, name="question", daemon=True).start()
    try:
        found, error = answer.get(timeout=seconds)
    except Empty:
        raise RunnerError(f"the head of Ray has not answered for {seconds:.0f} s") from None
    if error is not None:
        raise error
    return found  # type: ignore[return-value]


def wait_until(there: Callable[[], bool], seconds: float) -> None:
    """Ask every few seconds whether something is there, for so long."""
    deadline = time.monotonic() + seconds
    while not there() and time.monotonic() < deadline:
        time.sleep(5)


def patience(address: str | None) -> float:
    """Seconds that a head may not answer."""
    return HEAD_SECONDS if address else LOCAL_HEAD_SECONDS


def gone(address: str | None, head: str | None, has_nodes: Callable[[], bool]) -> str | None:
    """What of a cluster is gone; None when it is there. `has_nodes` is asked where the head answers."""
    if head and not answers(head, patience(address)):
        what = f"the head of Ray at {head} is gone"
    elif not has_nodes():
        what = "no node of Ray is alive any more"
    else:
        return None
    return what if address else f"{what} (killed, or out of memory? Its logs are in {LOGS})"


def hint(address: str | None, error: Exception, starts: int) -> str:
    """What to do when Ray cannot be reached, or started here (which was tried so often)."""
    reason = " ".join(str(error).split())[:400]
    if "auth" in reason.lower() or "token" in reason.lower():
        return (
            f"--address {address}: the cluster asks for a token ({reason}); set RAY_AUTH_MODE=token and copy the "
            "cluster's ~/.ray/auth_token here, or set RAY_AUTH_TOKEN"
        )
    if address:
        return (
            f"--address {address}: no Ray cluster answers ({reason}); start one with `ray start --head`, "
            "or leave --address out"
        )
    return f"Ray cannot be started here, tried {starts} times ({reason}); --local runs the same study without it"
