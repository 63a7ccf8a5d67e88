"""Modules that are imported ahead, in a process that does not outlive its use."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from sweep.runs.ahead import CORES, MODULES, imported_ahead
from sweep.runs.runner import RunOptions


def test_modules_are_imported_beside_and_the_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "imported"
    (tmp_path / "slow_module.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with imported_ahead(RunOptions(), ("slow_module",), CORES) as begun:
        assert begun
        while not (mark.exists() and mark.read_text()):
            time.sleep(0.01)
    assert not Path("/proc", mark.read_text()).exists()
    assert "slow_module" not in sys.modules


@pytest.mark.parametrize("options", [RunOptions(local=True), RunOptions(address="auto")])
def test_nothing_is_imported_where_no_worker_starts(options: RunOptions) -> None:
    with imported_ahead(options, ("no_such_module",), CORES) as begun:
        assert not begun


def test_machines_with_few_cores_do_without() -> None:
    with imported_ahead(RunOptions(), cores=CORES - 1) as begun:
        assert not begun


def test_what_is_imported_ahead_exists() -> None:
    from importlib.util import find_spec

    assert all(find_spec(name) for name in MODULES if name != MODULES[2])
