"""Weights that a worker will need next, brought into the system's page cache while its device is at work.

The page cache is what all workers of a machine load from, so the one that reads a model's files first does it for all.
Of a hub model they are downloaded. The hard case is a model that memory cannot hold beside the present one: reading it
would drive out what is in use, so it is left on the disk.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from sweep.checkpoints.tensors import checkpoint_files
from sweep.models import ModelRef, at_commit, hub_commit
from sweep.weights.memory import host_memory
from sweep.weights.streaming import local_folder

PIECE = 1 << 20  # bytes: of a whole file, asked for at once, the system read 2 %


def read_ahead(ref: ModelRef) -> int:
    """Have the system read a model's files; returns the bytes that it was asked for. Raises what loading raises."""
    folder = local_folder(at_commit(ref, hub_commit(ref)))
    files = checkpoint_files(folder) if folder else []
    size = sum(file.stat().st_size for file in files)
    if size > host_memory() // 2:
        return 0
    for file in files:
        with file.open("rb") as opened:
            for start in range(0, file.stat().st_size, PIECE):
                os.posix_fadvise(opened.fileno(), start, PIECE, os.POSIX_FADV_WILLNEED)
    return size


def begin_reading(ref: ModelRef) -> threading.Thread:
    """`read_ahead` in a thread; what goes wrong is met again, and told, when the model is loaded."""

    def read() -> None:
        with suppress(Exception):
            read_ahead(ref)

    thread = threading.Thread(target=read, name="read ahead", daemon=True)
    thread.start()
    return thread
