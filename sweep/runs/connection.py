"""Whether a cluster answers, and what to do when it does not. Plain sockets: Ray itself would try for minutes."""

from __future__ import annotations

import socket
import time
from pathlib import Path

HEAD_SECONDS = 30.0  # a cluster's head may not answer for so long; Ray ends this process after 60
LOCAL_HEAD_SECONDS = 3.0  # of a Ray that was started here, which nobody starts again
LOGS = Path("/tmp/ray/session_latest/logs")  # of a Ray that was started here


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


def where_logs_are(address: str | None) -> str:
    """The end of a sentence that says what has died."""
    return "" if address else f" (killed, or out of memory? Its logs are in {LOGS})"


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
