"""Faults and a short trial for the processes of `benchmarks/soak.py`, which puts this folder on PYTHONPATH.

Python imports this file when it starts, in launches and in Ray's workers alike. A trial's numbers come from its id, and
while a file of that name is in the folder SOAK_FAULTS, the disk is `full`, writing stands `still`, or the `clock` is
elsewhere (the file holds the seconds). Nothing of this is in the product.
"""

from __future__ import annotations

import errno
import importlib.abc
import importlib.machinery
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

FAULTS = Path(os.environ["SOAK_FAULTS"])
RESULTS = os.environ["SOAK_RESULTS"]
SECONDS = 0.15  # of a trial, on average

real_time, real_fsync = time.time, os.fsync


def faulty_time() -> float:
    """The clock of this machine, and what it was stepped by."""
    try:
        return real_time() + float((FAULTS / "clock").read_text() or 0)
    except (OSError, ValueError):
        return real_time()


def faulty_fsync(file: int) -> None:
    """Where a disk says that it is full, after some of the bytes are there."""
    if os.readlink(f"/proc/self/fd/{file}").startswith(RESULTS):
        while (FAULTS / "still").exists():
            time.sleep(0.05)
        if (FAULTS / "full").exists():
            os.ftruncate(file, os.fstat(file).st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    real_fsync(file)


def short_trial(trial: Any, dense: Any, evaluator: Any, calibration: Any, clock: Any) -> Any:
    """Rows that depend on the trial's id and on its calibration tokens, and on nothing else."""
    from sweep.trial import TrialRows, describe

    tokens = calibration.hash if calibration else ""
    rng = random.Random(f"{trial.id} {tokens}")
    with clock("compress"):
        time.sleep(2 * SECONDS * rng.random())
    metrics = [
        {"kind": "task", "task": f"t{number}", "metric": "acc", "value": rng.random(), "n": 50, "accuracy": "acc"}
        for number in range(8)
    ]
    samples = [
        {"task": row["task"], "doc_id": n, "score": float(rng.random() < 0.5)} for row in metrics for n in range(50)
    ]
    layers = [
        {"step": 0, "block": block, "linear": linear, "relative_error": rng.random()}
        for block in range(8)
        for linear in ("q", "k", "v", "o", "gate", "up", "down")
    ]
    row = {**describe(trial), "status": "ok", "weights_hash": f"{rng.getrandbits(64):016x}", "calibration_hash": tokens}
    rows = TrialRows(row, metrics, samples if trial.method else samples[:1], layers if trial.method else [])
    return SimpleNamespace(rows=lambda: rows)


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls `change` with the module `name` when it has been imported."""

    def __init__(self, name: str, change: Callable[[ModuleType], None]) -> None:
        self.name, self.change = name, change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_change(module: ModuleType) -> None:
            run(module)
            self.change(module)

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


def shorten(module: ModuleType) -> None:
    module.run_trial = short_trial  # type: ignore[attr-defined]


def pack_early(module: ModuleType) -> None:
    module.PACK_AT = 30  # type: ignore[attr-defined]


time.time, os.fsync = faulty_time, faulty_fsync
sys.meta_path.insert(0, AfterImport("sweep.trial", shorten))
sys.meta_path.insert(0, AfterImport("sweep.runs.packing", pack_early))
