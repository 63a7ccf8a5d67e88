"""Doing something again while a store cannot be reached: an object store that is down, stalls, or asks to slow down.

A trial costs minutes of a GPU and its rows a few kilobytes, so a minute without the store must not cost the trial. The
hard case is telling an absence from an answer: a missing bucket or a refused key will not come back by waiting.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds; doubled from one try to the next
WRITE_PATIENCE = 1800.0  # seconds that a computed trial waits for the store
ANSWERS = re.compile(
    r"ACCESS_DENIED|NO_SUCH_|RESOURCE_NOT_FOUND|NOT_FOUND|INVALID_|SIGNATURE_|UNRECOGNIZED_CLIENT|TOKEN|MISSING_AUTH"
    r"|HTTP status (400|401|403|404|405|409)|does not exist|Bucket .* not found",
    re.IGNORECASE,
)

log = logging.getLogger(__name__)


def may_come_back(error: OSError) -> bool:
    """Whether waiting can help: False for what the store has answered (no such bucket, no right to it)."""
    answered = isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError)
    return not answered and not ANSWERS.search(str(error))


def patiently(action: Callable[[], T], seconds: float, what: str) -> T:
    """What `action` returns; it is tried again with growing pauses for `seconds` while the store is away.

    Raises the last OSError. `what` names the action in the log (`writing trials/1f.parquet`).
    """
    deadline, pause = time.monotonic() + seconds, FIRST_PAUSE
    while True:
        try:
            return action()
        except OSError as error:
            left = deadline - time.monotonic()
            if left <= 0 or not may_come_back(error):
                raise
            reason = " ".join(str(error).split())[:200]
            log.warning("%s: the store cannot be reached (%s); tried again for %.0f s more", what, reason, left)
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)
