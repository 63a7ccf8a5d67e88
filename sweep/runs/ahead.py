"""What workers will import, read into memory while Ray starts.

Workers and tasks load torch, transformers and lm-eval, a few GB on a machine that has just been started, and Ray's own
start is mostly waiting. A process that imports the same and ends has the system read these files meanwhile. It costs
4 s of a core, so machines with few cores do without.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sweep.runs.runner import RunOptions

CORES = 8  # beside Ray's own processes, which take two or three while it starts
MODULES = ("torch", "transformers.modeling_utils", "transformers.models.llama.modeling_llama", "lm_eval.tasks")


@contextmanager
def imported_ahead(options: RunOptions, modules: tuple[str, ...] = MODULES, cores: int | None = None) -> Iterator[bool]:
    """Import modules in a process of its own while open, where workers start here. Yields whether that is so.

    `cores` of this machine, counted when None.
    """
    if options.local or options.address or (cores or os.cpu_count() or 1) < CORES:
        yield False
        return
    nowhere = subprocess.DEVNULL
    command = [sys.executable, "-c", f"import {', '.join(modules)}"]
    process = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere)
    try:
        yield True
    finally:
        process.kill()
        process.wait()
